"""One request and its response, as libcurl delivers it: what is read of it and how it is judged.

Time and size limits apply to every single request. A body is read only if it can be used: not after an error, an
opt-out or a declared length beyond the limit. An HTTP/1 connection is kept open only if the response declared where it
ends; aborting a response closes the connection.
"""

import socket
import time
from enum import Enum, auto
from typing import Any

import pycurl

from tinygptv.data.fetch.guard import FetchError, Origin, failure_of_status, opted_out, retry_after_seconds
from tinygptv.data.fetch.native.content_coding import decode, is_coded
from tinygptv.data.fetch.native.response import NOT_MODIFIED, REDIRECTS, Answer, Head
from tinygptv.definitions.source import Download

_MAX_SKIPPED_BYTES = 64 << 10
"""Largest error page or redirect body worth reading to keep the connection: that is cheaper than a new one."""

_PICTURE_STATUS = frozenset({200, 203})
_REQUEST_TIMEOUT = 408
_ABORT = -1

_WEIRD_REPLY = 8
_TLS_ERRORS = frozenset({35, 51, 53, 54, 58, 59, 60, 64, 66, 77, 80, 82, 83, 90, 91, 98})
_FAILURES = {
    pycurl.E_URL_MALFORMAT: "bad_url",
    pycurl.E_COULDNT_RESOLVE_HOST: "dns",
    pycurl.E_COULDNT_CONNECT: "connect",
    pycurl.E_GOT_NOTHING: "connect",
    pycurl.E_SEND_ERROR: "connect",
    pycurl.E_RECV_ERROR: "connect",
    pycurl.E_OPERATION_TIMEDOUT: "timeout",
    pycurl.E_PARTIAL_FILE: "truncated",
}
"""libcurl error → failure. TLS has a set of its own above; everything else counts as `protocol`."""


class Repeat(Enum):
    """Why a request should be repeated once."""

    ON_A_FRESH_CONNECTION = auto()
    """A reused connection may have delivered a stray answer, or one meant for the request before."""
    UNTIL_IT_CLOSES = auto()
    """The declared length is not a number: read until the server closes the connection, as browsers do."""


