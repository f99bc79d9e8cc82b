"""The wire by itself: where it connects to, what it reads of a body, which connections it uses again."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.web.pages import endless_chunks, page, raw, trickled_body
from tests.web.server import Web
from tinygptv.data.fetch.guard import FetchError, origin_of
from tinygptv.data.fetch.native.exchange import Exchange
from tinygptv.data.fetch.native.response import Answer
from tinygptv.data.fetch.native.wire import Wire
from tinygptv.definitions.source import Download

LIMITS = Download(timeout_seconds=1.0, deadline_seconds=3.0, retries=0)
PATIENCE_SECONDS = 20.0


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


def fetch(wire: Wire, url: str, addresses: tuple[str, ...] = ("127.0.0.1",), **options: Any) -> Exchange:
    """One exchange, to its end."""
    given = {"max_bytes": 1 << 20, "agent_token": "us"} | options
    exchange = Exchange(url, addresses, origin_of(url), [], LIMITS, **given)
    wire.start(exchange)
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        if exchange in wire.step(0.1):
            return exchange
    raise AssertionError("no end")


def outcome(exchange: Exchange) -> str | bytes:
    assert exchange.outcome is not None
    return exchange.outcome.failure if isinstance(exchange.outcome, FetchError) else exchange.outcome.body


def test_a_connection_is_opened_to_a_given_address_and_to_no_other(wire: Wire, web: Web) -> None:
    web.pages["/a"] = page(b"content")
    url = web.address.replace("127.0.0.1", "elsewhere.example") + "/a"
    assert outcome(fetch(wire, url)) == b"content"
    assert outcome(fetch(wire, f"{web.address}/a", addresses=("127.0.0.2",))) == "connect"


def test_addresses_are_tried_until_one_answers_which_is_told(wire: Wire, web: Web) -> None:
    web.pages["/a"] = page(b"content")
    url = web.address.replace("127.0.0.1", "cdn.example") + "/a"
    found = fetch(wire, url, addresses=("127.0.0.5", "127.0.0.6", "127.0.0.7", "127.0.0.8", "127.0.0.1"))
    assert (outcome(found), found.connected_to) == (b"content", "127.0.0.1")


def test_of_an_error_page_no_more_is_read_than_saves_a_connection(wire: Wire, web: Web) -> None:
    web.pages["/a"] = endless_chunks(404)
    assert outcome(fetch(wire, f"{web.address}/a")) == "http_404"
    time.sleep(0.1)
    assert web.sent_bytes["/a"] < 16 << 20


def test_an_error_page_that_trickles_is_still_what_its_status_says(wire: Wire, web: Web) -> None:
    web.pages["/a"] = trickled_body(PATIENCE_SECONDS, 410)
    assert outcome(fetch(wire, f"{web.address}/a")) == "http_410"


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def test_an_answer_nobody_asked_for_is_nobodys_picture(wire: Wire, web: Web) -> None:
    web.pages |= {f"/{number}": raw(answer(b"%d" % number)) for number in (1, 2, 3)}
    web.pages["/0"] = raw(answer(b"0"), answer(b"unasked"), pause=0.02)
    assert outcome(fetch(wire, f"{web.address}/0")) == b"0"
    time.sleep(0.1)
    assert [outcome(fetch(wire, f"{web.address}/{number}")) for number in (1, 2, 3)] == [b"1", b"2", b"3"]


def test_what_a_kept_connection_explains_is_worth_another_connection(wire: Wire, web: Web) -> None:
    web.pages["/0"] = raw(answer(b"first"))
    web.otherwise = raw(b"garbage\r\n\r\n")
    assert fetch(wire, f"{web.address}/0").repeat is None
    spoiled = fetch(wire, f"{web.address}/1")
    assert (outcome(spoiled), spoiled.repeat is not None) == ("protocol", True)
    again = fetch(wire, f"{web.address}/2", repeat=spoiled.repeat)
    assert (outcome(again), again.repeat) == ("protocol", None), "once is enough"


@pytest.mark.parametrize("length", [b"", b"many", b"+7", b"7 bytes"])
def test_a_length_that_is_no_number_is_worth_asking_until_the_server_closes(
    wire: Wire, web: Web, length: bytes
) -> None:
    web.pages["/0"] = raw(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\ncontent", closes=True)
    first = fetch(wire, f"{web.address}/0")
    assert outcome(first) == "protocol"
    again = fetch(wire, f"{web.address}/0", repeat=first.repeat)
    assert isinstance(again.outcome, Answer)
    assert outcome(again) == b"content"
