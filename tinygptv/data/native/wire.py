"""Requests on the wire, many at a time: libcurl's multi interface, driven by epoll from one thread.

libcurl speaks HTTP and TLS, keeps connections, and tries a host's addresses as RFC 8305 has it. What is ours: a
connection is opened only to an address that was checked, limits on time and size hold for every single request, a body
is read only if it may be used, and an HTTP/1 connection is kept only after an answer that said where it ends.
"""

import functools
import os
import select
import socket
import ssl
import time
from enum import Enum, auto
from pathlib import Path
from typing import Any

import certifi
import pycurl

from tinygptv.data.guard import FetchError, Origin, failure_of_status, opted_out, retry_after_seconds
from tinygptv.data.native.content_coding import decode, is_coded
from tinygptv.data.native.kept_sockets import KeptSockets
from tinygptv.data.native.response import Answer, Head
from tinygptv.definitions.source import Download

_BUFFER_BYTES = 256 << 10
_MAX_KEPT_CONNECTIONS = 256
_MAX_SKIPPED_BYTES = 64 << 10
"""Of an error page or a redirect: reading so little costs less than another connection."""

_PICTURE_STATUS = frozenset({200, 203})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
NOT_MODIFIED = 304
_REQUEST_TIMEOUT = 408
_ABORT = -1
_SWEEP_SECONDS = 0.1

_COMMON_HEADERS = ["Accept-Encoding: identity", "Accept:", "TE:"]
"""Without a colon's right side: not sent, though libcurl would."""
_CLOSE = ["Connection: close"]

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


