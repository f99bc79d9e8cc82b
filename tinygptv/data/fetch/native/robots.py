"""robots.txt: what a site allows whom. Pure; RFC 9309, and `Crawl-delay`, which is no part of it.

The group that names us counts, or the one for `*` if none does; of the rules in it the longest match decides, and among
equals the permission.
"""

import re
import urllib.parse
from dataclasses import dataclass

MAX_BYTES = 512 << 10
"""What comes after that is not read; the RFC asks for at least 500 KiB."""

LONGEST_DELAY_SECONDS = 10.0
"""Between two requests. Who asks for more gets this: days between two pictures are meant for other crawlers."""

_PRODUCT = re.compile(r"[a-z0-9_-]+|\*")
_NUMBER = re.compile(r"\d+\.?\d*|\.\d+")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_WRITTEN_AS_THEY_ARE = "!&'()+,/:;=?@[]%"
_WITH_A_MEANING = "*$"
"""In a pattern. Who means the character itself escapes it."""

_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Robots:
    """The rules that apply to one agent, as (is allowed, pattern), the most specific first; and the seconds it is asked
    to leave between two requests."""

    rules: tuple[tuple[bool, str], ...] = ()
    delay_seconds: float = 0.0

    def allow(self, target: str) -> bool:
        """Whether a path with its query may be asked for."""
        written = _spelling(target, "")
        return next((is_allowed for is_allowed, pattern in self.rules if _matches(pattern, written)), True)


def text_of(body: bytes) -> str:
    """What of a file is read: no more than the limit, and no line that the limit cuts."""
    kept = body if len(body) < MAX_BYTES else body[: body.rfind(b"\n", 0, MAX_BYTES) + 1]
    return kept.decode("utf-8", errors="replace")


def parse(text: str, agent_token: str) -> Robots:
    """The rules for the agent of that name. Lines that are no rules are ignored, as the RFC asks."""
    groups: dict[str, list[tuple[bool, str]]] = {}
    delays: dict[str, float] = {}
    names: list[str] = []
    is_naming = False
    for line in _LINE_END.split(text.lstrip("\ufeff")):
        field, _, value = (part.strip(" \t") for part in line.partition("#")[0].partition(":"))
        match field.lower():
            case "user-agent":
                names = names if is_naming else []
                is_naming = True
                if product := _PRODUCT.match(value.lower()):
                    names.append(product[0])
                    groups.setdefault(product[0], [])
            case "allow" | "disallow":
                is_naming = False
                if value:
                    for name in names:
                        groups[name].append((field.lower() == "allow", _pattern(value)))
            case "crawl-delay":
                is_naming = False
                if _NUMBER.fullmatch(value):
                    delays |= dict.fromkeys(names, min(float(value), LONGEST_DELAY_SECONDS))
    ours = agent_token.lower() if agent_token.lower() in groups else "*"
    rules = sorted(groups.get(ours, []), key=lambda rule: (-len(rule[1]), not rule[0]))
    return Robots(tuple(rules), delays.get(ours, 0.0))


def _pattern(value: str) -> str:
    """A rule's path in its one spelling; a `$` that is not its end means itself."""
    body, end = (value[:-1], "$") if value.endswith("$") else (value, "")
    return _spelling(body, _WITH_A_MEANING).replace("$", "%24") + end


def _spelling(text: str, with_a_meaning: str) -> str:
    """One spelling for paths and patterns: what need not be escaped is not, the rest is, in capitals."""

    def one(escape: re.Match[str]) -> str:
        character = chr(int(escape[1], 16))
        return character if character in _UNRESERVED else escape[0].upper()

    return urllib.parse.quote(_ESCAPE.sub(one, text), safe=_WRITTEN_AS_THEY_ARE + with_a_meaning)


def _matches(pattern: str, target: str) -> bool:
    """Whether a pattern with `*` (anything) and a closing `$` (the end) matches from the start, in linear time."""
    is_anchored = pattern.endswith("$")
    first, *others = (pattern[:-1] if is_anchored else pattern).split("*")
    if not target.startswith(first):
        return False
    position = len(first)
    for number, piece in enumerate(others, start=1):
        if is_anchored and number == len(others):
            return target.endswith(piece) and len(target) - len(piece) >= position
        found = target.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    return position == len(target) or not is_anchored
