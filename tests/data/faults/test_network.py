"""Everything that servers do wrong, in one table of URLs: what each costs, what is asked how often, what is kept.

The names of the tests are sentences about one row of `docs/faults.md`.
"""

import gzip
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.data.sources import pairs_source, pairs_table
from tests.web.pages import (
    PATIENCE_SECONDS,
    chunked,
    endless,
    gzipped,
    hang_up,
    in_turn,
    nonsense,
    page,
    redirect,
    silence,
    status,
    trickled_body,
    trickled_head,
)
from tests.web.server import Web, serving
from tinygptv.data.download.download import download
from tinygptv.definitions.reasons import REASONS
from tinygptv.store.artifacts import Manifest, Store

LIMITS: dict[str, Any] = {
    "image_size": 64,
    "threads": 16,
    "connections_per_host": 16,
    "timeout_seconds": 1.0,
    "deadline_seconds": 4.0,
    "min_bytes_per_second": 1000,
    "max_bytes": 1_000_000,
    "retries": 1,
}
MANY_ZEROS = 300_000_000


@dataclass
class Catalogue:
    """A download of every fault: outcome by last part of the URL, its manifest, its server, another loopback server."""

    outcomes: dict[str, str]
    ledger: dict[str, dict[str, Any]]
    manifest: Manifest
    web: Web
    other: Web
    seconds: float

    def asked(self, name: str) -> int:
        """How often a path was asked for."""
        return self.web.count(f"/{name}")


