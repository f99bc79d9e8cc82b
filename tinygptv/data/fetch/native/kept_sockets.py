"""Sockets of HTTP/1 connections that wait for their next request, and whether they keep silent meanwhile.

Whatever arrives there unasked would be taken for the answer to the next request: a second answer to the one before, a
408 to nobody. libcurl looks once a second at most, so a site's sockets are asked right before each request.
"""

import contextlib
import os
import select
import socket

from tinygptv.data.fetch.guard import Origin

_TIMEOUT_ANSWER = b"HTTP/1.1 408", b"HTTP/1.0 408"


class KeptSockets:
    """File descriptors by the origin they lead to. libcurl owns and closes them."""

    def __init__(self) -> None:
        self._origins: dict[int, Origin] = {}
        self._by_origin: dict[Origin, set[int]] = {}
        self._distrusted: set[Origin] = set()

    def add(self, descriptor: int, origin: Origin) -> None:
        """A connection that waits from now on."""
        if descriptor < 0:
            return
        self.take(descriptor)
        self._origins[descriptor] = origin
        self._by_origin.setdefault(origin, set()).add(descriptor)

    def take(self, descriptor: int) -> None:
        """A connection that is used, or another one that got the number of one that was closed."""
        origin = self._origins.pop(descriptor, None)
        if origin is not None:
            self._by_origin[origin].discard(descriptor)
            if not self._by_origin[origin]:
                del self._by_origin[origin]

    def are_silent(self, origin: Origin) -> bool:
        """Whether any kept connection to an origin may be used.

        Not while one has something to read, its end included. An origin that once sent what nobody had asked for is
        given a new connection for every request from then on: it might do so again at a moment when nobody looks.
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
