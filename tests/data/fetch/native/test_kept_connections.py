"""Whatever a server answers, the next request on the same connection gets its own picture; so do redirects, packed
bytes and interim answers. One site for each kind of answer, one connection to each."""

from random import Random

import pytest

from tests.fuzz.fetched import Outcome, Script, fetch, request_for, robots_request
from tests.fuzz.messages import Message, Production
from tests.fuzz.productions import PRODUCTIONS

_PLAIN = PRODUCTIONS[[production.name for production in PRODUCTIONS].index("a length")]
_KINDS = pytest.mark.parametrize("kind", [production.name for production in PRODUCTIONS])
_FIRST_NUMBERS = range(1, 4 * len(PRODUCTIONS), 4)
_ROBOTS_FIRST_NUMBER = 4 * len(PRODUCTIONS) + 1


def _answer(production: Production, number: int) -> Message:
    return production.message(request_for(number), Random(number))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Outcome]]:
    """Kind of answer → what became of it on a new connection, of the request behind it, and of both once more."""
    pattern = [[production, _PLAIN] * 2 for production in PRODUCTIONS]
    scripts = [
        Script(first, tuple(_answer(production, first + place) for place, production in enumerate(productions)))
        for first, productions in zip(_FIRST_NUMBERS, pattern, strict=True)
    ]
    # The pace leaves time for what a server sends unasked, before the next request is made.
    pace = {"connections_per_host": 1, "requests_per_second_per_host": 8, "timeout_seconds": 2.0}
    found = fetch(scripts, tmp_path_factory.mktemp("kept"), **pace)
    return dict(zip((production.name for production in PRODUCTIONS), found, strict=True))


@pytest.fixture(scope="module")
def forbidden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Outcome]]:
    """Kind of answer → what became of pictures whose robots.txt came so and forbids them."""
    scripts = [
        Script(number, (_answer(_PLAIN, number),), production.message(robots_request(), Random(number)))
        for number, production in enumerate(PRODUCTIONS, start=_ROBOTS_FIRST_NUMBER)
    ]
    found = fetch(scripts, tmp_path_factory.mktemp("forbidden"), connections_per_host=1, timeout_seconds=2.0)
    return dict(zip((production.name for production in PRODUCTIONS), found, strict=True))


@_KINDS
def test_an_answer_is_taken_for_what_it_is(kind: str, outcomes: dict[str, list[Outcome]]) -> None:
    assert [outcome.fault for outcome in outcomes[kind][::2]] == [None, None]


@_KINDS
def test_the_request_behind_it_gets_its_own_picture(kind: str, outcomes: dict[str, list[Outcome]]) -> None:
    assert [outcome.fault for outcome in outcomes[kind][1::2]] == [None, None]


@_KINDS
def test_a_robots_txt_that_comes_so_is_obeyed(kind: str, forbidden: dict[str, list[Outcome]]) -> None:
    assert [outcome.fault for outcome in forbidden[kind]] == [None]
