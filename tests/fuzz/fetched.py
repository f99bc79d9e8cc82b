"""Answers → what an engine makes of them, held against what it must: black box, through `Fetch`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.messages import Message, Request, whole
from tests.fuzz.server import STRAY, Site, number_of, picture, serving
from tinygptv.data.fetch.fetching import Fetch
from tinygptv.data.fetch.results import Asked, Result
from tinygptv.definitions.reasons import REASONS
from tinygptv.definitions.source import Download

ROBOTS = "/robots.txt"
FORBIDDEN = b"User-agent: *\nDisallow: /\n"
_URLS_PER_SHARD = 50
_LIMITS = {
    "image_size": 64,
    "threads": 32,
    "retries": 0,
    "timeout_seconds": 3.0,
    "deadline_seconds": 10.0,
    "min_bytes_per_second": 0,
    "max_bytes": 4 << 20,
}


@dataclass(frozen=True)
class Script:
    """What one site answers: to its robots.txt, or None where there is none, and to one URL after the other.

    The URL at place k asks for picture `first + k`.
    """

    first: int
    answers: tuple[Message, ...]
    robots: Message | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one URL, and what is wrong about that, if anything is."""

    number: int
    message: Message
    failure: str | None
    fault: str | None


def request_for(number: int, padding: int = 0) -> Request:
    """What the answer for this number is made of."""
    return Request(picture(number, padding), f"/{number}", picture(STRAY))


def robots_request() -> Request:
    """What the answer for a robots.txt that forbids everything is made of."""
    return Request(FORBIDDEN, ROBOTS, picture(STRAY))


def fetch(scripts: Sequence[Script], folder: Path, **limits: object) -> list[list[Outcome]]:
    """Have one engine ask every site for all of its pictures; the outcomes site by site.

    Raises AssertionError for what is nobody's fault alone: a URL without result, a traceback in the engine's log.
    """
    sites = [_site(script) for script in scripts]
    with serving(sites):
        asked = [
            Asked(number, f"{site.address}/{number}")
            for script, site in zip(scripts, sites, strict=True)
            for number in range(script.first, script.first + len(script.answers))
        ]
        fetching = Fetch(folder, Download.model_validate(_LIMITS | limits), allow_private=True)
        for start in range(0, len(asked), _URLS_PER_SHARD):
            fetching.request(asked[start : start + _URLS_PER_SHARD])
        results = [result for shard in fetching.shards() for result in shard.values()]
    log = (folder / "engine.log").read_text(errors="replace")
    assert "Traceback" not in log, log[-2000:]
    assert sorted(result.position for result in results) == [one.position for one in asked], "not one result for each"
    by_number = {result.position: result for result in results}
    return [list(_judged(script, site, by_number)) for script, site in zip(scripts, sites, strict=True)]


def _site(script: Script) -> Site:
    answers = {f"/{script.first + place}": message for place, message in enumerate(script.answers)}
    if script.robots is not None:
        answers[ROBOTS] = script.robots

    def otherwise(path: str) -> bytes:
        first = path.split("/")[1]
        if first == "robots.txt" and script.robots is not None:
            return whole(FORBIDDEN)
        return whole(picture(int(first))) if first.isdecimal() else whole(b"", status="404 Not Found")

    return Site(answers, otherwise)


def _judged(script: Script, site: Site, results: dict[int, Result]) -> Iterator[Outcome]:
    is_predictable = not (site.raced or any(message.spoils_others for message in script.answers))
    for number, message in enumerate(script.answers, start=script.first):
        result = results[number]
        fault = _content_fault(number, result, bool(site.raced))
        if fault is None and script.robots is not None:
            fault = _robots_fault(script.robots, site, result)
        elif fault is None and is_predictable:
            fault = _fault(message, result)
        yield Outcome(number, message, result.failure, fault)


def _content_fault(number: int, result: Result, is_raced: bool) -> str | None:
    if result.failure is None:
        shown = number_of(result.jpeg)
        is_right = shown == number or (is_raced and shown == STRAY)
        return None if is_right else f"shows the picture of {shown}"
    return None if result.failure in REASONS and result.failure != "other" else f"fails as {result.failure!r}"


def _fault(message: Message, result: Result) -> str | None:
    is_right = {
        "kept": result.failure is None,
        "lost": result.failure is not None,
        "broken_off": result.failure is not None,
        "opted_out": result.failure == "opted_out",
        "either": True,
    }
    return None if is_right[message.expected] else f"should be {message.expected}, not {result.failure or 'kept'}"


def _robots_fault(robots: Message, site: Site, result: Result) -> str | None:
    """A sound message forbids the pictures by what it says, one that breaks off by being unknown."""
    if robots.expected in ("either", "lost"):
        return None
    if pictures := [path for path in site.asked if not path.startswith(ROBOTS)]:
        return f"robots.txt forbids it ({robots.name}), and yet {', '.join(pictures)} was asked for"
    is_sound = robots.expected != "broken_off"
    if is_sound and result.failure != "robots_disallowed":
        return f"robots.txt forbids it ({robots.name}), and yet it fails as {result.failure}"
    return None
