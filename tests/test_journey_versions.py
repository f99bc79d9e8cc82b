"""A run keeps to the data it began with, while refreshes and requests to forget go on around it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.miniature import HARDWARE, PICTURES, RECIPE, SOURCE, write_miniature
from tinygptv.data.forget.tombstones import bury, tombstone
from tinygptv.data.mixtures.mixing import MixedSamples
from tinygptv.data.versions.refresh import Refreshed, refresh
from tinygptv.journey import Arrow, Journey, open_journey
from tinygptv.runs.plan import plan
from tinygptv.shapes.server import serve
from tinygptv.store.artifacts import Manifest, Store

GONE = "__BASE_URL__/images/03.png"


@pytest.fixture
def miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    environment = write_miniature(tmp_path / "mini", {"stage1": 2})
    with serve(tmp_path / "mini") as address:
        for name, value in (environment | {"TINYGPTV_BASE_URL": address}).items():
            monkeypatch.setenv(name, value)
        yield tmp_path / "mini"


def journey_of(run: str, folder: Path) -> Journey:
    return open_journey(run, RECIPE, SOURCE, HARDWARE, str(folder.parent / "work"))


def curated(journey: Journey) -> list[Manifest]:
    """What a run's first three arrows leave: raw pairs, filtered pairs, mixture."""
    return [journey.make(arrow) for arrow in journey.arrows("download", "filter", "mix")]


def refreshed(folder: Path) -> Refreshed:
    journey = journey_of("any", folder)
    run = journey.run
    return refresh(journey.store, run.source_name, run.source, ["shrunk"], benchmarks=run.benchmark_sources)


def shorten_table(folder: Path, rows: int) -> None:
    table = folder / "pairs.jsonl"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:rows]))


def test_a_run_goes_on_with_its_version_and_the_next_run_takes_the_new_one(miniature: Path) -> None:
    refreshed(miniature)
    first = curated(journey_of("first", miniature))
    assert first[0].rows_out == PICTURES
    shorten_table(miniature, 20)
    assert refreshed(miniature).outcome == "published"
    assert curated(journey_of("first", miniature)) == first
    second = curated(journey_of("second", miniature))
    assert second[0].rows_out == 20
    assert [planned.why.partition(", ")[0] for planned in plan(journey_of("first", miniature))[:2]] == ["version 1"] * 2
    assert [planned.why.partition(", ")[0] for planned in plan(journey_of("second", miniature))[:2]] == [
        "version 2"
    ] * 2


def test_a_version_is_taken_although_the_tables_have_changed_since(miniature: Path) -> None:
    version = refreshed(miniature).version
    shorten_table(miniature, 20)
    (raw, *_) = curated(journey_of("first", miniature))
    assert version is not None and raw.artifact == version.raw


def test_without_any_version_a_changed_table_is_downloaded_as_ever(miniature: Path) -> None:
    before = curated(journey_of("first", miniature))
    shorten_table(miniature, 20)
    after = curated(journey_of("first", miniature))
    assert before[0].artifact != after[0].artifact


def test_a_run_that_began_before_the_first_version_is_left_alone(miniature: Path) -> None:
    before = curated(journey_of("first", miniature))
    assert refreshed(miniature).raw == before[0]
    shorten_table(miniature, 20)
    refreshed(miniature)
    assert curated(journey_of("first", miniature)) == before


def test_what_is_forgotten_is_masked_in_a_run_under_way_and_left_out_of_the_next(miniature: Path) -> None:
    first = curated(journey_of("first", miniature))
    store = Store(str(miniature.parent / "work"))
    bury(store, tombstone("url", GONE, "asked for by its owner"))
    assert curated(journey_of("first", miniature)) == first
    mixed = MixedSamples(store, first[2].artifact)
    assert [int(mask.sum()) for mask in mixed.masks if mask is not None] == [1]
    second = curated(journey_of("second", miniature))
    assert second[1].drops["forgotten"] == 1
    assert second[1].artifact != first[1].artifact
    assert not MixedSamples(store, second[2].artifact).masks


def test_a_plan_pins_nothing(miniature: Path) -> None:
    refreshed(miniature)
    journey = journey_of("first", miniature)
    plan(journey)
    assert journey.store.read("runs/first/data.json") is None
    journey.find(Arrow("download", SOURCE))
    assert journey.store.read("runs/first/data.json") is not None