def faults(picture: Callable[..., bytes], here: str, other: str) -> dict[str, Any]:
    """Path → behaviour. Each kept picture is another one."""
    number = iter(range(1000))

    def good() -> bytes:
        return picture(60, 50, next(number))

    return {
        "fine.jpg": page(good()),
        "short.jpg": page(good()[:300], declared=1000),
        "absent.jpg": status(404),
        "gone.jpg": status(410),
        "forbidden.jpg": status(403),
        "broken_for_a_moment.jpg": in_turn(status(503), page(good())),
        "broken.jpg": status(500),
        "busy.jpg": in_turn(status(429, Retry_After="1"), page(good())),
        "elsewhere.jpg": redirect(f"{other}/secret.jpg"),
        "metadata.jpg": redirect("http://169.254.169.254/latest/meta-data"),
        "to_file.jpg": redirect("file:///etc/hostname"),
        "loop.jpg": redirect("/loop.jpg"),
        "moved.jpg": redirect("/moved%20here.jpg", 301),
        "moved%20here.jpg": page(good()),
        "silent.jpg": silence,
        "hung_up.jpg": hang_up,
        "nonsense.jpg": nonsense,
        "trickle.jpg": trickled_body(0.05),
        "trickled_head.jpg": trickled_head(0.05),
        "declared_huge.jpg": page(b"0", declared=MANY_ZEROS),
        "endless.jpg": endless,
        "packed.jpg": gzipped(good()),
        "packed_bomb.jpg": page(gzip.compress(bytes(MANY_ZEROS // 10)), Content_Encoding="gzip"),
        "packed_strangely.jpg": page(good(), Content_Encoding="br"),
        "chunked.jpg": chunked(good()),
        "chunked_short.jpg": chunked(good(), ends=False),
        "two%20words.jpg": page(good()),
        "caf%C3%A9.jpg": page(good()),
        "noai.jpg": page(good(), X_Robots_Tag="noai"),
        "none.jpg": page(good(), X_Robots_Tag="none"),
        "noml.jpg": page(good(), X_Robots_Tag="noml"),
        "noimageai.jpg": page(good(), X_Robots_Tag="noimageai, nofollow"),
        "tdm.jpg": page(good(), tdm_reservation="1"),
        "noai_for_us.jpg": page(good(), X_Robots_Tag="tinygptv-curation: noai"),
        "noai_for_others.jpg": page(good(), X_Robots_Tag="otherbot: noai"),
        "noindex_404.jpg": status(404, X_Robots_Tag="noindex"),
        "noindex_503.jpg": in_turn(status(503, X_Robots_Tag="noindex"), page(good())),
        "private/picture.jpg": page(good()),
        "robots.txt": page(b"User-agent: *\nDisallow: /private/"),
    }


@pytest.fixture(scope="module", params=["native", "img2dataset"])
def catalogue(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, picture: Callable[..., bytes]
) -> Iterator[Catalogue]:
    folder = tmp_path_factory.mktemp("faults")
    with serving() as web, serving() as other:
        behaviours = faults(picture, web.address, other.address)
        web.pages = {f"/{name}": behave for name, behave in behaviours.items()}
        other.pages = {"/secret.jpg": page(picture(60, 50, 999))}
        urls = [f"{web.address}/{name}" for name in behaviours if name not in ("robots.txt", "moved%20here.jpg")]
        urls[urls.index(f"{web.address}/two%20words.jpg")] = f"{web.address}/two words.jpg"
        urls[urls.index(f"{web.address}/caf%C3%A9.jpg")] = f"{web.address}/caf\u00e9.jpg#top"
        urls += ["file:///etc/hostname", "data:image/gif;base64,R0lGODlhAQABAAAAACw=", "no.scheme.example/x.jpg"]
        urls += ["http://nowhere.invalid/x.jpg", "http://127.0.0.1:1/refused.jpg", f"{other.address[:-1]}x/port.jpg"]
        rows = [{"url": url, "caption": "a picture of something"} for url in [*urls, "", None]]
        source = pairs_source(pairs_table(folder, rows), {"engine": request.param, **LIMITS})
        store, started = Store(str(folder / "work")), time.monotonic()
        manifest = download(store, "faults", source)
        seconds = time.monotonic() - started
        ledger = pq.read_table(store.folder(manifest.artifact) / "ledger.parquet").to_pylist()
        by_name = {row["url"].removeprefix(web.address).strip("/"): row for row in ledger}
        outcomes = {name: row["outcome"] for name, row in by_name.items()}
        yield Catalogue(outcomes, by_name, manifest, web, other, seconds)


def test_every_row_is_a_sample_or_counted_under_one_reason(catalogue: Catalogue) -> None:
    made = catalogue.manifest
    assert made.rows_in == made.rows_out + sum(made.drops.values())
    assert set(made.drops) <= set(REASONS) - {"other"}


def test_no_fault_holds_the_others_up(catalogue: Catalogue) -> None:
    assert catalogue.seconds < PATIENCE_SECONDS / 3


def test_a_body_shorter_than_declared_is_truncated_and_asked_for_again(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["short.jpg"] == "truncated"
    assert catalogue.outcomes["chunked_short.jpg"] == "truncated"
    assert catalogue.asked("short.jpg") == 2


@pytest.mark.parametrize(
    ("name", "outcome"),
    [("absent.jpg", "http_404"), ("gone.jpg", "http_410"), ("forbidden.jpg", "http_403")],
)
def test_a_permanent_answer_is_asked_for_once(catalogue: Catalogue, name: str, outcome: str) -> None:
    assert catalogue.outcomes[name] == outcome
    assert catalogue.asked(name) == 1


def test_what_is_gone_for_good_or_opted_out_is_remembered_as_never_to_be_asked(catalogue: Catalogue) -> None:
    states = {name: catalogue.ledger[name]["state"] for name in ("gone.jpg", "noai.jpg", "absent.jpg", "broken.jpg")}
    assert states == {"gone.jpg": "tombstone", "noai.jpg": "tombstone", "absent.jpg": "failed", "broken.jpg": "retry"}


def test_a_transient_failure_is_asked_for_again_after_a_while(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["broken_for_a_moment.jpg"] == "kept"
    assert catalogue.outcomes["broken.jpg"] == "http_5xx"
    first, second = catalogue.web.times("/broken.jpg")
    assert second - first >= 0.9


def test_retry_after_is_waited_for(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["busy.jpg"] == "kept"
    first, second = catalogue.web.times("/busy.jpg")
    assert 0.95 <= second - first <= 2.5


def test_a_redirect_to_another_private_server_is_not_followed(catalogue: Catalogue) -> None:
    """Although this source may fetch from private addresses: its tables name them, a redirect does not."""
    assert catalogue.outcomes["elsewhere.jpg"] == "private_address"
    assert catalogue.outcomes["metadata.jpg"] == "private_address"
    assert catalogue.other.count("/secret.jpg") == 0


def test_a_redirect_to_a_file_is_refused(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["to_file.jpg"] == "not_http"


def test_a_redirect_in_circles_has_a_name(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["loop.jpg"] == "too_many_redirects"
    assert catalogue.asked("loop.jpg") == 6


def test_a_redirect_within_the_server_is_followed(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["moved.jpg"] == "kept"
    assert catalogue.ledger["moved.jpg"]["final_url"].endswith("/moved%20here.jpg")


@pytest.mark.parametrize(
    ("url", "outcome"),
    [
        ("file:///etc/hostname", "not_http"),
        ("data:image/gif;base64,R0lGODlhAQABAAAAACw=", "not_http"),
        ("no.scheme.example/x.jpg", "not_http"),
        ("", "no_url"),
    ],
)
def test_what_is_not_the_web_is_refused_at_planning(catalogue: Catalogue, url: str, outcome: str) -> None:
    assert catalogue.outcomes[url.strip("/")] == outcome


def test_an_address_with_a_broken_port_is_refused_at_planning(catalogue: Catalogue) -> None:
    assert catalogue.manifest.drops["bad_url"] == 1


def test_a_missing_host_and_a_closed_port_have_their_own_names(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["http://nowhere.invalid/x.jpg"] == "dns"
    assert catalogue.outcomes["http://127.0.0.1:1/refused.jpg"] == "connect"


def test_a_server_that_never_answers_is_left_in_time(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["silent.jpg"] == "timeout"


def test_a_server_that_hangs_up_or_speaks_no_http_has_a_name(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["hung_up.jpg"] == "connect"
    assert catalogue.outcomes["nonsense.jpg"] == "protocol"


def test_a_trickle_is_stopped_in_body_and_in_head(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["trickle.jpg"] == "slow"
    assert catalogue.outcomes["trickled_head.jpg"] == "slow"


def test_a_huge_body_is_not_read(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["declared_huge.jpg"] == "too_large"
    assert catalogue.outcomes["endless.jpg"] == "too_large"
    assert catalogue.web.sent_bytes["/endless.jpg"] < 20 * LIMITS["max_bytes"]


def test_a_packed_body_is_unpacked_within_the_limit(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["packed.jpg"] == "kept"
    assert catalogue.outcomes["packed_bomb.jpg"] == "too_large"
    assert catalogue.outcomes["packed_strangely.jpg"] == "bad_encoding"


def test_a_body_in_chunks_is_read(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["chunked.jpg"] == "kept"


def test_spaces_and_letters_beyond_ascii_are_encoded(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["two%20words.jpg"] == "kept"
    assert catalogue.outcomes["caf%C3%A9.jpg"] == "kept"


@pytest.mark.parametrize("name", ["noai", "none", "noml", "noimageai", "tdm", "noai_for_us"])
def test_an_opt_out_is_honoured_and_asked_for_once(catalogue: Catalogue, name: str) -> None:
    assert catalogue.outcomes[f"{name}.jpg"] == "opted_out"
    assert catalogue.asked(f"{name}.jpg") == 1


def test_an_opt_out_for_somebody_else_is_none_for_us(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["noai_for_others.jpg"] == "kept"


def test_an_error_page_that_wants_no_index_says_nothing_of_the_picture(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["noindex_404.jpg"] == "http_404"
    assert catalogue.outcomes["noindex_503.jpg"] == "kept"


def test_robots_txt_is_asked_for_once_and_obeyed(catalogue: Catalogue) -> None:
    assert catalogue.outcomes["private/picture.jpg"] == "robots_disallowed"
    assert catalogue.asked("private/picture.jpg") == 0
    assert catalogue.asked("robots.txt") == 1


def test_servers_are_told_who_asks(catalogue: Catalogue) -> None:
    assert catalogue.web.agents == {"tinygptv-curation/0.1"}
