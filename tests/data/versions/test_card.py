"""The data card says what is in a version, and every row of the tables is accounted for on it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.data.raw import Upstream, build_raw
from tests.data.sources import pairs_source
from tinygptv import catalog
from tinygptv.data.filters.filtering import filter_source
from tinygptv.data.forget.tombstones import add_tombstone, tombstone
from tinygptv.data.versions import refresh as refresh_module
from tinygptv.data.versions.card import CARD_JSON, CARD_PAGE, card
from tinygptv.data.versions.refresh import refresh
from tinygptv.definitions.filters import Deduplicate, FilterChain, Rule
from tinygptv.errors import DataError
from tinygptv.store.artifacts import Manifest, Outcome, Store

CHAIN = FilterChain(
    about="test",
    rules=[
        Rule(name="no_cats", keep="NOT contains(caption, 'cat')", why="cats are everywhere"),
        Rule(name="min_side", keep="least(width, height) >= 16", why="too small"),
    ],
    duplicates=[Deduplicate(name="duplicate_image", by="sha256", why="one picture is enough")],
)
ROWS: dict[str, dict[str, Any]] = {f"{n:02d}": {"host": f"h{n % 3}.org", "similarity": n / 20} for n in range(20)} | {
    "cat": {"caption": "a cat", "host": "h0.org"},
    "copy": {"picture": "05", "caption": "<b>again</b>", "url": "http://evil/<script>", "licence": "MIT"},
}

DROPPED = [("http_404", "gone"), ("opted_out", "shy"), ("robots_disallowed", "closed"), ("http_404", "lost")]


@pytest.fixture(autouse=True)
def chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "filter_chain", {"web_pairs": CHAIN}.__getitem__)


@pytest.fixture
def filtered(store: Store) -> Manifest:
    raw = build_raw(store, "raw/web@1", ROWS, dropped=DROPPED)
    return filter_source(store, "web", "web_pairs", raw, benchmarks={})


def written(store: Store, filtered: Manifest) -> tuple[dict[str, Any], str]:
    folder = store.folder(card(store, filtered).artifact)
    return json.loads((folder / CARD_JSON).read_text()), (folder / CARD_PAGE).read_text()


def test_every_row_is_kept_or_dropped_for_a_reason_that_is_named(store: Store, filtered: Manifest) -> None:
    facts, page = written(store, filtered)
    assert facts["rows_in"] == 26 == facts["kept"] + sum(drop["dropped"] for drop in facts["drops"])
    assert [(drop["step"], drop["reason"], drop["left"]) for drop in facts["drops"]] == [
        ("download", "http_404", 24),
        ("download", "opted_out", 23),
        ("download", "robots_disallowed", 22),
        ("filter", "no_cats", 21),
        ("duplicates", "duplicate_image", 20),
    ]
    assert "min_side" in facts["idle_rules"] and "cats are everywhere" in page


def test_shares_of_tables_hosts_and_licences_add_up(store: Store, filtered: Manifest) -> None:
    facts, _ = written(store, filtered)
    for shares in (facts["licences"], facts["hosts"], facts["tables"]):
        assert sum(share["kept"] for share in shares) == facts["kept"]
    assert facts["tables"] == [{"name": "t", "kept": 20, "percent": 100.0, "read": 26}]
    assert {share["name"]: share["kept"] for share in facts["licences"]} == {"CC0-1.0": 20}


def test_histograms_count_every_sample_that_has_a_value(store: Store, filtered: Manifest) -> None:
    facts, page = written(store, filtered)
    counted = {one["name"]: (one["samples"], sum(one["counts"])) for one in facts["histograms"]}
    assert counted["shorter side"] == counted["size"] == counted["caption"] == (20, 20)
    assert counted["similarity"] == (20, 20)
    assert page.count("<svg") == len(facts["histograms"])


def test_what_strangers_wrote_cannot_run_and_nothing_is_loaded_from_elsewhere(store: Store, filtered: Manifest) -> None:
    _, page = written(store, filtered)
    assert "<script" not in page and "<b>again" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_copies_are_shown_with_how_often_they_came(store: Store, filtered: Manifest) -> None:
    facts, page = written(store, filtered)
    assert [(one["reason"], one["times"]) for one in facts["copies"]] == [("duplicate_image", 1)]
    assert "No picture or caption was dropped" not in page


def test_removals_are_counted_and_what_was_asked_is_not_repeated(store: Store) -> None:
    raw = build_raw(store, "raw/web@1", ROWS)
    add_tombstone(store, tombstone("caption", "of 0[12]$", "asked for by Jane"))
    facts, page = written(store, filter_source(store, "web", "web_pairs", raw, benchmarks={}))
    (removal,) = facts["removals"]
    assert (removal["kind"], removal["samples"], removal["why"]) == ("caption", 2, "asked for by Jane")
    assert "of 0[12]" not in page and facts["drops"][0]["reason"] == "forgotten"


def test_objections_are_shown_by_host(store: Store, filtered: Manifest) -> None:
    facts, page = written(store, filtered)
    assert facts["opt_outs"] == [{"name": "web", "kept": 2, "percent": 7.69, "read": None}]
    assert "Hosts that objected" in page


def test_a_published_version_says_its_number_and_what_changed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = Upstream(dict(ROWS))
    monkeypatch.setattr(refresh_module, "download", upstream.download)
    refresh(store, "web", pairs_source(tmp_path / "pairs.jsonl"), benchmarks={})
    upstream.rows["new"] = {"host": "h1.org"}
    second = refresh(store, "web", pairs_source(tmp_path / "pairs.jsonl"), benchmarks={})
    assert second.filtered is not None
    facts, page = written(store, second.filtered)
    assert (facts["version"], facts["changed_since"]) == (2, 1)
    assert facts["changes"] == {"added": 1, "removed": 0, "changed": 0}
    assert "version 2" in page


def test_a_card_is_written_once_and_anew_when_something_was_forgotten(store: Store, filtered: Manifest) -> None:
    first = card(store, filtered)
    assert card(store, filtered) == first
    add_tombstone(store, tombstone("domain", "h1.org", "test"))
    assert card(store, filtered).artifact != first.artifact


def test_a_version_whose_raw_data_are_gone_has_no_card(store: Store) -> None:
    orphan = store.make("filtered/web-x@1", "filter", {}, ["raw/web@gone"], lambda _: Outcome())
    with pytest.raises(DataError, match="the raw data it was made from is gone"):
        card(store, orphan)
