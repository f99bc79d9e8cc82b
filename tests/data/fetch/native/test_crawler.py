"""The crawler's manners: how many, how often, who may not be asked, and when enough is enough."""

import gzip
import itertools
import queue
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.web.pages import Held, in_turn, page, redirect, silence, status
from tests.web.server import Web, serving
from tinygptv.data.fetch.guard import FetchError
from tinygptv.data.fetch.native import crawl_policy, wire
from tinygptv.data.fetch.native import crawler as crawling
from tinygptv.data.fetch.native.crawler import Crawler
from tinygptv.data.fetch.native.politeness import Request
from tinygptv.data.fetch.native.response import Answer
from tinygptv.data.fetch.native.robots import MAX_BYTES
from tinygptv.definitions.source import Download

PATIENCE_SECONDS = 30


def ask(urls: list[str], allow_private: bool = True, **limits: Any) -> dict[str, str]:
    """URL → `ok` or the failure's name."""
    answers: dict[str, str] = {}
    all_there = threading.Event()
    failed: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def keep(url: str) -> Any:
        def on_answer(_: Request, answer: Answer | FetchError) -> None:
            answers[url] = answer.failure if isinstance(answer, FetchError) else "ok"
            if len(answers) == len(urls):
                all_there.set()

        return on_answer

    options = {"threads": 8, "timeout_seconds": 1.0, "retries": 0} | limits
    with Crawler(Download(**options), allow_private, failed) as crawler:
        for url in urls:
            crawler.submit(Request(url, keep(url)))
        assert all_there.wait(PATIENCE_SECONDS)
    assert failed.empty()
    return answers


def numbered(web: Web, count: int) -> list[str]:
    """Addresses of so many pages that are there."""
    web.pages |= {f"/{number}": page(b"content") for number in range(count)}
    return [f"{web.address}/{number}" for number in range(count)]


def test_connections_are_kept_and_never_more_than_allowed(web: Web) -> None:
    assert set(ask(numbered(web, 60), connections_per_host=3).values()) == {"ok"}
    assert web.connections <= 3, "robots.txt comes over one of them"


def test_an_error_page_does_not_cost_a_connection(web: Web) -> None:
    web.pages = {f"/{number}": status(404) for number in range(20)}
    assert set(ask([f"{web.address}/{number}" for number in range(20)], connections_per_host=2).values()) == {
        "http_404"
    }
    assert web.connections <= 2


def test_requests_keep_their_distance(web: Web) -> None:
    ask(numbered(web, 8), requests_per_second_per_host=10.0)
    times = sorted(asked.moment for asked in web.requests if asked.path != "/robots.txt")
    assert times[-1] - times[0] >= 0.5


def test_one_slow_host_does_not_hold_up_another(web: Web) -> None:
    with serving() as slow:
        slow.pages = {f"/{number}": silence for number in range(10)}
        hanging = [f"{slow.address}/{number}" for number in range(10)]
        answers = ask([*hanging, *numbered(web, 50)], connections_per_host=4, timeout_seconds=0.5)
    assert [answers[url] for url in hanging] == ["timeout"] * 10
    assert max(asked.moment for asked in web.requests) < min(slow.times("/9"))


def test_a_kept_connection_that_its_server_closed_is_opened_again_without_counting_as_a_failure(web: Web) -> None:
    def closing(handler: Any) -> None:
        page(b"content")(handler)
        handler.close_connection = True

    web.pages = {f"/{number}": closing for number in range(5)}
    answers = ask([f"{web.address}/{number}" for number in range(5)], connections_per_host=1)
    assert set(answers.values()) == {"ok"}
    assert all(web.count(f"/{number}") == 1 for number in range(5))


def test_retry_after_holds_for_the_whole_host(web: Web) -> None:
    urls = numbered(web, 3)
    web.pages["/0"] = in_turn(status(503, Retry_After="1"), page(b"content"))
    assert set(ask(urls, retries=1, connections_per_host=1).values()) == {"ok"}
    refused = web.times("/0")[0]
    assert all(0.95 <= web.times(path)[-1] - refused <= 2 for path in web.asked_for)


