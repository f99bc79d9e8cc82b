"""robots.txt as RFC 9309 has it."""

import time

import pytest

from tinygptv.data.fetch.native.robots import LONGEST_DELAY_SECONDS, MAX_BYTES, Robots, parse, text_of

GROUPS = """
User-agent: otherbot
Disallow: /

User-Agent: Our-Bot/2.0   # ours
User-agent: friend
Disallow: /private/
Allow: /private/open

User-agent: *
Disallow: /
"""


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/", True), ("/private/x.jpg", False), ("/private/open/x.jpg", True), ("/Private/x.jpg", True)],
)
def test_the_group_that_names_us_counts_and_not_the_one_for_all(path: str, allowed: bool) -> None:
    assert parse(GROUPS, "our-bot").allow(path) is allowed


def test_who_is_not_named_is_meant_by_the_star() -> None:
    assert not parse(GROUPS, "stranger").allow("/x.jpg")
    assert parse("User-agent: otherbot\nDisallow: /", "stranger").allow("/x.jpg")


def test_groups_of_one_name_are_one_group() -> None:
    robots = parse("User-agent: a\nDisallow: /1\n\nUser-agent: b\nDisallow: /\n\nUser-agent: A\nDisallow: /2", "a")
    assert [robots.allow(path) for path in ("/1", "/2", "/3")] == [False, False, True]


@pytest.mark.parametrize(
    ("rules", "path", "allowed"),
    [
        ("Disallow: /a\nAllow: /a/b", "/a/b/c", True),
        ("Allow: /a/b\nDisallow: /a/b", "/a/b", True),
        ("Disallow:", "/x", True),
        ("Disallow: /*.gif$", "/x/y.gif", False),
        ("Disallow: /*.gif$", "/x/y.gif?size=1", True),
        ("Disallow: /*.gif$", "/x/y.gifs", True),
        ("Disallow: /a*b*c", "/a1b2c3", False),
        ("Disallow: /a*b*c", "/a1c2b3", True),
        ("Disallow: /*/secret", "/x/secret", False),
        ("Disallow: /ab$", "/ab", False),
        ("Disallow: /aba*aba$", "/aba", True),
        ("Disallow: /caf%C3%A9", "/caf\u00e9", False),
        ("Disallow: /caf\u00e9", "/caf%c3%a9", False),
        ("Disallow: /%7Euser", "/~user", False),
        ("Disallow: /?id=", "/?id=4", False),
        ("Disallow: /a<b>", "/a%3Cb%3E", False),
        ("Disallow: /a%3cb", "/a<b", False),
        ("Disallow: /a%2Ab", "/a*b", False),
        ("Disallow: /a%2Ab", "/axb", True),
        ("Disallow: /a%24", "/a$b", False),
        ("Disallow: /a$b", "/a$bc", False),
        ("Disallow: /x\u2028Allow: /", "/x\u2028Allow: /y", False),
        ("nonsense\nDisallow /x\nCrawl-delay: 3\nDisallow: /y", "/x", True),
    ],
)
def test_the_longest_match_decides(rules: str, path: str, allowed: bool) -> None:
    assert parse(f"User-agent: *\n{rules}", "our-bot").allow(path) is allowed


def test_rules_before_any_name_belong_to_nobody() -> None:
    assert parse("Disallow: /\n", "our-bot") == Robots()


def test_a_picture_in_the_place_of_the_file_allows_all() -> None:
    assert parse("\ufeff\xff\xd8\xff\xe0 JFIF", "our-bot").allow("/x")


def test_a_hostile_pattern_costs_no_time() -> None:
    robots = parse(f"User-agent: *\nDisallow: /{'*a' * 1000}b", "our-bot")
    started = time.process_time()
    assert robots.allow("/" + "a" * 10_000)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("delay", "seconds"), [("2", 2.0), ("0.5", 0.5), (" .5 ", 0.5), ("86400", LONGEST_DELAY_SECONDS), ("soon", 0.0)]
)
def test_a_crawl_delay_is_kept_up_to_a_limit(delay: str, seconds: float) -> None:
    text = f"User-agent: a\nCrawl-delay: {delay}\nDisallow: /x\n\nUser-agent: *\nCrawl-delay: 7"
    assert (parse(text, "a").delay_seconds, parse(text, "a").allow("/x")) == (seconds, False)
    assert parse(text, "b").delay_seconds == 7.0


def test_a_rule_that_the_limit_cuts_is_none() -> None:
    before = b"User-agent: *\n".ljust(MAX_BYTES - 11, b"#") + b"\n"
    assert parse(text_of(before + b"Disallow: /only/this"), "a").allow("/")
    assert len(text_of(before + b"Disallow: /only/this")) == len(before)
