"""What comes behind the answer, and answers that end too soon."""

from collections.abc import Callable, Iterator
from random import Random

from tests.fuzz.messages import (
    CLOSE,
    EARLY_HINTS,
    HOLD,
    RESET,
    TIMEOUT_408,
    Build,
    Part,
    Production,
    Request,
    bare,
    chunks,
    head,
    idle,
    send,
    sleep,
    whole,
)


def productions() -> Iterator[Production]:
    """These kinds."""
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
    yield Production("many answers behind it", "either", _followed(lambda request: _stray_answer(request) * 400))
    yield Production(
        "many answers behind chunks",
        "either",
        lambda request, random: (
            send(
                head("200 OK", b"Transfer-Encoding: chunked")
                + chunks(request.picture, random)
                + b"0\r\n\r\n"
                + whole(request.stray) * 400
            ),
        ),
    )
    yield Production(
        "many answers behind chunks, later",
        "either",
        lambda request, random: (
            send(head("200 OK", b"Transfer-Encoding: chunked") + chunks(request.picture, random) + b"0\r\n\r\n"),
            idle(0.02),
            send(whole(request.stray) * 400),
        ),
    )
    yield Production("an interim answer behind the final one", "either", _followed(lambda _: EARLY_HINTS))
    yield Production("an interim answer later", "either", _followed(lambda _: EARLY_HINTS, wait=0.02))
    yield Production("408 on the idle connection", "kept", _followed(lambda _: TIMEOUT_408, wait=0.02, end=(CLOSE,)))
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
    yield Production("as for HEAD", "broken_off", bare("200 OK", b"Content-Length: 700", end=(HOLD,)))
    yield Production("as for HEAD in chunks", "broken_off", bare("200 OK", b"Transfer-Encoding: chunked", end=(HOLD,)))
    yield Production("as for HEAD, and on", "either", bare("200 OK", b"Content-Length: 700"))
    yield Production("an empty body", "lost", bare("200 OK", b"Content-Length: 0"))
    for where in ("nothing", "the status line", "the fields", "the head", "a part of the body"):
        yield Production(f"the end after {where}", "broken_off", _cut(where, CLOSE))
        yield Production(f"a reset after {where}", "broken_off", _cut(where, RESET))
    yield Production("drop by drop", "kept", _dribbled)


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


def _dribbled(request: Request, _: Random) -> tuple[Part, ...]:
    answer = whole(request.picture)
    pieces = [answer[start : start + 1] for start in range(150)] + [answer[150:]]
    return tuple(part for piece in pieces for part in (send(piece), sleep(0.002)))


def _stray_answer(request: Request) -> bytes:
    return whole(request.stray)
