"""robots.txt: a rule applies however rule, target and file are spelled; a second, simpler judge says which one does."""

import json
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from random import Random

from tinygptv.data.columns.urls import normalise_url
from tinygptv.data.fetch.native.robots import parse, text_of

_AGENT = "tinygptv-curation"
_PLAIN = ("a", "b", "B", "/", "/", "-", "_", ".jpg", "~", "0", "img")
_RESERVED = ("!", "&", "(", ")", "+", ",", ";", "=", ":", "@")
_ESCAPED = ("é", "日本", "💩", " ", '"', "<", ">", "`", "{", "}", "|", "^", "\u2028", "\u0085")
_ESCAPED_IN_RULES = ("*", "$", "#")
_LINE_ENDS = ("\n", "\r\n", "\r")
_OTHER_LINES = (
    "# a comment",
    "",
    "Sitemap: https://a.example/s.xml",
    "Host: a.example",
    "Noindex: /",
    "nonsense",
    ": /",
)
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")


def cases(random: Random) -> bytes:
    """A file, a target, and whether the target is allowed."""
    target = [*_drawn(random, random.randint(1, 6))]
    rules = [(random.random() < 0.4, _pattern(random, target)) for _ in range(random.randint(1, 4))]
    written = [(_spelled_rule(pattern, random), is_allowed) for is_allowed, pattern in rules]
    case = {
        "robots": _file(written, random),
        "target": _with_its_end_escaped("/" + "".join(_spelled(token, random) for token in target)),
        "allowed": _allowed(target, rules),
    }
    return json.dumps(case).encode()


def check(data: bytes) -> None:
    """Hold our judgement against the other one."""
    case = json.loads(data)
    url = urllib.parse.urlsplit(normalise_url("http://a.example" + case["target"]))
    target = urllib.parse.urlunsplit(("", "", url.path, url.query, ""))
    robots = parse(text_of(case["robots"].encode()), _AGENT)
    assert robots.allow(target) == case["allowed"], f"{case['robots']!r}: {target!r} is taken as {not case['allowed']}"


def _drawn(random: Random, count: int) -> Iterator[str]:
    """Pieces of a path, none of which makes a segment of dots."""
    for _ in range(count):
        yield random.choice(random.choice((_PLAIN, _PLAIN, _RESERVED, _ESCAPED, _ESCAPED_IN_RULES)))


def _pattern(random: Random, target: Sequence[str]) -> list[str | None]:
    """Pieces of a rule, most often one that has to do with the target; None is the wildcard."""
    start = list(target[: random.randint(0, len(target))]) if random.random() < 0.8 else list(_drawn(random, 2))
    pattern: list[str | None] = ["/", *start]
    if random.random() < 0.3:
        pattern.insert(random.randint(1, len(pattern)), None)
    if len(pattern) > 2 and random.random() < 0.2:
        del pattern[random.randrange(1, len(pattern))]
    return pattern


def _canonical(token: str) -> str:
    return "".join(
        character if character in "/" + "".join(_RESERVED) else urllib.parse.quote(character, safe="~")
        for character in token
    )


def _spelled(token: str, random: Random) -> str:
    """A piece of a target: what is unreserved may be escaped, and what must be need not be."""
    if token == "#":
        return "%23"
    return "".join(_either_way(character, random) for character in token)


def _spelled_rule(pattern: Sequence[str | None], random: Random) -> str:
    """The rule as it may be written. What means something there is escaped, and space at its ends."""
    pieces = [
        "*" if token is None else _canonical(token) if token in _ESCAPED_IN_RULES else _spelled(token, random)
        for token in pattern
    ]
    return _with_its_end_escaped("".join(pieces))


def _with_its_end_escaped(text: str) -> str:
    """With space at the end escaped, which would otherwise not count."""
    kept = text.rstrip()
    return kept + urllib.parse.quote(text[len(kept) :])


def _either_way(character: str, random: Random) -> str:
    escaped = "".join(f"%{byte:02{random.choice('xX')}}" for byte in character.encode())
    return character if character in ("/", *_RESERVED) else random.choice((character, escaped))


def _file(rules: Sequence[tuple[str, bool]], random: Random) -> str:
    """A file that holds these rules for us, one way or another."""
    agent = random.choice((_AGENT, _AGENT.upper(), f"{_AGENT}/1.0", "*"))
    lines = [f"{random.choice(('User-agent', 'user-agent', ' User-Agent '))}:{random.choice(('', ' '))}{agent}"]
    if random.random() < 0.3:
        lines.insert(random.randint(0, 1), "User-agent: another")
    for number, (path, is_allowed) in enumerate(rules):
        if random.random() < 0.2:
            lines.append(random.choice(_OTHER_LINES))
        # Names that follow each other share their rules, so another group can only begin behind a rule of ours.
        if number and random.random() < 0.1:
            lines += ["User-agent: somebody", "Disallow: /", f"User-agent: {agent}"]
        name = random.choice(("Allow", "allow", "ALLOW ") if is_allowed else ("Disallow", "disallow", "DISALLOW "))
        lines.append(f"{name}:{random.choice(('', ' ', '  '))}{path}{random.choice(('', ' ', ' # why'))}")
    if random.random() < 0.3:
        lines += ["User-agent: nobody", "Disallow: /", "Allow: /"]
    return random.choice(("", "\ufeff")) + random.choice(_LINE_ENDS).join([*lines, ""])


def _allowed(target: Sequence[str], rules: Sequence[tuple[bool, Sequence[str | None]]]) -> bool:
    """By the longest rule that matches from the start; among equals the permission."""
    path = "/" + "".join(map(_canonical, target))
    matching = []
    for is_allowed, pattern in rules:
        pieces = [None if token is None else _canonical(token) for token in pattern]
        if re.match("".join(".*" if piece is None else re.escape(piece) for piece in pieces), path):
            matching.append((sum(1 if piece is None else len(piece) for piece in pieces), is_allowed))
    return max(matching, default=(0, True))[1]
