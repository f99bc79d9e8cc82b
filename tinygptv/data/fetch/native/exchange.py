"""One request and its answer, as libcurl hands it on: what is read of it, and what it comes to.

Limits on time and size hold for every single request. A body is read only if it may be used: not after an error, an
opt-out, or a declared length beyond the limit. An HTTP/1 connection is kept only after an answer that said where it
ends; giving an answer up closes it.
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
"""Of an error page or a redirect: reading so little costs less than another connection."""

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
"""libcurl's error → the failure it is counted as; of TLS and of HTTP there are too many to be listed here."""


class Repeat(Enum):
    """Why a request is worth making once more."""

    ON_A_FRESH_CONNECTION = auto()
    """What came over a kept connection may have been meant for nobody, or for the request before."""
    UNTIL_IT_CLOSES = auto()
    """The declared length is no number; the end is where the server closes, as browsers have it."""


class Exchange:
    """One request and its answer, for a caller who finds `owner` again.

    `outcome` is the answer, or why there is none; it is set when the exchange is over. `repeat` then says whether the
    request should be made once more, at once and at nobody's expense: see `Repeat`.
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
        self._begun = self._heard = time.monotonic()

    # What libcurl calls, from within `Wire.step`.

    def open_socket(self, _purpose: int, address: Any) -> Any:
        """A socket for an address that was checked; for any other none."""
        family, kind, protocol, place = address
        if place[0] not in self.addresses:
            return pycurl.SOCKET_BAD
        return socket.socket(family, kind, protocol)

    def on_header(self, line: bytes) -> int | None:
        """One line of a head, or of the trailers behind a body."""
        self._hear(len(line))
        if self._head.is_complete and line[:5].upper() != b"HTTP/":
            return None
        if not self._head.add(line):
            return None
        return self._judge_head()

    def on_body(self, piece: bytes) -> int | None:
        """A piece of a body."""
        self._hear(len(piece))
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

    # What the wire calls.

    def overdue(self, now: float) -> FetchError | None:
        """The limit on time or speed that is exceeded by now, if any."""
        limits, seconds = self.limits, now - self._begun
        if seconds > limits.deadline_seconds:
            return FetchError("slow")
        if now - self._heard > limits.timeout_seconds:
            is_trickled_head = self._received and not self._head.is_complete
            return FetchError("slow" if is_trickled_head else "timeout")
        if seconds > limits.timeout_seconds and 0 < self._received < seconds * limits.min_bytes_per_second:
            return FetchError("slow")
        return None

    @property
    def is_multiplexed(self) -> bool:
        """Whether several exchanges share the connection, each in frames of its own (HTTP/2)."""
        return self._head.version.startswith("2")

    def finish(self, error: int | None, message: str, is_reused: bool, overdue: FetchError | None) -> None:
        """Say what came of it: libcurl's error, or the limit that was exceeded; None, if neither."""
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

    def _hear(self, count: int) -> None:
        self._heard = time.monotonic()
        self._received += count

    def _judge_head(self) -> int | None:
        """What is to be done about the body, now that the head is there."""
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
        if head.status < 200:  # none at all, or 101: another protocol follows
            return "protocol"
        # Pages that say "not found" or "come back later" are often marked noindex; that is not about the picture.
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
