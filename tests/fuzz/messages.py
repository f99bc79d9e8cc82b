"""HTTP answers as servers give them, well and badly: a name, what must become of the picture, and the bytes.

What must become of it follows RFC 9110 and 9112 and, where these leave a choice, what browsers do:

    kept         the message is sound; the picture must be kept
    lost         there is no picture in it; the row must fail
    broken_off   it ends before its picture does; the row must fail, and a robots.txt that comes so is not known
    opted_out    the message is sound and forbids the use; the row must fail with this reason
    either       the message is broken, or recipients may choose; only a wrong picture is wrong

Whatever the answer, other requests of its site must get their own pictures, unless it `spoils_others`.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator
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


def _chunked(
    *fields: bytes, extension: bytes = b"", size: str = "%x", last: bytes = b"0\r\n\r\n", end: tuple[Part, ...] = ()
) -> Build:
    """A chunked answer; `fields` replace the one that says so."""
    said = fields or (b"Transfer-Encoding: chunked",)
    return lambda request, random: (
        send(head("200 OK", *said) + chunks(request.picture, random, extension, size) + last),
        *end,
    )


def _whole(*fields: bytes, status: str = "200 OK", end: tuple[Part, ...] = (), version: str = "1.1") -> Build:
    """An answer of declared length."""
    return lambda request, _: (send(whole(request.picture, *fields, status=status, version=version)), *end)


def _headed(*fields: bytes, status: str = "200 OK", version: str = "1.1", line_end: bytes = b"\r\n") -> Build:
    """An answer with just these fields, in which `@` stands for the length of the picture, and the picture."""

    def build(request: Request, _: Random) -> tuple[Part, ...]:
        said = [field.replace(b"@", b"%d" % len(request.picture)) for field in fields]
        return (send(head(status, *said, version=version, end=line_end) + request.picture),)

    return build


def _bare(status: str, *fields: bytes, body: bytes = b"", end: tuple[Part, ...] = ()) -> Build:
    """An answer without a picture."""
    return lambda request, _: (send(head(status, *fields) + body), *end)


def _after(*interims: bytes, pause: float = 0.0) -> Build:
    """The sound answer behind interim ones."""
    return lambda request, _: (
        *(part for interim in interims for part in (send(interim), sleep(pause))),
        send(whole(request.picture)),
    )


def _followed(stray: Callable[[Request], bytes], wait: float = 0.0, end: tuple[Part, ...] = ()) -> Build:
    """The sound answer, and bytes nobody asked for: in the same packet, or later if nothing was asked till then."""

    def build(request: Request, _: Random) -> tuple[Part, ...]:
        if wait:
            return (send(whole(request.picture)), idle(wait), send(stray(request)), *end)
        return (send(whole(request.picture) + stray(request)), *end)

    return build


def _cut(where: str, end: Part) -> Build:
    """The sound answer, broken off."""

    def build(request: Request, random: Random) -> tuple[Part, ...]:
        answer = whole(request.picture)
        body = answer.index(b"\r\n\r\n") + 4
        places = {"nothing": (0, 0), "the status line": (1, 16), "the fields": (17, body - 1), "the head": (body, body)}
        first, last = places.get(where, (body + 1, len(answer) - 1))
        sent = answer[: random.randint(first, last)]
        return (*((send(sent),) if sent else ()), end)

    return build


def _coded(pack: Callable[[bytes], bytes], *codings: bytes) -> Build:
    """The picture as packed, under these codings, a field each."""
    return lambda request, _: (
        send(whole(pack(request.picture), *(b"Content-Encoding: " + coding for coding in codings))),
    )


def _raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()


def _half(body: bytes) -> bytes:
    return body[: len(body) // 2]


def _members(body: bytes) -> bytes:
    return b"".join(gzip.compress(body[start : start + 300]) for start in range(0, len(body), 300))


def _moved(status: str, location: str, body: bytes = b"", end: tuple[Part, ...] = ()) -> Build:
    """A redirect; in `location` `{path}` is the path that was asked for, below which the picture lies too."""
    return lambda request, _: (
        send(head(status, b"Location: " + location.format(path=request.path).encode(), length(body)) + body),
        *end,
    )


def _dribbled(request: Request, _: Random) -> tuple[Part, ...]:
    answer = whole(request.picture)
    pieces = [answer[start : start + 1] for start in range(150)] + [answer[150:]]
    return tuple(part for piece in pieces for part in (send(piece), sleep(0.002)))


def _stray_answer(request: Request) -> bytes:
    return whole(request.stray)


EARLY_HINTS = head("103 Early Hints", b"Link: </style.css>; rel=preload; as=style")
CONTINUE, PROCESSING = head("100 Continue"), head("102 Processing")
_408 = head("408 Request Timeout", b"Content-Length: 0", b"Connection: close")


def _interim() -> Iterator[Production]:
    yield Production("100", "kept", _after(CONTINUE))
    yield Production("100, the rest later", "kept", _after(CONTINUE, pause=0.03))
    yield Production("102", "kept", _after(PROCESSING))
    yield Production("102, the rest later", "kept", _after(PROCESSING, pause=0.03))
    yield Production("103", "kept", _after(EARLY_HINTS))
    yield Production("103, the rest later", "kept", _after(EARLY_HINTS, pause=0.03))
    yield Production("an unknown 1xx", "kept", _after(head("199 Whatever"), pause=0.01))
    yield Production("several interim answers", "kept", _after(CONTINUE, PROCESSING, EARLY_HINTS, EARLY_HINTS))
    yield Production("several, apart", "kept", _after(PROCESSING, EARLY_HINTS, PROCESSING, pause=0.02))
    yield Production("twenty interim answers", "kept", _after(*[PROCESSING] * 20))
    yield Production("an interim answer with fields of a final one", "kept", _after(head("103 E", b"ETag: x", b"A: b")))
    yield Production("an interim opt-out", "either", _after(head("103 E", b"X-Robots-Tag: noai")))
    yield Production("103 with a length", "either", _after(head("103 E", b"Content-Length: 5"), pause=0.01))
    yield Production("103 in chunks", "either", _after(head("103 E", b"Transfer-Encoding: chunked"), pause=0.01))
    yield Production("103 and the end", "broken_off", lambda *_: (send(EARLY_HINTS), CLOSE))
    yield Production("103 and nothing", "broken_off", lambda *_: (send(EARLY_HINTS), HOLD))
    yield Production(
        "101", "lost", _bare("101 Switching Protocols", b"Upgrade: h2c", b"Connection: Upgrade", end=(HOLD,))
    )
    yield Production(
        "101 and an answer", "either", _after(head("101 Switching", b"Upgrade: x", b"Connection: Upgrade"))
    )
    yield Production("101 without an upgrade", "either", _after(head("101 Switching Protocols"), pause=0.01))


def _framing() -> Iterator[Production]:
    yield Production("a length", "kept", _whole())
    yield Production("a length and the end", "kept", _whole(b"Connection: close", end=(CLOSE,)))
    yield Production("close, unannounced", "kept", _whole(end=(CLOSE,)))
    yield Production("close, announced and not done", "kept", _whole(b"Connection: close"))
    yield Production(
        "keep-alive with a time", "kept", _whole(b"Keep-Alive: timeout=1, max=5", b"Connection: keep-alive")
    )
    yield Production("up to the end", "kept", lambda request, _: (send(head() + request.picture), CLOSE))
    yield Production("HTTP/1.0", "kept", _whole(version="1.0", end=(CLOSE,)))
    yield Production("HTTP/1.0 kept", "kept", _whole(b"Connection: keep-alive", version="1.0"))
    yield Production("HTTP/1.0 up to the end", "kept", lambda r, _: (send(head(version="1.0") + r.picture), CLOSE))
    yield Production("HTTP/1.2", "either", _whole(version="1.2"))
    yield Production("HTTP/2.0 in text", "either", _whole(version="2.0"))
    yield Production("chunks", "kept", _chunked())
    yield Production("Chunked", "kept", _chunked(b"transfer-encoding: Chunked"))
    yield Production("chunks and a length", "kept", _chunked(b"Transfer-Encoding: chunked", b"Content-Length: 7"))
    yield Production("a length and chunks", "kept", _chunked(b"Content-Length: 7", b"Transfer-Encoding: chunked"))
    yield Production("chunk extensions", "kept", _chunked(extension=b';a=b;c="d e"'))
    yield Production("upper-case sizes", "kept", _chunked(size="%X"))
    yield Production("sizes with leading zeros", "kept", _chunked(size="%08x"))
    yield Production("space behind sizes", "either", _chunked(size="%x  "))
    yield Production("trailers", "kept", _chunked(last=b"0\r\nX-Checksum: 1\r\nETag: y\r\n\r\n"))
    yield Production("an opt-out in a trailer", "either", _chunked(last=b"0\r\nX-Robots-Tag: noai\r\n\r\n"))
    yield Production("the last chunk as 000", "kept", _chunked(last=b"000\r\n\r\n"))
    yield Production("chunks without the last line", "either", _chunked(last=b"0\r\n", end=(CLOSE,)))
    yield Production("chunks without a last one", "either", _chunked(last=b"", end=(CLOSE,)))
    yield Production(
        "chunks of bad size", "broken_off", _bare("200 OK", b"Transfer-Encoding: chunked", body=b"xyz\r\nabc\r\n")
    )
    yield Production(
        "a negative chunk", "broken_off", _bare("200 OK", b"Transfer-Encoding: chunked", body=b"-5\r\nabcde\r\n")
    )
    yield Production(
        "a huge chunk", "broken_off", _bare("200 OK", b"Transfer-Encoding: chunked", body=b"f" * 17 + b"\r\nabc")
    )
    yield Production("chunked twice", "either", _chunked(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"))
    yield Production(
        "chunks with LF alone",
        "either",
        lambda r, random: (
            send(head("200 OK", b"Transfer-Encoding: chunked") + b"%x\n" % len(r.picture) + r.picture + b"\n0\n\n"),
            CLOSE,
        ),
    )
    yield Production(
        "gzip, chunked",
        "either",
        lambda r, random: (
            send(head("200 OK", b"Transfer-Encoding: gzip, chunked") + chunks(gzip.compress(r.picture), random)),
            send(b"0\r\n\r\n"),
        ),
    )
    yield Production("chunked, identity", "either", _chunked(b"Transfer-Encoding: chunked, identity"))
    yield Production("identity, chunked", "either", _chunked(b"Transfer-Encoding: identity, chunked"))
    yield Production("Transfer-Encoding: identity", "either", _whole(b"Transfer-Encoding: identity"))
    yield Production("an unknown Transfer-Encoding", "either", _whole(b"Transfer-Encoding: cow"))
    yield Production(
        "an unknown one up to the end",
        "either",
        lambda request, _: (
            send(head("200 OK", b"Transfer-Encoding: cow") + request.picture),
            CLOSE,
        ),
    )
    yield Production("lengths that agree", "either", _headed(b"Content-Length: @", b"Content-Length: @"))
    yield Production("a list of lengths that agree", "either", _headed(b"Content-Length: @, @"))
    yield Production("lengths that differ", "either", _headed(b"Content-Length: @", b"Content-Length: 9"))
    yield Production(
        "lengths that differ, shorter first", "either", _headed(b"Content-Length: 9", b"Content-Length: @")
    )
    yield Production("a list of lengths that differ", "either", _headed(b"Content-Length: 9, @"))
    yield Production("a signed length", "either", _headed(b"Content-Length: +@"))
    yield Production("a negative length", "either", _headed(b"Content-Length: -@"))
    yield Production("a length in hex", "either", _headed(b"Content-Length: 0x@"))
    yield Production("a length and text", "either", _headed(b"Content-Length: @abc"))
    yield Production("an empty length", "either", _headed(b"Content-Length: "))
    yield Production("leading zeros", "kept", _headed(b"Content-Length: 000000@"))
    yield Production("space around the length", "kept", _headed(b"Content-Length: \t @ \t"))
    yield Production("a length beyond numbers", "either", _headed(b"Content-Length: " + b"9" * 30))
    yield Production("a length beyond memory", "lost", _headed(b"Content-Length: 9223372036854775807"))


def _statuses() -> Iterator[Production]:
    yield Production("203", "kept", _whole(status="203 Non-Authoritative Information"))
    yield Production("no reason phrase", "kept", _whole(status="200"))
    yield Production("an empty reason phrase", "kept", _whole(status="200 "))
    yield Production(
        "a reason phrase beyond ASCII",
        "kept",
        lambda request, _: (send(whole(request.picture).replace(b"200 OK", "200 Données".encode())),),
    )
    yield Production("201", "either", _whole(status="201 Created"))
    yield Production("204", "lost", _bare("204 No Content"))
    yield Production("204 with a length of 0", "lost", _bare("204 No Content", b"Content-Length: 0"))
    yield Production("204 with a body", "either", _whole(status="204 No Content"))
    yield Production(
        "204 with chunks", "either", _bare("204 No", b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n")
    )
    yield Production("205", "lost", _bare("205 Reset Content", b"Content-Length: 0"))
    yield Production("205 with a body", "either", _whole(status="205 Reset Content"))
    yield Production(
        "206",
        "either",
        lambda request, _: (
            send(
                whole(
                    request.picture[:50], b"Content-Range: bytes 0-49/%d" % len(request.picture), status="206 Partial"
                )
            ),
        ),
    )
    yield Production("304 unasked", "lost", _bare("304 Not Modified", b'ETag: "a"'))
    yield Production(
        "304 with the length of what it stands for", "lost", _bare("304 Not Modified", b"Content-Length: 700")
    )
    yield Production("304 with a body", "either", _whole(status="304 Not Modified"))
    yield Production("404 with a picture", "lost", _whole(status="404 Not Found"))
    yield Production(
        "404 in chunks", "lost", _bare("404 No", b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n")
    )
    yield Production("404 up to the end", "lost", _bare("404 Not Found", body=b"nothing here", end=(CLOSE,)))
    yield Production(
        "404 cut short", "lost", _bare("404 Not Found", b"Content-Length: 90", body=b"nothing", end=(CLOSE,))
    )
    yield Production("410", "lost", _bare("410 Gone", b"Content-Length: 0"))
    yield Production(
        "a page beyond any limit", "lost", _bare("404 No", b"Content-Length: 9999999", body=b"x" * 9999, end=(HOLD,))
    )
    yield Production("500", "lost", _bare("500 Oh", b"Content-Length: 2", body=b"no"))
    yield Production("status 600", "lost", _bare("600 What", b"Content-Length: 0"))
    yield Production("status 99", "lost", _bare("99 What", b"Content-Length: 0"))
    yield Production("status 1000", "lost", _bare("1000 What", b"Content-Length: 0"))
    yield Production("status 000", "lost", _bare("000 What", b"Content-Length: 0"))
    yield Production("a status that is no number", "lost", _bare("OK 200", b"Content-Length: 0"))
    yield Production("no HTTP at all", "lost", lambda request, _: (send(b"SSH-2.0-OpenSSH_9.7\r\n"), HOLD))
    yield Production("HTTP/0.9", "either", lambda request, _: (send(request.picture), CLOSE))
    yield Production("ICY", "either", lambda request, _: (send(whole(request.picture).replace(b"HTTP/1.1", b"ICY")),))
    yield Production("http in lower case", "either", lambda r, _: (send(whole(r.picture).replace(b"HTTP", b"http")),))
    yield Production("408 as the answer", "lost", lambda *_: (send(_408), CLOSE))
    yield Production("421", "lost", _bare("421 Misdirected Request", b"Content-Length: 0"))


def _tails() -> Iterator[Production]:
    yield Production("too long by some text", "either", _followed(lambda _: b"and more"))
    yield Production("too long by a line end", "either", _followed(lambda _: b"\r\n"))
    yield Production("too long by a picture", "either", _followed(lambda request: request.stray))
    yield Production("too long, later", "either", _followed(lambda _: b"and more", wait=0.02))
    yield Production("a line end, later", "either", _followed(lambda _: b"\r\n", wait=0.02))
    yield Production("a second answer at once", "either", _followed(_stray_answer))
    yield Production("a second answer later", "either", _followed(_stray_answer, wait=0.01))
    yield Production("a second answer much later", "either", _followed(_stray_answer, wait=0.04))
    yield Production(
        "a second answer behind a 404",
        "lost",
        lambda request, _: (send(head("404 Not Found", b"Content-Length: 0") + whole(request.stray)),),
    )
    yield Production(
        "a second answer behind a 304",
        "lost",
        lambda request, _: (send(head("304 Not Modified") + whole(request.stray)),),
    )
    yield Production(
        "a second answer behind chunks",
        "either",
        lambda request, random: (
            send(head("200 OK", b"Transfer-Encoding: chunked") + chunks(request.picture, random)),
            send(b"0\r\n\r\n" + whole(request.stray)),
        ),
    )
    yield Production("an interim answer behind the final one", "either", _followed(lambda _: EARLY_HINTS))
    yield Production("an interim answer later", "either", _followed(lambda _: EARLY_HINTS, wait=0.02))
    yield Production("408 on the idle connection", "kept", _followed(lambda _: _408, wait=0.02, end=(CLOSE,)))
    yield Production(
        "the end of the idle connection",
        "kept",
        lambda request, _: (
            send(whole(request.picture)),
            idle(0.02),
            CLOSE,
        ),
    )
    yield Production(
        "a reset of the idle connection",
        "kept",
        lambda request, _: (
            send(whole(request.picture)),
            idle(0.02),
            RESET,
        ),
    )
    yield Production(
        "too short and the end",
        "broken_off",
        lambda request, _: (
            send(head("200 OK", b"Content-Length: %d" % (len(request.picture) + 50)) + request.picture[:-40]),
            CLOSE,
        ),
    )
    yield Production(
        "too short and nothing",
        "broken_off",
        lambda request, _: (
            send(head("200 OK", b"Content-Length: %d" % (len(request.picture) + 50)) + request.picture[:-40]),
            HOLD,
        ),
    )
    yield Production("as for HEAD", "broken_off", _bare("200 OK", b"Content-Length: 700", end=(HOLD,)))
    yield Production("as for HEAD in chunks", "broken_off", _bare("200 OK", b"Transfer-Encoding: chunked", end=(HOLD,)))
    yield Production("as for HEAD, and on", "either", _bare("200 OK", b"Content-Length: 700"))
    yield Production("an empty body", "lost", _bare("200 OK", b"Content-Length: 0"))
    for where in ("nothing", "the status line", "the fields", "the head", "a part of the body"):
        yield Production(f"the end after {where}", "broken_off", _cut(where, CLOSE))
        yield Production(f"a reset after {where}", "broken_off", _cut(where, RESET))
    yield Production("drop by drop", "kept", _dribbled)


def _fields() -> Iterator[Production]:
    many = [b"X-Field-%d: %d" % (number, number) for number in range(150)]
    yield Production("150 fields", "kept", _whole(*many))
    yield Production("a field of 60 KB", "kept", _whole(b"Content-Security-Policy: " + b"x" * 60_000))
    yield Production(
        "fields without end", "lost", lambda *_: (send(head("200 OK", *[b"X: " + b"y" * 9000] * 300)), CLOSE)
    )
    yield Production("a folded field", "kept", _whole(b"X-Long: one\r\n two\r\n\tthree"))
    yield Production("a folded length", "either", _headed(b"Content-Length:\r\n @"))
    yield Production("lines that end with LF", "kept", _headed(b"Content-Length: @", line_end=b"\n"))
    yield Production("lines that end with CR", "either", _headed(b"Content-Length: @", line_end=b"\r"))
    yield Production("fields beyond ASCII", "kept", _whole(b"Server: caf\xe9", b"X-Name: \xd0\xbf"))
    yield Production("an empty field", "kept", _whole(b"X-Empty:", b"X-Space:   "))
    yield Production("a NUL in a field", "either", _whole(b"X-Null: a\x00b"))
    yield Production("a CR in a field", "either", _whole(b"X-Return: a\rb"))
    yield Production("a line without a colon", "either", _whole(b"This is no field"))
    yield Production("a field without a name", "either", _whole(b": value"))
    yield Production("space before the colon", "either", _headed(b"Content-Length : @"))
    yield Production("space before the first field", "either", _headed(b" X: y", b"Content-Length: @"))
    yield Production("odd names of fields", "either", _whole(b"X(y): z", b"\xc3\xa9: a", b"[a]: b"))
    yield Production("an empty line first", "either", lambda request, _: (send(b"\r\n" + whole(request.picture)),))
    yield Production("names in any case", "kept", _headed(b"cOnTeNt-LeNgTh: @"))
    yield Production("cookies", "kept", _whole(*[b"Set-Cookie: a%d=b; Path=/; HttpOnly" % n for n in range(60)]))
    yield Production("an upgrade is offered", "kept", _whole(b"Upgrade: h2,h2c", b"Connection: Upgrade"))
    yield Production("Alt-Svc", "kept", _whole(b'Alt-Svc: h3=":443"; ma=86400'))
    yield Production("a type that is no picture", "either", _whole(b"Content-Type: text/html"))


def _codings() -> Iterator[Production]:
    def plain(body: bytes) -> bytes:
        return body

    for coding in (
        b"gzip",
        b"x-gzip",
        b"GZIP",
        b" gzip ",
        b"gzip,",
        b"identity, gzip",
        b"aws-chunked,gzip",
        b"gzip, identity",
    ):
        yield Production(f"coding {coding.decode()!r}", "kept", _coded(gzip.compress, coding))
    for coding in (b"identity", b"", b"aws-chunked", b"utf-8", b"UTF-8", b"none", b"binary", b"image/jpeg", b"8bit"):
        yield Production(f"coding {coding.decode()!r}", "kept", _coded(plain, coding))
    yield Production("gzip in many members", "kept", _coded(_members, b"gzip"))
    yield Production("gzip twice", "kept", _coded(lambda body: gzip.compress(gzip.compress(body)), b"gzip, gzip"))
    yield Production(
        "gzip in two fields", "kept", _coded(lambda body: gzip.compress(gzip.compress(body)), b"gzip", b"gzip")
    )
    yield Production("an unknown coding and gzip in two fields", "kept", _coded(gzip.compress, b"aws-chunked", b"gzip"))
    yield Production("deflate", "kept", _coded(zlib.compress, b"deflate"))
    yield Production("raw deflate", "kept", _coded(_raw_deflate, b"deflate"))
    yield Production("deflate, gzip", "kept", _coded(lambda body: gzip.compress(zlib.compress(body)), b"deflate, gzip"))
    yield Production(
        "gzip in chunks",
        "kept",
        lambda request, random: (
            send(head("200 OK", b"Content-Encoding: gzip", b"Transfer-Encoding: chunked")),
            send(chunks(gzip.compress(request.picture), random) + b"0\r\n\r\n"),
        ),
    )
    yield Production(
        "gzip up to the end",
        "kept",
        lambda request, _: (
            send(head("200 OK", b"Content-Encoding: gzip") + gzip.compress(request.picture)),
            CLOSE,
        ),
    )
    yield Production("gzip that is none", "either", _coded(plain, b"gzip"))
    yield Production("gzip and more", "either", _coded(lambda body: gzip.compress(body) + b"\0" * 64, b"gzip"))
    yield Production("gzip cut", "broken_off", _coded(lambda body: _half(gzip.compress(body)), b"gzip"))
    yield Production(
        "gzip of another length", "either", _coded(lambda body: gzip.compress(body)[:-4] + b"abcd", b"gzip")
    )
    yield Production("deflate cut", "broken_off", _coded(lambda body: _half(zlib.compress(body)), b"deflate"))
    yield Production("a bomb", "lost", _coded(lambda _: gzip.compress(bytes(30 << 20), 9), b"gzip"))
    yield Production(
        "a bomb in a bomb", "lost", _coded(lambda _: gzip.compress(gzip.compress(bytes(30 << 20))), b"gzip, gzip")
    )
    yield Production("many codings", "either", _coded(gzip.compress, b", ".join([b"gzip"] * 50)))
    yield Production("br that is none", "either", _coded(plain, b"br"))
    yield Production("zstd that is none", "either", _coded(plain, b"zstd"))
    yield Production("compress that is none", "either", _coded(plain, b"compress"))


def _redirects() -> Iterator[Production]:
    for status in ("301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"):
        yield Production(f"{status[:3]} to a path", "kept", _moved(status, "{path}/there"))
    yield Production("a redirect with a body", "kept", _moved("302 Found", "{path}/there", b"<html>" * 50))
    yield Production("a redirect with a long body", "kept", _moved("302 Found", "{path}/there", b"x" * 200_000))
    yield Production("a redirect and the end", "kept", _moved("302 Found", "{path}/there", end=(CLOSE,)))
    yield Production("a redirect in UTF-8", "kept", _moved("302 Found", "{path}/été"))
    yield Production("a redirect with spaces", "kept", _moved("302 Found", "{path}/a b c"))
    yield Production("a redirect with backslashes", "kept", _moved("302 Found", "{path}\\a\\b"))
    yield Production("a redirect with dots", "kept", _moved("302 Found", "/x/..{path}/./a"))
    yield Production("a redirect with a fragment", "kept", _moved("302 Found", "{path}/a#part"))
    yield Production("a redirect with a query", "kept", _moved("302 Found", "{path}/a?b=c&d=%20"))
    yield Production(
        "a redirect behind 103",
        "kept",
        lambda request, _: (
            send(EARLY_HINTS),
            sleep(0.02),
            send(head("302 Found", f"Location: {request.path}/a".encode(), b"Content-Length: 0")),
        ),
    )
    yield Production(
        "a redirect in chunks",
        "kept",
        lambda request, _: (
            send(
                head("302 Found", f"Location: {request.path}/a".encode(), b"Transfer-Encoding: chunked")
                + b"1\r\nx\r\n0\r\n\r\n"
            ),
        ),
    )
    yield Production(
        "a redirect up to the end",
        "kept",
        lambda request, _: (
            send(head("302 Found", f"Location: {request.path}/a".encode()) + b"Moved."),
            CLOSE,
        ),
    )
    yield Production(
        "a redirect longer than declared",
        "either",
        lambda request, _: (
            send(
                head("302 Found", f"Location: {request.path}/a".encode(), b"Content-Length: 0") + whole(request.stray)
            ),
        ),
    )
    yield Production("a redirect to itself", "lost", _moved("302 Found", "{path}"))
    yield Production("a redirect to nowhere", "lost", _bare("302 Found", b"Content-Length: 0"))
    yield Production("a redirect to a file", "lost", _moved("302 Found", "file:///etc/passwd"))
    yield Production("a redirect to no address", "lost", _moved("302 Found", "http://[::1"))
    yield Production("a redirect to another port", "lost", _moved("302 Found", "http://127.0.0.1:9/x"))
    yield Production(
        "a redirect in two fields",
        "either",
        lambda request, _: (
            send(head("302 Found", *[f"Location: {request.path}/{n}".encode() for n in "ab"], b"Content-Length: 0")),
        ),
    )
    yield Production("300", "lost", _bare("300 Multiple Choices", b"Content-Length: 0"))


def _wishes() -> Iterator[Production]:
    for value in (
        b"noai",
        b"NOAI",
        b"noimageai",
        b"none",
        b"noindex, nofollow",
        b"max-snippet:1, noai",
        b"all,noai",
        b"*: noai",
        b"tinygptv-curation: noai",
        b"otherbot: all, tinygptv-curation: noimageindex",
    ):
        yield Production(f"X-Robots-Tag: {value.decode()}", "opted_out", _whole(b"X-Robots-Tag: " + value))
    yield Production("X-Robots-Tag in two fields", "opted_out", _whole(b"X-Robots-Tag: all", b"x-robots-tag: noai"))
    yield Production("X-Robots-Tag folded", "opted_out", _whole(b"X-Robots-Tag: all,\r\n noai"))
    yield Production(
        "X-Robots-Tag in chunks", "opted_out", _chunked(b"Transfer-Encoding: chunked", b"X-Robots-Tag: noai")
    )
    yield Production(
        "X-Robots-Tag behind 103",
        "opted_out",
        lambda request, _: (
            send(EARLY_HINTS),
            sleep(0.02),
            send(whole(request.picture, b"X-Robots-Tag: noai")),
        ),
    )
    yield Production(
        "X-Robots-Tag on packed bytes",
        "opted_out",
        lambda request, _: (
            send(whole(gzip.compress(request.picture), b"Content-Encoding: gzip", b"X-Robots-Tag: noai")),
        ),
    )
    yield Production("tdm-reservation", "opted_out", _whole(b"TDM-Reservation: 1"))
    yield Production("X-Robots-Tag for others", "kept", _whole(b"X-Robots-Tag: otherbot: noai, noindex"))
    yield Production("X-Robots-Tag: all", "kept", _whole(b"X-Robots-Tag: all, max-image-preview:none"))
    for value in (
        b"0",
        b"-5",
        b"1.5",
        b"soon",
        b"",
        b"Wed, 21 Oct 2015 07:28:00 GMT",
        b"0, 0",
        b"\xd9\xa3",
        b"nan",
        b"1e3",
    ):
        yield Production(
            f"Retry-After: {value!r}", "lost", _bare("503 Later", b"Retry-After: " + value, b"Content-Length: 0")
        )
    for value in (b"3600", b"9" * 400, b"Fri, 31 Dec 9999 23:59:59 GMT", b"99999999999999999999999999"):
        yield Production(
            f"Retry-After: {value[:30]!r}",
            "lost",
            _bare("503 Later", b"Retry-After: " + value, b"Content-Length: 0"),
            True,
        )
    yield Production("429", "lost", _bare("429 Too Many Requests", b"Content-Length: 0"))
    yield Production("200 with Retry-After", "kept", _whole(b"Retry-After: 3600"))


PRODUCTIONS: tuple[Production, ...] = (
    *_interim(),
    *_framing(),
    *_statuses(),
    *_tails(),
    *_fields(),
    *_codings(),
    *_redirects(),
    *_wishes(),
)
"""Every kind of answer."""
