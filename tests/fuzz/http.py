"""HTTP messages: one case is a few dozen sites that answer as a grammar and chance have it, asked by one engine."""

import itertools
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

from tests.fuzz.fetched import Script, fetch, request_for, robots_request
from tests.fuzz.messages import CLOSE, RESET, Message, Part, Request, head, send
from tests.fuzz.productions import PRODUCTIONS

_SITES, _ANSWERS = 60, 6
_PADDINGS = (0, 0, 0, 0, 3_000, 70_000, 300_000)
_SLOW = {production.name for production in PRODUCTIONS if "nothing" in production.name or "HEAD" in production.name}
_INTERIMS = (
    head("100 Continue"),
    head("102 Processing"),
    head("103 Early Hints", b"Link: </a.css>; rel=preload", b"Link: </b.js>; rel=preload"),
    head("104 Upload Resumption Supported", b"X-Any: thing"),
    head("199 Whatever"),
)
_FIELDS = (
    b"Server: nginx",
    b"X-Cache: HIT",
    b"Vary: Accept",
    b"Cache-Control: max-age=1",
    b"Set-Cookie: a=b",
    b"X-Odd: \xff\xfe",
    b"X-Empty:",
    b"Link: <https://a.example/>; rel=canonical",
    b"Accept-Ranges: bytes",
)


def cases(random: Random) -> bytes:
    """The scripts of some sites, as JSON."""
    scripts = [_script(random, 1 + place * _ANSWERS) for place in range(_SITES)]
    # A pace leaves time for what a server sends unasked.
    limits = {
        "connections_per_host": random.choice((1, 1, 2, 8)),
        "requests_per_second_per_host": random.choice((None, 5)),
    }
    return json.dumps({"limits": limits, "scripts": [asdict(script) for script in scripts]}).encode()


def check(data: bytes) -> int:
    """Fetch it all, and hold every outcome against what it must be; the count of outcomes."""
    case = json.loads(data)
    with tempfile.TemporaryDirectory(prefix="fuzz-http-") as folder:
        found = fetch([_parsed(script) for script in case["scripts"]], Path(folder), **case["limits"])
    faults = [
        f"/{outcome.number} ({outcome.message.name}; before it: {before.message.name if before else 'nothing'}): "
        f"{outcome.fault}"
        for outcomes in found
        for before, outcome in zip([None, *outcomes], outcomes, strict=False)
        if outcome.fault
    ]
    assert not faults, f"{len(faults)} of {sum(map(len, found))} URLs: " + "; ".join(faults)
    return sum(map(len, found))


def _parsed(script: dict) -> Script:
    def message(said: dict) -> Message:
        return Message(**said | {"parts": tuple(Part(*part) for part in said["parts"])})

    robots = script["robots"] and message(script["robots"])
    return Script(script["first"], tuple(map(message, script["answers"])), robots)


def _script(random: Random, first: int) -> Script:
    if random.random() < 0.2:
        plain = _drawn(random, request_for(first), changed=False)
        return Script(first, (plain,), _drawn(random, robots_request()))
    numbers = range(first, first + _ANSWERS)
    return Script(first, tuple(_drawn(random, request_for(number, random.choice(_PADDINGS))) for number in numbers))


def _drawn(random: Random, request: Request, changed: bool = True) -> Message:
    """An answer of any kind, most often with something changed about it."""
    production = random.choice(PRODUCTIONS)
    while production.name in _SLOW and random.random() < 0.8:
        production = random.choice(PRODUCTIONS)
    message = production.message(request, random)
    change = random.choice((_as_it_is, _with_interims, _with_fields, _in_pieces, _broken_off, _with_a_changed_byte))
    return change(message, random) if changed else message


def _as_it_is(message: Message, _: Random) -> Message:
    return message


def _with_interims(message: Message, random: Random) -> Message:
    """Behind interim answers, which changes nothing about it."""
    if not _begins_as(message, "HTTP/1.1 "):
        return message
    pauses = [Part("sleep", seconds=random.choice((0.001, 0.005, 0.02)))] * random.randint(0, 1)
    interims = [part for _ in range(random.randint(1, 3)) for part in (send(random.choice(_INTERIMS)), *pauses)]
    return replace(message, name=f"interims, {message.name}", parts=(*interims, *message.parts))


def _with_fields(message: Message, random: Random) -> Message:
    """With more fields, which changes nothing about it."""
    if not _begins_as(message, "HTTP/1.1 200 OK\r\n"):
        return message
    fields = b"".join(random.choice(_FIELDS) + b"\r\n" for _ in range(random.randint(1, 8))).decode("latin-1")
    text = message.parts[0].text.replace("200 OK\r\n", "200 OK\r\n" + fields, 1)
    return replace(message, name=f"{message.name}, more fields", parts=(Part("send", text), *message.parts[1:]))


def _in_pieces(message: Message, random: Random) -> Message:
    """In several packets, which changes nothing about it, unless some of them are not part of it."""
    if message.expected not in ("kept", "broken_off", "opted_out") or message.parts[0].do != "send":
        return message
    text, pause = message.parts[0].text, Part("sleep", seconds=random.choice((0.0, 0.001, 0.004)))
    places = sorted({0, len(text), *(random.randint(0, len(text)) for _ in range(random.randint(1, 6)))})
    pieces = [Part("send", text[start:end]) for start, end in itertools.pairwise(places)]
    parts = [part for piece in pieces for part in (piece, pause)]
    return replace(message, name=f"{message.name}, in pieces", parts=(*parts[:-1], *message.parts[1:]))


def _broken_off(message: Message, random: Random) -> Message:
    """Ended at any byte. Some kinds are whole before their last byte, so nothing is known of what must become of it."""
    if message.parts[0].do != "send":
        return message
    text = message.parts[0].text[: random.randint(1, len(message.parts[0].text))]
    end = random.choice((CLOSE, RESET))
    return Message(f"{message.name}, broken off ({end.do})", "either", (Part("send", text), end), message.spoils_others)


def _with_a_changed_byte(message: Message, random: Random) -> Message:
    """With one byte of its head lost, doubled, or another; a redirect might then lead to another's picture."""
    if message.parts[0].do != "send" or "\nLocation" in message.parts[0].text:
        return message
    text = message.parts[0].text
    place = random.randrange(max(1, text.find("\r\n\r\n") + 4))
    new = random.choice(("", text[place : place + 1] * 2, chr(random.randrange(256)), random.choice("0\r\n :;,")))
    parts = (Part("send", text[:place] + new + text[place + 1 :]), *message.parts[1:])
    return Message(f"{message.name}, a byte changed", "either", parts, spoils_others="Retry-After" in text)


def _begins_as(message: Message, start: str) -> bool:
    return message.parts[0].do == "send" and message.parts[0].text.startswith(start)
