"""What may be fetched: spellings, schemes, addresses, opt-outs, and the names of failures."""

import email.utils
from datetime import UTC, datetime, timedelta
from email.message import Message
from typing import get_args

import pytest

from tinygptv.data.columns.urls import normalise_url
from tinygptv.data.fetch.guard import (
    NEVER_AGAIN,
    TRANSIENT,
    WORTH_ASKING_AT_ONCE,
    FetchError,
    addresses,
    check_addresses,
    failure_of_status,
    is_public,
    opted_out,
    refusal,
    retry_after_seconds,
)
from tinygptv.data.pictures.storing import Reason
from tinygptv.definitions.reasons import REASONS


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("  http://A.Example/x.jpg#top ", "http://a.example/x.jpg"),
        ("http://a.example/two words.jpg", "http://a.example/two%20words.jpg"),
        ("http://a.example/caf\u00e9.jpg?q=\u00e9", "http://a.example/caf%C3%A9.jpg?q=%C3%A9"),
        ("http://b\u00fccher.example:8080/x", "http://xn--bcher-kva.example:8080/x"),
        ("http://a.example/already%20quoted", "http://a.example/already%20quoted"),
        ("http://a.example/100%.jpg", "http://a.example/100%.jpg"),
        ("http://a.example/open/../private/%2e%2E/./a.jpg", "http://a.example/a.jpg"),
        ("http:\\\\a.example\\b\\c.jpg", "http://a.example/b/c.jpg"),
        ("http:/one.example/x", "http://one.example/x"),
        ("http://a.example/#\x00", "http://a.example/"),
        ("http://a.example/#", "http://a.example/"),
        ("ht\ntp://a.example/li\nne.jpg", "http://a.example/line.jpg"),
        ("http://stra\u00dfe.example/", "http://xn--strae-oqa.example/"),
        ("http://\u03b2\u03cc\u03bb\u03bf\u03c2.example/", "http://xn--nxasmm1c.example/"),
        ("http://\u2603.example/", "http://xn--n3h.example/"),
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("http://name:secret@a.example/x", "http://a.example/x"),
        ("__BASE_URL__/a b/../c.jpg#top", "__BASE_URL__/c.jpg"),
        ("http://[broken/x", "http://[broken/x"),
    ],
)
def test_urls_get_one_spelling(url: str, expected: str) -> None:
    assert normalise_url(url) == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://a.example/x.jpg", None),
        ("https://a.example", None),
        ("file:///etc/passwd", "not_http"),
        ("data:image/png;base64,AAAA", "not_http"),
        ("ftp://a.example/x.jpg", "not_http"),
        ("a.example/x.jpg", "not_http"),
        ("http://", "bad_url"),
        ("http://a.example:port/x", "bad_url"),
        ("http://[broken/x", "bad_url"),
        ("http://two words.example/x", "bad_url"),
        ("http://a.example:0/x", "bad_url"),
        ("http://[::1]:8080/x", None),
    ],
)
def test_only_http_urls_with_a_host_are_asked_for(url: str, reason: str | None) -> None:
    assert refusal(url) == reason


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.7", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("::1", "fe80::1%eth0", "::ffff:10.0.0.7", "64:ff9b::7f00:1", "2002:7f00:1::"),
    ],
)
def test_private_addresses_are_told_from_public_ones_in_whatever_clothes(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(FetchError, match="private_address"):
        check_addresses(("93.184.216.34", address), allow_private=False)
    check_addresses(("93.184.216.34", address), allow_private=True)


def test_public_addresses_may_be_connected_to() -> None:
    check_addresses(("93.184.216.34", "2606:4700::1111"), allow_private=False)


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "[::1]"])
def test_a_host_is_judged_by_its_addresses_however_it_is_written(host: str) -> None:
    with pytest.raises(FetchError, match="private_address"):
        check_addresses(addresses(host.strip("[]")), allow_private=False)


def test_a_host_that_does_not_exist_is_a_dns_failure() -> None:
    with pytest.raises(FetchError, match="dns"):
        addresses("nowhere.invalid")


def headers(*fields: tuple[str, str]) -> Message:
    message = Message()
    for name, value in fields:
        message[name] = value
    return message


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ([("X-Robots-Tag", "noimageai, nofollow")], True),
        ([("X-Robots-Tag", "none")], True),
        ([("X-Robots-Tag", "NoML")], True),
        ([("X-Robots-Tag", "our-bot: noai")], True),
        ([("X-Robots-Tag", "otherbot: nofollow, our-bot: noindex")], True),
        ([("X-Robots-Tag", "nofollow"), ("X-Robots-Tag", "noai")], True),
        ([("X-Robots-Tag", "max-image-preview: large, noai")], True),
        ([("tdm-reservation", "1")], True),
        ([("X-Robots-Tag", "otherbot: noai")], False),
        ([("X-Robots-Tag", "img2dataset: noai, noindex")], False),
        ([("X-Robots-Tag", "nofollow")], False),
        ([("tdm-reservation", "0")], False),
        ([], False),
    ],
)
def test_opt_outs_are_recognised(fields: list[tuple[str, str]], refused: bool) -> None:
    assert opted_out(headers(*fields), "our-bot") is refused


def test_the_wait_a_server_asks_for_is_read_as_seconds_or_as_a_date() -> None:
    in_a_minute = email.utils.format_datetime(datetime.now(UTC) + timedelta(minutes=1))
    assert retry_after_seconds(headers(("Retry-After", "7"))) == 7
    assert retry_after_seconds(headers(("Retry-After", in_a_minute))) == pytest.approx(60, abs=2)
    assert retry_after_seconds(headers(("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT"))) == 0
    assert retry_after_seconds(headers(("Retry-After", "9" * 400))) == 30 * 86_400
    assert retry_after_seconds(headers(("Retry-After", "soon"))) is None
    assert retry_after_seconds(headers()) is None


@pytest.mark.parametrize(
    ("status", "name"), [(404, "http_404"), (410, "http_410"), (418, "http_4xx"), (503, "http_5xx"), (600, "http_5xx")]
)
def test_statuses_that_matter_keep_their_number(status: int, name: str) -> None:
    assert failure_of_status(status) == name


def test_every_reason_has_a_meaning() -> None:
    answers = {failure_of_status(status) for status in (204, 300, 401, 403, 404, 410, 418, 429, 451, 500)}
    pictures = set(get_args(Reason))
    assert {*TRANSIENT, *NEVER_AGAIN, *WORTH_ASKING_AT_ONCE, *answers, *pictures} <= set(REASONS)
