"""Versions are published whole and in order; a run keeps to the one it began with."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.raw import build_raw
from tests.data.sources import pairs_source
from tinygptv.data.forget.tombstones import add_tombstone, tombstone
from tinygptv.data.versions.versions import (
    Version,
    artifact_of,
    chosen,
    diff,
    number_of,
    originals,
    pin,
    pinned,
    publish,
    published,
    settings_of,
    versions,
)
from tinygptv.errors import DataError, DefinitionError
from tinygptv.store.artifacts import Manifest, Store

ROWS: dict[str, dict[str, Any]] = {key: {} for key in "abcd"}


def version(raw: Manifest, number: int, settings: str) -> Version:
    filtered = f"filtered/web-{raw.artifact.rpartition('@')[2]}"
    made = {"raw": raw.artifact, "filtered": filtered, "rows": raw.rows_out}
    return Version(number=number, settings=settings, filter="f", published="2026-01-01", **made)


@pytest.fixture
def three(store: Store) -> list[Manifest]:
    """Three states of a source: four rows; one of them gone, one new; a caption and a picture changed."""
    second = {key: {} for key in "bcde"}
    third = second | {"b": {"caption": "another caption"}, "c": {"picture": "other"}}
    return [build_raw(store, f"raw/web@{n}", rows) for n, rows in enumerate([ROWS, second, third])]


def test_a_source_that_was_never_published_has_no_version(store: Store, tmp_path: Path) -> None:
    assert published(store, "web").current is None
    assert chosen(store, "first", "web", pairs_source(tmp_path / "pairs.jsonl")) is None
    assert versions(store) == {}


def test_the_last_version_is_current_and_the_others_are_kept(store: Store, three: list[Manifest]) -> None:
    for number, raw in enumerate(three, start=1):
        publish(store, "web", version(raw, number, "s"))
    known = published(store, "web")
    assert [one.raw for one in known.versions] == [raw.artifact for raw in three]
    assert known.current is not None and known.current.number == 3
    assert number_of(store, three[1].artifact) == 2
    assert number_of(store, "raw/web@other") is None
    assert list(versions(store)) == ["web"]


def test_two_cannot_publish_the_same_number(store: Store, three: list[Manifest]) -> None:
    publish(store, "web", version(three[0], 1, "s"))
    with pytest.raises(DataError, match="version 1 already exists"):
        publish(store, "web", version(three[1], 1, "s"))


def test_a_new_run_takes_the_current_version_and_an_old_one_keeps_its_own(
    store: Store, three: list[Manifest], tmp_path: Path
) -> None:
    source = pairs_source(tmp_path / "pairs.jsonl")
    publish(store, "web", version(three[0], 1, settings_of(source)))
    pin(store, "first", "web", three[0], {})
    publish(store, "web", version(three[1], 2, settings_of(source)))
    numbers = [found and found.number for run in ("first", "second") if (found := chosen(store, run, "web", source))]
    assert numbers == [1, 2]


def test_a_run_that_began_without_a_version_goes_on_without_one(
    store: Store, three: list[Manifest], tmp_path: Path
) -> None:
    source = pairs_source(tmp_path / "pairs.jsonl")
    pin(store, "first", "web", three[2], {})
    publish(store, "web", version(three[0], 1, settings_of(source)))
    assert chosen(store, "first", "web", source) is None


@pytest.mark.parametrize(
    ("changed", "still_fits"),
    [
        ({"download": {"image_size": 32}}, False),
        ({"licence": "other"}, False),
        ({"download": {"threads": 3, "timeout_seconds": 1.0}}, True),
        ({"filter": "laion_pairs"}, True),
        ({"about": "said otherwise"}, True),
    ],
)
def test_a_version_is_only_taken_by_a_source_that_would_fetch_the_same(
    store: Store, three: list[Manifest], tmp_path: Path, changed: dict[str, Any], still_fits: bool
) -> None:
    publish(store, "web", version(three[0], 1, settings_of(pairs_source(tmp_path / "pairs.jsonl"))))
    assert (chosen(store, "first", "web", pairs_source(tmp_path / "pairs.jsonl", **changed)) is not None) == still_fits


def test_a_run_remembers_how_many_tombstones_it_began_with(store: Store, three: list[Manifest]) -> None:
    add_tombstone(store, tombstone("domain", "a.org", "test"))
    assert pinned(store, "first", "web") is None
    pin(store, "first", "web", three[0], {})
    add_tombstone(store, tombstone("domain", "b.org", "test"))
    pin(store, "first", "web", three[0], {})
    assert (found := pinned(store, "first", "web")) and found.tombstones == 1
    pin(store, "first", "web", three[1], {})
    assert (found := pinned(store, "first", "web")) and found.tombstones == 2


def test_a_run_keeps_to_the_originals_it_began_with(store: Store, three: list[Manifest], tmp_path: Path) -> None:
    source = pairs_source(tmp_path / "pairs.jsonl", not_in=["web"])
    publish(store, "web", version(three[0], 1, "s").model_copy(update={"filtered": three[0].artifact}))
    before = originals(store, "mine", source)
    assert before == {"web": three[0]}
    pin(store, "first", "mine", three[2], before)
    publish(store, "web", version(three[1], 2, "s").model_copy(update={"filtered": three[1].artifact}))
    assert originals(store, "mine", source) == {"web": three[1]}
    assert originals(store, "mine", source, pinned(store, "first", "mine")) == before


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("web", r"not_in: 'web': 'web': want source or source@number.*`tinygptv refresh` publishes.*There are none"),
        ("mine", "not_in: 'mine': nothing would be left of it; name an older version, as in mine@1"),
    ],
)
def test_originals_that_are_not_there_are_refused(store: Store, tmp_path: Path, reference: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        originals(store, "mine", pairs_source(tmp_path / "pairs.jsonl", not_in=[reference]))


def test_a_difference_lists_what_was_added_removed_and_changed(store: Store, three: list[Manifest]) -> None:
    first, second, third = (raw.artifact for raw in three)
    gone = diff(store, first, second)
    assert gone.counts == {"added": 1, "removed": 1, "changed": 0}
    assert gone.table.to_pylist() == [
        {"key": "e", "url": "http://web/e.jpg", "change": "added"},
        {"key": "a", "url": "http://web/a.jpg", "change": "removed"},
    ]
    assert diff(store, second, third).table["key"].to_pylist() == ["b", "c"]
    assert sum(diff(store, first, first).counts.values()) == 0


def test_a_version_is_named_by_source_and_number(store: Store, three: list[Manifest]) -> None:
    publish(store, "web", version(three[0], 1, "s"))
    assert artifact_of(store, "web@1") == artifact_of(store, "web") == version(three[0], 1, "s").filtered
    assert artifact_of(store, three[0].artifact) == three[0].artifact
    with pytest.raises(DefinitionError, match=r"'web@2': want source or source@number.*Did you mean 'web@1'"):
        artifact_of(store, "web@2")
    with pytest.raises(DefinitionError, match="raw/web@9: no such artifact"):
        artifact_of(store, "raw/web@9")


def test_a_damaged_document_is_named(store: Store) -> None:
    store.update("published/web.json", lambda _: "{]")
    with pytest.raises(DataError, match=r"published/web.json: damaged"):
        published(store, "web")
