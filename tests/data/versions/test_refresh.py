"""A refresh goes on from what is known, publishes only what passed its checks, and never runs twice at once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.raw import Upstream
from tests.data.sources import pairs_source
from tinygptv import catalog
from tinygptv.data.forget.tombstones import add_tombstone, tombstone
from tinygptv.data.versions import refresh as refresh_module
from tinygptv.data.versions.refresh import Refreshed, refresh
from tinygptv.data.versions.versions import pin, published
from tinygptv.definitions.filters import FilterChain, Rule
from tinygptv.definitions.source import PairsSource
from tinygptv.errors import StorageError
from tinygptv.store.artifacts import Manifest, Store


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Upstream:
    upstream = Upstream({f"{number:03d}": {} for number in range(40)})
    monkeypatch.setattr(refresh_module, "download", upstream.download)
    return upstream


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> dict[str, FilterChain]:
    chains = {"web_pairs": FilterChain(about="all", rules=[Rule(name="any", keep="TRUE", why="test")])}
    monkeypatch.setattr(catalog, "filter_chain", chains.__getitem__)
    return chains


@pytest.fixture
def again(store: Store, upstream: Upstream, chains: dict[str, FilterChain], tmp_path: Path) -> Callable[..., Refreshed]:
    """Refresh the source once more."""
    return lambda **given: refresh(store, "web", pairs_source(tmp_path / "pairs.jsonl"), **given, benchmarks={})


def test_news_become_a_version_and_no_news_become_none(
    again: Callable[..., Refreshed], upstream: Upstream, store: Store
) -> None:
    first = again()
    assert (first.outcome, first.changes) == ("published", {"added": 40})
    quiet = again()
    assert (quiet.outcome, quiet.version) == ("nothing_new", first.version)
    upstream.rows |= {"new": {}, "000": {"caption": "said otherwise"}}
    del upstream.rows["001"]
    news = again()
    assert news.changes == {"added": 1, "removed": 1, "changed": 1}
    assert str(news) == "web: version 2 with 40 samples (1 added, 1 removed, 1 changed)"
    assert [one.number for one in published(store, "web").versions] == [1, 2]


def test_every_refresh_goes_on_from_the_newest_ledger(again: Callable[..., Refreshed], upstream: Upstream) -> None:
    made = [again().raw.artifact for _ in range(3)]
    assert upstream.asked == [None, *made[:2]]


def test_a_failed_check_leaves_the_old_version_current_and_the_new_data_for_a_look(
    again: Callable[..., Refreshed], upstream: Upstream, store: Store
) -> None:
    first = again()
    whole, upstream.rows = upstream.rows, {key: row for key, row in upstream.rows.items() if key < "010"}
    refused = again()
    assert (refused.outcome, refused.version) == ("refused", first.version)
    assert [failure.check for failure in refused.failures] == ["rot_jump", "shrunk"]
    assert "refused, version 1 stays current: rot_jump: 1 rows (gone 30, of_rows 40)." in str(refused)
    assert published(store, "web").current == first.version
    assert refused.filtered is not None and store.find(refused.filtered.artifact) is not None
    upstream.rows = whole
    assert again().outcome == "nothing_new"
    assert upstream.asked[-1] == refused.raw.artifact
    assert store.find(refused.filtered.artifact) is None


def test_only_versions_pinned_data_and_the_newest_ledger_are_kept(
    again: Callable[..., Refreshed], store: Store
) -> None:
    first, pinned = again(), again()
    pin(store, "some-run", "web", pinned.raw, {})
    superseded, newest = again(), again()
    assert store.names("raw/web") == sorted({made.raw.artifact for made in (first, pinned, newest)})
    assert superseded.raw.artifact not in store.names("raw/web")


def test_a_failure_that_is_meant_can_be_accepted_by_name(again: Callable[..., Refreshed], upstream: Upstream) -> None:
    again()
    upstream.rows = {key: row for key, row in upstream.rows.items() if key < "010"}
    assert [failure.check for failure in again(accept=["rot_jump"]).failures] == ["shrunk"]
    assert again(accept=["rot_jump", "shrunk"]).outcome == "published"


def test_a_first_version_that_fails_is_not_published_and_tried_again(
    again: Callable[..., Refreshed], upstream: Upstream, store: Store
) -> None:
    upstream.rows["bad"] = {"caption": " "}
    refused = again()
    assert str(refused).startswith("web: refused, nothing is published: empty_captions: 1 rows")
    del upstream.rows["bad"]
    assert again().outcome == "published"
    assert upstream.asked == [None, refused.raw.artifact]


def test_a_changed_filter_is_news_although_the_web_stood_still(
    again: Callable[..., Refreshed], upstream: Upstream, chains: dict[str, FilterChain]
) -> None:
    first = again()
    chains["web_pairs"] = FilterChain(about="most", rules=[Rule(name="one", keep="key != '000'", why="test")])
    second = again()
    assert (second.outcome, second.changes) == ("published", {"added": 0, "removed": 1, "changed": 0})
    assert second.version and first.version and second.version.settings == first.version.settings


def test_a_takedown_is_news_and_the_next_version_is_without_it(again: Callable[..., Refreshed], store: Store) -> None:
    again()
    add_tombstone(store, tombstone("url", "http://web/007.jpg", "asked for by its owner"))
    second = again()
    assert second.filtered is not None and second.filtered.drops == {"forgotten": 1}
    assert second.changes == {"added": 0, "removed": 1, "changed": 0}
    assert again().outcome == "nothing_new"


def test_a_source_defined_anew_is_fetched_from_scratch(
    again: Callable[..., Refreshed], upstream: Upstream, store: Store, tmp_path: Path
) -> None:
    again()
    refresh(store, "web", pairs_source(tmp_path / "pairs.jsonl", licence="other"), benchmarks={})
    assert upstream.asked == [None, None]


def test_a_large_takedown_is_no_loss_in_the_eyes_of_the_checks(again: Callable[..., Refreshed], store: Store) -> None:
    again()
    add_tombstone(store, tombstone("caption", "of 0[01]", "asked for by their owner"))
    assert (done := again()).outcome == "published"
    assert done.changes["removed"] == 20


@pytest.mark.parametrize("where", ["local disk", "S3"])
def test_the_second_refresh_of_a_source_says_who_is_at_it(
    where: str,
    upstream: Upstream,
    chains: dict[str, FilterChain],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    store = Store(request.getfixturevalue("s3_workdir") if where == "S3" else str(tmp_path / "work"))
    source = pairs_source(tmp_path / "pairs.jsonl")
    refused: list[str] = []

    def download(store: Store, name: str, source: PairsSource, previous: Manifest | None = None) -> Manifest:
        if name == "web":
            assert refresh(store, "another", source, benchmarks={}).outcome == "published"
            with pytest.raises(StorageError) as error:
                refresh(store, "web", source, benchmarks={})
            refused.append(str(error.value))
        return upstream.download(store, name, source, previous)

    monkeypatch.setattr(refresh_module, "download", download)
    assert refresh(store, "web", source, benchmarks={}).outcome == "published"
    assert "refresh/web: process" in refused[0] and "is refreshing it" in refused[0]