@pytest.mark.parametrize("coding", ["utf-8", "latin-1"])
def test_letters_beyond_ascii_in_a_redirect_are_understood(web: Web, coding: str) -> None:
    web.pages |= {
        "/old": redirect("/caf\u00e9.jpg".encode(coding).decode("latin-1")),
        "/caf%C3%A9.jpg": page(b"content"),
    }
    assert ask([f"{web.address}/old"]) == {f"{web.address}/old": "ok"}


def test_a_host_that_asks_for_a_long_wait_is_not_asked_again(web: Web) -> None:
    urls = numbered(web, 5)
    web.pages["/0"] = status(429, Retry_After="3600")
    answers = ask(urls, connections_per_host=1, retries=3)
    assert Counter(answers.values()) == {"http_429": 1, "host_busy": 4}
    assert sum(web.count(f"/{number}") for number in range(5)) == 1


def test_a_host_that_opts_out_again_and_again_is_left_alone(web: Web) -> None:
    web.pages = {f"/{number}": page(b"content", X_Robots_Tag="noai") for number in range(30)}
    answers = ask([f"{web.address}/{number}" for number in range(30)], connections_per_host=1)
    assert Counter(answers.values()) == {"opted_out": 10, "host_opted_out": 20}
    assert sum(web.count(f"/{number}") for number in range(30)) == 10


def test_a_host_that_is_out_of_order_is_given_up(web: Web) -> None:
    web.pages = {f"/{number}": status(500) for number in range(40)}
    answers = ask([f"{web.address}/{number}" for number in range(40)], connections_per_host=1)
    assert Counter(answers.values()) == {"http_5xx": 32, "host_down": 8}


def test_an_answer_of_any_kind_shows_that_a_host_is_up(web: Web) -> None:
    web.pages = {f"/{number}": status(500 if number % 31 else 404) for number in range(90)}
    answers = ask([f"{web.address}/{number}" for number in range(90)], connections_per_host=1)
    assert set(answers.values()) == {"http_5xx", "http_404"}


def test_not_modified_is_no_answer_to_who_did_not_ask_whether(web: Web) -> None:
    web.pages["/1"] = status(304)
    assert ask([f"{web.address}/1"]) == {f"{web.address}/1": "http_3xx"}


def test_robots_txt_that_does_not_answer_forbids_all_for_now(web: Web) -> None:
    web.pages["/robots.txt"] = status(503)
    assert set(ask(numbered(web, 3), retries=1).values()) == {"robots_unreachable"}
    assert (web.count("/robots.txt"), web.count("/0")) == (1, 0)


def test_robots_txt_that_is_not_there_allows_all(web: Web) -> None:
    web.pages["/robots.txt"] = status(403)
    assert set(ask(numbered(web, 3)).values()) == {"ok"}


def test_robots_txt_may_lie_elsewhere_on_the_host_and_may_opt_out_of_being_indexed_itself(web: Web) -> None:
    urls = numbered(web, 2)
    web.pages["/robots.txt"] = redirect("/rules.txt")
    web.pages["/rules.txt"] = page(b"User-agent: tinygptv-curation\nDisallow: /0", X_Robots_Tag="noindex")
    assert ask(urls) == {urls[0]: "robots_disallowed", urls[1]: "ok"}


