"""Idle HTTP/1 connections, and whether they are still safe to reuse.

Unsolicited bytes on an idle connection (a second answer to the previous request, a stray 408) would be taken for the
answer to the next request. libcurl checks at most once a second, so a site's sockets are polled before each request.
"""

import contextlib
import os
import select
import socket

from tinygptv.data.fetch.guard import Origin

_TIMEOUT_ANSWER = b"HTTP/1.1 408", b"HTTP/1.0 408"


class IdleSockets:
    """Idle file descriptors by origin. libcurl owns and closes them."""

    def __init__(self) -> None:
        self._origins: dict[int, Origin] = {}
        self._by_origin: dict[Origin, set[int]] = {}
        self._distrusted: set[Origin] = set()

    def add(self, descriptor: int, origin: Origin) -> None:
        """Record a connection that is idle from now on."""
        if descriptor < 0:
            return
        self.take(descriptor)
        self._origins[descriptor] = origin
        self._by_origin.setdefault(origin, set()).add(descriptor)

    def take(self, descriptor: int) -> None:
        """Remove a descriptor: its connection is in use, or was closed and its number reused."""
        origin = self._origins.pop(descriptor, None)
        if origin is not None:
            self._by_origin[origin].discard(descriptor)
            if not self._by_origin[origin]:
                del self._by_origin[origin]

    def are_silent(self, origin: Origin) -> bool:
        """Whether idle connections to an origin may be reused.

        Not while one of them is readable, even if that is only its end. An origin that once sent an unsolicited answer
        gets a new connection for every later request: it may do so again between two checks.
        """
        known = self._by_origin.get(origin)
        if not known:
            return origin not in self._distrusted
        poll = select.poll()
        for descriptor in known:
            poll.register(descriptor, select.POLLIN)
        readable = poll.poll(0)
        for descriptor, events in readable:
            if events & select.POLLNVAL:
                self.take(descriptor)
            elif origin.scheme == "http" and _has_unasked_answer(descriptor):  # in TLS it may be a session ticket
                self._distrusted.add(origin)
        return origin not in self._distrusted and all(events & select.POLLNVAL for _, events in readable)


def _has_unasked_answer(descriptor: int) -> bool:
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as peeking:
        begun = peeking.recv(12, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return bool(begun) and begun not in _TIMEOUT_ANSWER
    return False