class Exchange:
    """One request and its response; `owner` is opaque data for the caller.

    `outcome` is set when the exchange ends: the answer, or why there is none. `repeat` then says whether the request
    should be repeated at once, without counting as a retry: see `Repeat`.
    """

    def __init__(
        self,
        url: str,
        addresses: tuple[str, ...],
        origin: Origin,
        headers: list[str],
        limits: Download,
        owner: Any = None,
        *,
        max_bytes: int,
        agent_token: str | None,
        is_cut: bool = False,
        is_conditional: bool = False,
        repeat: "Repeat | None" = None,
    ) -> None:
        self.url, self.addresses, self.origin, self.headers = url, addresses, origin, headers
        self.limits, self.owner, self.is_repeat_of = limits, owner, repeat
        self._max_bytes, self._agent_token, self._is_cut = max_bytes, agent_token, is_cut
        self._is_conditional = is_conditional
        self.outcome: Answer | FetchError | None = None
        self.repeat: Repeat | None = None
        self.connected_to: str | None = None
        self._head = Head()
        self._body: list[bytes] = []
        self._verdict: Answer | FetchError | None = None
        self._is_skipping = False
        self._size = self._received = 0
        self._counted_length: int | None = None
        self._begun = self._last_received = time.monotonic()

    # Callbacks of libcurl, called within `Wire.step`.

    def open_socket(self, _purpose: int, address: Any) -> Any:
        """A socket for a checked address; refused for any other."""
        family, kind, protocol, place = address
        if place[0] not in self.addresses:
            return pycurl.SOCKET_BAD
        return socket.socket(family, kind, protocol)

    def on_header(self, line: bytes) -> int | None:
        """One line of the head, or of the trailers after the body."""
        self._count_received(len(line))
        if self._head.is_complete and line[:5].upper() != b"HTTP/":
            return None
        if not self._head.add(line):
            return None
        return self._judge_head()

    def on_body(self, piece: bytes) -> int | None:
        """A piece of the body."""
        self._count_received(len(piece))
        self._size += len(piece)
        if self._is_skipping:
            return None if self._size <= _MAX_SKIPPED_BYTES else _ABORT
        self._body.append(piece)
        if self._counted_length is not None and self._size >= self._counted_length:
            self._body = [b"".join(self._body)[: self._counted_length]]
            self._verdict = self._answer()
            return _ABORT
        if self._size <= self._max_bytes:
            return None
        cut = self._is_cut and not is_coded(self._head.fields)
        self._verdict = self._answer() if cut else FetchError("too_large", self._head.status)
        return _ABORT

    # Called by the wire.

    def overdue(self, now: float) -> FetchError | None:
        """The time or speed limit that is exceeded by now, if any."""
        limits, seconds = self.limits, now - self._begun
        if seconds > limits.deadline_seconds:
            return FetchError("slow")
        if now - self._last_received > limits.timeout_seconds:
            is_trickled_head = self._received and not self._head.is_complete
            return FetchError("slow" if is_trickled_head else "timeout")
        if seconds > limits.timeout_seconds and 0 < self._received < seconds * limits.min_bytes_per_second:
            return FetchError("slow")
        return None

    @property
    def is_multiplexed(self) -> bool:
        """Whether several exchanges share the connection (HTTP/2)."""
        return self._head.version.startswith("2")

    def finish(self, error: int | None, message: str, is_reused: bool, overdue: FetchError | None) -> None:
        """Set the outcome from libcurl's error or from the exceeded limit; both are None after a success."""
        if self._verdict is not None or overdue is not None:
            self.outcome = self._verdict or overdue
        elif error is None:
            self.outcome = self._whole()
        else:
            self.outcome = self._failed(error, message)
        if self.is_repeat_of is None:
            self.repeat = self._reason_to_repeat(error, message, is_reused)
        self._body = []

    def _reason_to_repeat(self, error: int | None, message: str, is_reused: bool) -> "Repeat | None":
        if not isinstance(self.outcome, FetchError):
            return None
        is_timeout = self.outcome.status == _REQUEST_TIMEOUT
        if is_reused and (is_timeout or self.outcome.failure in ("protocol", "connect")):
            return Repeat.ON_A_FRESH_CONNECTION
        lengths = set(self._head.fields.items_of("Content-Length"))
        if error == _WEIRD_REPLY and "content-length" in message.lower() and len(lengths) < 2:
            return Repeat.UNTIL_IT_CLOSES
        return None

    def _count_received(self, count: int) -> None:
        self._last_received = time.monotonic()
        self._received += count

    def _judge_head(self) -> int | None:
        """Decide what to do about the body, now that the head is complete."""
        head = self._head
        if head.is_interim:
            self._head = Head()
            return None
        failure = self._refusal()
        if failure is not None:
            self._verdict = FetchError(failure, head.status, retry_after_seconds(head.fields))
        elif head.status not in _PICTURE_STATUS:
            self._verdict = Answer(head.status, head.fields, b"")
        if self._verdict is None and head.is_counted_by_us:
            self._counted_length = head.length
            self._verdict = self._answer() if head.length == 0 else None
        if self._verdict is None:
            return None
        self._is_skipping = True
        if head.status == NOT_MODIFIED and self._is_conditional:
            return None
        is_short = head.ends_where_it_says and (head.length or 0) <= _MAX_SKIPPED_BYTES
        return None if is_short and head.status not in _PICTURE_STATUS else _ABORT

    def _refusal(self) -> str | None:
        head = self._head
        if head.status < 200:  # no status at all, or 101: another protocol follows
            return "protocol"
        # "Not found" and "come back later" pages are often marked noindex; that does not concern the picture.
        if head.status < 400 and self._agent_token is not None and opted_out(head.fields, self._agent_token):
            return "opted_out"
        if head.status in _PICTURE_STATUS:
            return "too_large" if not self._is_cut and (head.length or 0) > self._max_bytes else None
        if head.status in REDIRECTS:
            return None if (head.fields.get("Location") or "").strip() else "http_3xx"
        if head.status == NOT_MODIFIED:
            return None if self._is_conditional else "http_3xx"
        return failure_of_status(head.status)

    def _whole(self) -> Answer | FetchError:
        if not self._head.is_complete:
            return FetchError("protocol")
        return self._answer()

    def _answer(self) -> Answer | FetchError:
        try:
            body = decode(b"".join(self._body), self._head.fields, self._max_bytes, self._is_cut)
        except FetchError as error:
            return FetchError(error.failure, self._head.status)
        return Answer(200, self._head.fields, body)

    def _failed(self, error: int, message: str) -> FetchError:
        status = self._head.status if self._head.is_complete else None
        if error in _TLS_ERRORS:
            return FetchError("tls")
        name = _FAILURES.get(error, "protocol")
        if name == "connect" and self._head.is_complete:
            name = "truncated" if "chunk" not in message.lower() else "protocol"
        return FetchError(name, status)