@pytest.mark.parametrize("declared", [True, False])
def test_of_a_robots_txt_without_end_the_first_512_kib_count(web: Web, declared: bool) -> None:
    rules = b"User-agent: *\nDisallow: /0\n"
    rules += b"# nothing\n" * ((MAX_BYTES - len(rules)) // 10) + b"Disallow: /1\n" * 100_000
    web.pages["/robots.txt"] = page(rules) if declared else page(gzip.compress(rules), Content_Encoding="gzip")
    urls = numbered(web, 2)
    assert ask(urls) == {urls[0]: "robots_disallowed", urls[1]: "ok"}


def test_a_robots_txt_that_breaks_off_forbids_all_for_now(web: Web) -> None:
    web.pages["/robots.txt"] = page(b"User-agent: *\nDisallow: /0", declared=1000)
    assert set(ask(numbered(web, 2)).values()) == {"robots_unreachable"}


def test_a_crawl_delay_lies_between_two_requests(web: Web) -> None:
    web.pages["/robots.txt"] = page(b"User-agent: *\nCrawl-delay: 0.3")
    assert set(ask(numbered(web, 4)).values()) == {"ok"}
    times = sorted(asked.moment for asked in web.requests if asked.path != "/robots.txt")
    assert all(later - earlier >= 0.25 for earlier, later in itertools.pairwise(times))


def test_robots_txt_can_be_declared_irrelevant_for_ones_own_servers(web: Web) -> None:
    web.pages["/robots.txt"] = page(b"User-agent: *\nDisallow: /")
    assert set(ask(numbered(web, 2), robots=False).values()) == {"ok"}
    assert web.count("/robots.txt") == 0


def test_a_hop_to_a_private_address_is_refused_whoever_sends_it(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """`public.example` is made to look public and to lead to this machine, as a hostile host would."""
    port = web.address.rsplit(":", 1)[1]
    web.pages |= {"/away": redirect(f"http://localhost:{port}/secret"), "/secret": page(b"secret")}
    monkeypatch.setattr(crawling, "addresses", lambda host: ("127.0.0.1",))
    checked = _public_example_is_public(crawling.check_addresses)
    for module in (crawling, crawl_policy):
        monkeypatch.setattr(module, "check_addresses", checked)
    url = f"http://public.example:{port}/away"
    assert ask([url], allow_private=False) == {url: "private_address"}
    assert (web.count("/away"), web.count("/secret")) == (1, 0)


def _public_example_is_public(check: Any) -> Any:
    checked = []

    def first_time_only(found: tuple[str, ...], allow_private: bool) -> None:
        if checked:
            check(found, allow_private)
        checked.append(found)

    return first_time_only


def test_tls_is_spoken_and_a_certificate_nobody_vouches_for_is_refused(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(tmp_path)
    web.pages = {f"/{number}": page(b"content") for number in range(3)}
    with serving(certificate=certificate) as secure:
        secure.pages = web.pages
        urls = [f"{secure.address}/{number}" for number in range(3)]
        assert set(ask(urls[:1]).values()) == {"tls"}
        monkeypatch.setattr(wire, "certificates", lambda: str(certificate))
        assert set(ask(urls, connections_per_host=1).values()) == {"ok"}
        assert secure.count("/2") == 1
    plain = web.address.replace("http:", "https:") + "/0"
    assert ask([plain]) == {plain: "tls"}


def self_signed(folder: Path) -> Path:
    """A certificate for localhost with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "localhost.pem"
    encoding = serialization.Encoding.PEM
    key_format, unencrypted = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(encoding, key_format, unencrypted) + certificate.public_bytes(encoding))
    return path


def test_site_owners_are_told_whom_to_write_to(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(numbered(web, 1), user_agent="ourbot/1", contact="https://example.org/bot")
    monkeypatch.setenv("TINYGPTV_CONTACT", "mailto:us@example.org")
    ask(numbered(web, 1), user_agent="ourbot/1")
    assert web.agents == {"ourbot/1 (+https://example.org/bot)", "ourbot/1 (+mailto:us@example.org)"}


def test_an_error_in_the_caller_ends_the_crawl_instead_of_a_thread(web: Web) -> None:
    failed: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def full(*_: object) -> None:
        raise OSError("no space left")

    with Crawler(Download(threads=1), True, failed) as crawler:
        crawler.submit(Request(numbered(web, 1)[0], full))
        assert isinstance(failed.get(timeout=PATIENCE_SECONDS), OSError)


def test_leaving_the_crawler_makes_no_further_request(web: Web) -> None:
    urls = numbered(web, 5)
    held = web.pages["/0"] = Held(page(b"content"))
    answered: list[str] = []
    failed: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    with Crawler(Download(threads=1), True, failed) as crawler:
        for url in urls:
            crawler.submit(Request(url, lambda request, _: answered.append(request.url)))
        assert held.arrived.wait(PATIENCE_SECONDS)
        threading.Timer(0.2, held.released.set).start()
    assert answered == urls[:1]