class Wire:
    """Exchanges under way, carried on whenever `step` is called. One thread uses it; any thread may `wake` it."""

    def __init__(self) -> None:
        self._multi = pycurl.CurlMulti()
        self._epoll = select.epoll()
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._alarm, select.EPOLLIN)
        self._due: float | None = None
        self._swept = 0.0
        self._is_closed = False
        self._active: dict[pycurl.Curl, Exchange] = {}
        self._handles: list[pycurl.Curl] = []
        self._kept = KeptSockets()
        self._watched: set[int] = set()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, _MAX_KEPT_CONNECTIONS)

    def __len__(self) -> int:
        """How many exchanges are under way."""
        return len(self._active)

    def start(self, exchange: Exchange) -> None:
        """Begin an exchange."""
        curl = self._handles.pop() if self._handles else _handle()
        until_close = exchange.is_repeat_of is Repeat.UNTIL_IT_CLOSES
        curl.setopt(pycurl.URL, exchange.url)
        curl.setopt(pycurl.HTTPHEADER, exchange.headers + _COMMON_HEADERS + _CLOSE * until_close)
        curl.setopt(pycurl.RESOLVE, _resolved(exchange))
        is_fresh = exchange.is_repeat_of is not None or not self._kept.are_silent(exchange.origin)
        curl.setopt(pycurl.FRESH_CONNECT, is_fresh)
        curl.setopt(pycurl.IGNORE_CONTENT_LENGTH, until_close)
        curl.setopt(pycurl.HEADERFUNCTION, exchange.on_header)
        curl.setopt(pycurl.WRITEFUNCTION, exchange.on_body)
        curl.setopt(pycurl.OPENSOCKETFUNCTION, exchange.open_socket)
        self._active[curl] = exchange
        self._multi.add_handle(curl)

    def step(self, seconds: float | None) -> list[Exchange]:
        """Carry on with what the network has ready, waiting for it so long at most; the exchanges that are over."""
        now = time.monotonic()
        waits = [seconds, None if self._due is None else max(0.0, self._due - now)]
        waits.append(_SWEEP_SECONDS if self._active else None)
        known = [wait for wait in waits if wait is not None]
        for descriptor, events in self._epoll.poll(min(known) if known else None):
            if descriptor == self._alarm:
                os.eventfd_read(self._alarm)
                continue
            mask = pycurl.CSELECT_IN if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) else 0
            mask |= pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0
            self._multi.socket_action(descriptor, mask)
        if self._due is not None and self._due <= time.monotonic():
            self._due = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        return [*self._finished(), *self._swept_out()]

    def wake(self) -> None:
        """Have a `step` that waits return."""
        if not self._is_closed:
            os.eventfd_write(self._alarm, 1)

    def close(self) -> None:
        """Give up what is under way, and close every connection. No other thread may use it any more."""
        self._is_closed = True
        for curl in list(self._active):
            self._multi.remove_handle(curl)
            curl.close()
        for curl in self._handles:
            curl.close()
        self._active, self._handles = {}, []
        self._multi.close()
        self._epoll.close()
        os.close(self._alarm)

    def _finished(self) -> list[Exchange]:
        over = []
        while True:
            left, succeeded, failed = self._multi.info_read()
            over += [self._end(curl, None, "") for curl in succeeded]
            over += [self._end(curl, error, message) for curl, error, message in failed]
            if not left:
                return over

    def _swept_out(self) -> list[Exchange]:
        """Exchanges that exceed a limit on time, ended."""
        now = time.monotonic()
        if now - self._swept < _SWEEP_SECONDS:
            return []
        self._swept = now
        late = [(curl, failure) for curl, one in self._active.items() if (failure := one.overdue(now)) is not None]
        return [self._end(curl, None, "", failure) for curl, failure in late]

    def _end(self, curl: pycurl.Curl, error: int | None, message: str, overdue: FetchError | None = None) -> Exchange:
        exchange = self._active.pop(curl)
        is_reused = curl.getinfo(pycurl.NUM_CONNECTS) == 0
        exchange.connected_to = curl.getinfo(pycurl.PRIMARY_IP) or None
        descriptor = curl.getinfo(pycurl.ACTIVESOCKET)
        # The next exchange may be using it already.
        if error is None and overdue is None and not exchange.is_multiplexed and descriptor not in self._watched:
            self._kept.add(descriptor, exchange.origin)
        self._multi.remove_handle(curl)  # which closes the connection of one that is not over
        self._handles.append(curl)
        exchange.finish(error, message, is_reused, overdue)
        return exchange

    def _watch(self, what: int, descriptor: int, _multi: Any, _data: Any) -> None:
        """libcurl says which sockets it waits for."""
        if what == pycurl.POLL_REMOVE:
            self._watched.discard(descriptor)
            try:
                self._epoll.unregister(descriptor)
            except (OSError, ValueError):
                """Closed already."""
            return
        self._watched.add(descriptor)
        self._kept.take(descriptor)
        events = select.EPOLLIN if what & pycurl.POLL_IN else 0
        events |= select.EPOLLOUT if what & pycurl.POLL_OUT else 0
        try:
            self._epoll.modify(descriptor, events)
        except FileNotFoundError:
            self._epoll.register(descriptor, events)

    def _set_timer(self, milliseconds: int) -> None:
        """libcurl says when it wants to be called, whatever happens."""
        self._due = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000


def _handle() -> pycurl.Curl:
    """A handle with what all requests have in common."""
    curl = pycurl.Curl()
    curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
    curl.setopt(pycurl.PROXY, "")  # behind one, the address could not be checked
    curl.setopt(pycurl.NOPROXY, "*")
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.PATH_AS_IS, 1)
    curl.setopt(pycurl.HTTP09_ALLOWED, 0)
    curl.setopt(pycurl.TRANSFER_ENCODING, 1)  # undone where it comes; not asked for, see _COMMON_HEADERS
    curl.setopt(pycurl.BUFFERSIZE, _BUFFER_BYTES)
    curl.setopt(pycurl.CAINFO, certificates())
    if folder := ssl.get_default_verify_paths().capath:
        curl.setopt(pycurl.CAPATH, folder)
    return curl


def _resolved(exchange: Exchange) -> list[str]:
    """The addresses of its host, in their order, for libcurl's memory; `+`: it may forget them."""
    host, port = exchange.origin.host, exchange.origin.port
    listed = ",".join(f"[{address}]" if ":" in address else address for address in exchange.addresses)
    return [f"+{host}:{port}:{listed}"] if ":" not in host else []


@functools.cache
def certificates() -> str:
    """The file of the authorities that are trusted: the system's, or those that come with Python's packages."""
    system = ssl.get_default_verify_paths().cafile
    return system if system and Path(system).exists() else certifi.where()
