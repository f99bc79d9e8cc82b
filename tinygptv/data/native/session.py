"""One request over a connection that is kept: only to addresses that were checked, within every limit.

All bytes of a connection pass through one place, `_Wire`, so that a server that trickles its headers is stopped like
one that trickles its body.
"""

import functools
import http.client
import io
import socket
import ssl
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

from tinygptv.data.guard import FetchError, Origin, failure_of_status, opted_out, retry_after_seconds
from tinygptv.definitions.source import Download

_CHUNK, _PIECE = 1 << 16, 1 << 18
_MOST_TRIED_ADDRESSES = 3
_PICTURE_STATUS = frozenset({200, 203})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
NOT_MODIFIED = 304
_STALE = (ConnectionError, http.client.BadStatusLine)
_UNPACKERS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Content encoding → zlib's window bits."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response without failure: a whole body (status 200), a redirect, or 304 Not Modified."""

    status: int
    headers: Message
    body: bytes


class Connection:
    """A connection to one origin at one of `addresses`, opened when first used and kept; for one thread at a time."""

    def __init__(self, origin: Origin, addresses: tuple[str, ...], limits: Download) -> None:
        self._http = _Http(origin, addresses, limits)
        self._host = str(origin).partition("://")[2]

    def get(
        self,
        target: str,
        headers: Mapping[str, str],
        max_bytes: int,
        agent_token: str | None,
        is_cut: bool = False,
    ) -> Answer:
        """Ask for a path and query. Raises FetchError, or what the network raised; then the connection is closed.

        A body is read only if it may be used: not after an error, a declared length beyond the limit, or an opt-out,
        for which the answer is searched unless `agent_token` is None. One that `is_cut` may go beyond the limit, and
        its rest is left unread.
        """
        try:
            with self._ask(target, headers) as response:
                failure = _refusal(response, None if is_cut else max_bytes, agent_token)
                if failure is None and response.status in _PICTURE_STATUS:
                    body = _body(response, max_bytes, is_cut)
                    if len(body) > max_bytes:
                        self.close()
                    return Answer(200, response.headers, body)
                self._drain(response)
        except BaseException:
            self.close()
            raise
        if failure is not None:
            raise FetchError(failure, response.status, retry_after_seconds(response.headers))
        return Answer(response.status, response.headers, b"")

    def close(self) -> None:
        """Close it; the next request would open it again."""
        self._http.close()

    def _ask(self, target: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """The head of a response. A kept connection that its server has closed meanwhile is opened anew, once."""
        is_kept = self._http.sock is not None
        try:
            return self._send(target, headers)
        except _STALE:
            if not is_kept:
                raise
            self.close()
            return self._send(target, headers)

    def _send(self, target: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        self._http.begin()
        self._http.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": self._host, "Accept-Encoding": "identity", **headers}.items():
            self._http.putheader(name, value)
        self._http.endheaders()
        return self._http.getresponse()

    def _drain(self, response: http.client.HTTPResponse) -> None:
        """Read what little is left, so that the connection can be used again, or give it up."""
        if response.status in _PICTURE_STATUS or response.length is None or response.length > _CHUNK:
            self.close()
        else:
            response.read()


def _refusal(response: http.client.HTTPResponse, max_bytes: int | None, agent_token: str | None) -> str | None:
    # Pages that say "not found" or "come back later" are often marked noindex; that is not about the picture.
    if response.status < 400 and agent_token is not None and opted_out(response.headers, agent_token):
        return "opted_out"
    if response.status in _PICTURE_STATUS:
        return "too_large" if max_bytes is not None and (response.length or 0) > max_bytes else None
    return None if response.status in REDIRECTS | {NOT_MODIFIED} else failure_of_status(response.status)


def _body(response: http.client.HTTPResponse, max_bytes: int, is_cut: bool) -> bytes:
    declared = response.length
    encoding = (response.headers.get("Content-Encoding") or "identity").strip().lower()
    body = io.BytesIO()
    while chunk := response.read1(_PIECE):
        body.write(chunk)
        if body.tell() > max_bytes:
            if is_cut and encoding == "identity":
                return body.getvalue()
            raise FetchError("too_large", 200)
    if declared is not None and body.tell() < declared:
        raise FetchError("truncated", 200)
    return body.getvalue() if encoding == "identity" else _unpack(body.getvalue(), encoding, max_bytes, is_cut)


def _unpack(packed: bytes, encoding: str, max_bytes: int, is_cut: bool) -> bytes:
    if encoding not in _UNPACKERS:
        raise FetchError("bad_encoding", 200)
    unpacker = zlib.decompressobj(_UNPACKERS[encoding])
    try:
        body = unpacker.decompress(packed, max_bytes)
    except zlib.error as error:
        raise FetchError("bad_encoding", 200) from error
    if unpacker.unconsumed_tail:
        if is_cut:
            return body
        raise FetchError("too_large", 200)
    if not unpacker.eof:
        raise FetchError("truncated", 200)
    return body


class Connections:
    """Connections that wait for their next request: the most recently used ones, whichever origin they belong to."""

    def __init__(self, most: int) -> None:
        self._most, self._count = most, 0
        self._kept: OrderedDict[Origin, list[Connection]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, origin: Origin) -> Connection | None:
        """One to this origin, if any is kept."""
        with self._lock:
            if origin not in self._kept:
                return None
            self._count -= 1
            return self._pop(origin)

    def keep(self, origin: Origin, connection: Connection) -> None:
        """Have it wait; one of the origin that was asked longest ago may be closed for it."""
        with self._lock:
            self._kept.setdefault(origin, []).append(connection)
            self._kept.move_to_end(origin)
            self._count += 1
            if self._count > self._most:
                self._count -= 1
                self._pop(next(iter(self._kept))).close()

    def _pop(self, origin: Origin) -> Connection:
        connection = self._kept[origin].pop()
        if not self._kept[origin]:
            del self._kept[origin]
        return connection


class _Http(http.client.HTTPConnection):
    """http.client's connection, which is opened by us and reads and writes through a `_Wire`."""

    sock: "_Wire | None"

    def __init__(self, origin: Origin, addresses: tuple[str, ...], limits: Download) -> None:
        super().__init__(origin.host, origin.port)
        self._origin, self._addresses, self._limits = origin, addresses, limits
        self._end = 0.0

    def begin(self) -> None:
        """Start the clock of one request, the opening of the connection included."""
        self._end = time.monotonic() + self._limits.deadline_seconds
        if self.sock is not None:
            self.sock.begin(self._end)

    def connect(self) -> None:
        plain = self._reach()
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secure = self._origin.scheme == "https"
            wrapped = _tls().wrap_socket(plain, server_hostname=self._origin.host) if secure else plain
        except BaseException:
            plain.close()
            raise
        self.sock = _Wire(wrapped, self._limits)
        self.sock.begin(self._end)

    def _reach(self) -> socket.socket:
        failure: OSError = ConnectionError(f"{self._origin} has no address")
        for address in self._addresses[:_MOST_TRIED_ADDRESSES]:
            try:
                return socket.create_connection((address, self._origin.port), _patience(self._limits, self._end))
            except OSError as error:
                failure = error
        raise failure


class _Wire:
    """A socket that keeps the limits on time and on speed; what http.client needs of a socket, and no more."""

    def __init__(self, wrapped: socket.socket, limits: Download) -> None:
        self._socket, self._limits = wrapped, limits
        self._begun = self._end = self._patience = 0.0
        self._received = self._readers = 0
        self._is_closing = False

    def begin(self, end: float) -> None:
        self._begun, self._end, self._received = time.monotonic(), end, 0

    def sendall(self, content: bytes) -> None:
        self._keep_patience()
        self._socket.sendall(content)

    def makefile(self, _mode: str) -> io.BufferedReader:
        self._readers += 1
        return io.BufferedReader(_Reader(self), _CHUNK)

    def receive(self, buffer: Any) -> int:
        self._keep_patience()
        count = self._socket.recv_into(buffer)
        self._received += count
        seconds = time.monotonic() - self._begun
        if seconds > self._limits.timeout_seconds and self._received < seconds * self._limits.min_bytes_per_second:
            raise FetchError("slow")
        return count

    def _keep_patience(self) -> None:
        """Have the next step end in time. It is nearly always the same time, and setting it is a call to the kernel."""
        patience = _patience(self._limits, self._end)
        if patience != self._patience:
            self._socket.settimeout(patience)
            self._patience = patience

    def close(self) -> None:
        """Close it, or let its reader do so: http.client closes before it reads the last body of a connection."""
        self._is_closing = True
        if not self._readers:
            self._socket.close()

    def release(self) -> None:
        self._readers -= 1
        if self._is_closing:
            self.close()


class _Reader(io.RawIOBase):
    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.receive(buffer)

    def close(self) -> None:
        if not self.closed:
            self._wire.release()
        super().close()


def _patience(limits: Download, end: float) -> float:
    """Seconds the next step may take. Raises FetchError `slow` if the whole time is used up."""
    left = end - time.monotonic()
    if left <= 0:
        raise FetchError("slow")
    return min(left, limits.timeout_seconds)


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
