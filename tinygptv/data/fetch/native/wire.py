"""Requests on the wire, many at a time: libcurl's multi interface, driven by epoll from one thread.

libcurl speaks HTTP and TLS, keeps connections, and tries a host's addresses as RFC 8305 has it. What is ours: a
connection is opened only to an address that was checked, and a kept one is used again only if it has been silent.
"""

import functools
import os
import select
import ssl
import time
from pathlib import Path
from typing import Any

import certifi
import pycurl

from tinygptv.data.fetch.guard import FetchError
from tinygptv.data.fetch.native.exchange import Exchange, Repeat
from tinygptv.data.fetch.native.kept_sockets import KeptSockets

_BUFFER_BYTES = 256 << 10
_MAX_KEPT_CONNECTIONS = 256
_SWEEP_SECONDS = 0.1

_COMMON_HEADERS = ["Accept-Encoding: identity", "Accept:", "TE:"]
"""Without a colon's right side: not sent, though libcurl would."""
_CLOSE = ["Connection: close"]


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
