"""Answers that are not final, 1xx, and what comes behind them."""

from collections.abc import Iterator

from tests.fuzz.messages import CLOSE, EARLY_HINTS, HOLD, Build, Production, bare, head, send, sleep, whole

CONTINUE, PROCESSING = head("100 Continue"), head("102 Processing")


def productions() -> Iterator[Production]:
    """These kinds."""
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
        "101", "lost", bare("101 Switching Protocols", b"Upgrade: h2c", b"Connection: Upgrade", end=(HOLD,))
    )
    yield Production(
        "101 and an answer", "either", _after(head("101 Switching", b"Upgrade: x", b"Connection: Upgrade"))
    )
    yield Production("101 without an upgrade", "either", _after(head("101 Switching Protocols"), pause=0.01))


def _after(*interims: bytes, pause: float = 0.0) -> Build:
    """The sound answer behind interim ones."""
    return lambda request, _: (
        *(part for interim in interims for part in (send(interim), sleep(pause))),
        send(whole(request.picture)),
    )
