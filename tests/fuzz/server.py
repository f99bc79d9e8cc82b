"""Servers on loopback that say exactly the bytes they are told to, and pictures that say which URL they belong to.

Other tests use `tests/web/`, whose pages are functions. Here an answer is data, so that a failing one can be saved, and
hundreds of sites share one listening thread.
"""

import io
import select
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzz.messages import Message, Part

STRAY = 0xFFFF
"""The number of the picture that belongs to no URL."""

_BLOCK, _SIDE_BLOCKS = 8, 4
_COMMENT_BYTES = 60_000
_STACK_BYTES = 256 << 10  # of a connection's thread; the default would use up the address space that a run may have
_RACE_SECONDS = 0.05  # from a client's look at its connection to the arrival of its request, on a busy machine
_HOLD_SECONDS = 60.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


def picture(number: int, padding: int = 0) -> bytes:
    """A JPEG of sixteen black and white blocks, which are the bits of a number, with so many bytes of comments."""
    bits = np.array([number >> place & 1 for place in range(16)], np.uint8).reshape(_SIDE_BLOCKS, _SIDE_BLOCKS)
    stream = io.BytesIO()
    Image.fromarray(np.kron(bits * 255, np.ones((_BLOCK, _BLOCK), np.uint8))).convert("RGB").save(stream, "JPEG")
    start, rest = stream.getvalue()[:2], stream.getvalue()[2:]
    sizes = [_COMMENT_BYTES] * (padding // _COMMENT_BYTES) + [padding % _COMMENT_BYTES]
    comments = (b"\xff\xfe" + (size + 2).to_bytes(2, "big") + b"." * size for size in sizes if size)
    return start + b"".join(comments) + rest


def number_of(jpeg: bytes) -> int | None:
    """The number that a stored picture shows; None if it shows none."""
    pixels = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"), np.float64)
    if pixels.shape != (_BLOCK * _SIDE_BLOCKS,) * 2:
        return None
    blocks = pixels.reshape(_SIDE_BLOCKS, _BLOCK, _SIDE_BLOCKS, _BLOCK).mean((1, 3)).ravel()
    if np.any(np.abs(blocks - 127.5) < 64):
        return None
    return sum(1 << place for place, value in enumerate(blocks) if value > 127.5)


@dataclass
class Site:
    """One port: path → answer. A path that is not there is asked of `otherwise`. Every request is noted.

    `raced` are the paths whose request crossed bytes that the server sent unasked: no client could have noticed.
    """

    answers: Mapping[str, Message]
    otherwise: Callable[[str], bytes]
    address: str = ""
    asked: list[str] = field(default_factory=list)
    raced: set[str] = field(default_factory=set)


@contextmanager
def serving(sites: list[Site]) -> Iterator[None]:
    """Serve every site on a port of its own; a connection is answered by a thread."""
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=64) for _ in sites]
    open_sockets: set[socket.socket] = set()
    for site, listener in zip(sites, listeners, strict=True):
        site.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    wake, stop = socket.socketpair()
    threading.stack_size(_STACK_BYTES)

    def accept() -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(stop, selectors.EVENT_READ)
            for site, listener in zip(sites, listeners, strict=True):
                selector.register(listener, selectors.EVENT_READ, (site, listener))
            while all(ready := [key.data for key, _ in selector.select()]):
                for site, listener in ready:
                    connection, _ = listener.accept()
                    open_sockets.add(connection)
                    threading.Thread(target=_serve, args=(connection, site, open_sockets), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        wake.close()
        thread.join()
        for each in [*listeners, stop]:
            each.close()
        for connection in list(open_sockets):
            _shut(connection)


def _shut(connection: socket.socket) -> None:
    """Wake the thread that reads this connection; it closes it."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        """It is closed already."""


def _serve(connection: socket.socket, site: Site, open_sockets: set[socket.socket]) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        try:
            rest = b""
            while True:
                while b"\r\n\r\n" not in rest:
                    received = connection.recv(1 << 16)
                    if not received:
                        return
                    rest += received
                request, _, rest = rest.partition(b"\r\n\r\n")
                path = request.split(b" ")[1].decode("latin-1")
                site.asked.append(path)
                message = site.answers.get(path)
                if message is None:
                    connection.sendall(site.otherwise(path))
                elif not _say(connection, message.parts, site, path):
                    return
        except OSError:
            """The client hung up, which is its right."""
        finally:
            open_sockets.discard(connection)


def _say(connection: socket.socket, parts: tuple[Part, ...], site: Site, path: str) -> bool:
    """Do what an answer says; whether the connection is still to be used."""
    is_unasked = False
    for part in parts:
        match part.do:
            case "send":
                connection.sendall(part.text.encode("latin-1"))
                if is_unasked and _is_readable(connection, _RACE_SECONDS) and connection.recv(1, socket.MSG_PEEK):
                    site.raced.add(path)
            case "sleep":
                time.sleep(part.seconds)
            case "idle":
                if _is_readable(connection, part.seconds):
                    return True
                is_unasked = True
            case "hold":
                _is_readable(connection, _HOLD_SECONDS)
                return False
            case "reset":
                if is_unasked:
                    _wait_until_read(connection)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                return False
            case "close":
                # Unread bytes would turn the end into a reset, which destroys what the client has not read yet.
                connection.shutdown(socket.SHUT_WR)
                _is_readable(connection, 1.0)
                return False
    return True


def _wait_until_read(connection: socket.socket) -> None:
    """Wait until the client has read all that was sent: a reset would destroy the rest. The kernel's table tells."""
    (_, ours), (_, theirs) = connection.getsockname()[:2], connection.getpeername()[:2]
    end = time.monotonic() + _HOLD_SECONDS
    while time.monotonic() < end:
        rows = [row.replace(":", " ").split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        unread = [int(row[7], 16) for row in rows if (int(row[2], 16), int(row[4], 16)) == (theirs, ours)]
        if not any(unread):
            return
        time.sleep(0.01)


def _is_readable(connection: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
