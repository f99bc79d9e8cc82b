"""HTTP answers as servers give them, well and badly: a name, what must become of the picture, and the bytes.

The kinds of them are in `answers/`.

What must become of it follows RFC 9110 and 9112 and, where these leave a choice, what browsers do:

    kept         the message is sound; the picture must be kept
    lost         there is no picture in it; the row must fail
    broken_off   it ends before its picture does; the row must fail, and a robots.txt that comes so is not known
    opted_out    the message is sound and forbids the use; the row must fail with this reason
    either       the message is broken, or recipients may choose; only a wrong picture is wrong

Whatever the answer, other requests of its site must get their own pictures, unless it `spoils_others`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

Expected = Literal["kept", "lost", "broken_off", "opted_out", "either"]


class Part(NamedTuple):
    """One thing a server does.

    `send` text (Latin-1), `sleep` for seconds, `idle`: skip the rest of the answer if a request comes within so many
    seconds, `close` (FIN), `reset` (RST), `hold`: say nothing more and keep the connection open.
    """

    do: Literal["send", "sleep", "idle", "close", "reset", "hold"]
    text: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Message:
    """One answer to one request."""

    name: str
    expected: Expected
    parts: tuple[Part, ...]
    spoils_others: bool = False


class Request(NamedTuple):
    """What an answer is made for: a picture, its path, and a picture that belongs to no URL at all."""

    picture: bytes
    path: str
    stray: bytes


Build = Callable[[Request, Random], tuple[Part, ...]]
CLOSE, RESET, HOLD = Part("close"), Part("reset"), Part("hold")


class Production(NamedTuple):
    """A named kind of answer."""

    name: str
    expected: Expected
    build: Build
    spoils_others: bool = False

    def message(self, request: Request, random: Random) -> Message:
        """One answer of this kind."""
        return Message(self.name, self.expected, self.build(request, random), self.spoils_others)


def send(content: bytes) -> Part:
    """The part that sends these bytes."""
    return Part("send", content.decode("latin-1"))


def sleep(seconds: float) -> Part:
    """The part that waits."""
    return Part("sleep", seconds=seconds)


def idle(seconds: float) -> Part:
    """The part that waits for a request and, if one comes, leaves the rest of the answer unsent."""
    return Part("idle", seconds=seconds)


def head(status: str = "200 OK", *fields: bytes, version: str = "1.1", end: bytes = b"\r\n") -> bytes:
    """A status line and fields, with the empty line."""
    return end.join([f"HTTP/{version} {status}".encode(), *fields, b"", b""])


def length(content: bytes) -> bytes:
    """The field that declares it."""
    return b"Content-Length: %d" % len(content)


def whole(body: bytes, *fields: bytes, status: str = "200 OK", version: str = "1.1") -> bytes:
    """A sound answer of declared length."""
    return head(status, b"Content-Type: image/jpeg", length(body), *fields, version=version) + body


def chunks(body: bytes, random: Random, extension: bytes = b"", size: str = "%x") -> bytes:
    """The body in chunks of odd sizes, without the last one."""
    found, position = b"", 0
    while position < len(body):
        piece = body[position : position + random.choice((1, 7, 16, 255, 4096))]
        found += (size % len(piece)).encode() + extension + b"\r\n" + piece + b"\r\n"
        position += len(piece)
    return found


EARLY_HINTS = head("103 Early Hints", b"Link: </style.css>; rel=preload; as=style")
TIMEOUT_408 = head("408 Request Timeout", b"Content-Length: 0", b"Connection: close")


def in_chunks(
    *fields: bytes, extension: bytes = b"", size: str = "%x", last: bytes = b"0\r\n\r\n", end: tuple[Part, ...] = ()
) -> Build:
    """A chunked answer; `fields` replace the one that says so."""
    said = fields or (b"Transfer-Encoding: chunked",)
    return lambda request, random: (
        send(head("200 OK", *said) + chunks(request.picture, random, extension, size) + last),
        *end,
    )


def of_length(*fields: bytes, status: str = "200 OK", end: tuple[Part, ...] = (), version: str = "1.1") -> Build:
    """An answer of declared length."""
    return lambda request, _: (send(whole(request.picture, *fields, status=status, version=version)), *end)


def with_head(*fields: bytes, status: str = "200 OK", version: str = "1.1", line_end: bytes = b"\r\n") -> Build:
    """An answer with just these fields, in which `@` stands for the length of the picture, and the picture."""

    def build(request: Request, _: Random) -> tuple[Part, ...]:
        said = [field.replace(b"@", b"%d" % len(request.picture)) for field in fields]
        return (send(head(status, *said, version=version, end=line_end) + request.picture),)

    return build


def bare(status: str, *fields: bytes, body: bytes = b"", end: tuple[Part, ...] = ()) -> Build:
    """An answer without a picture."""
    return lambda request, _: (send(head(status, *fields) + body), *end)
