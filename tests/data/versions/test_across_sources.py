"""Two sources that share pictures: what one of them has published, the other leaves out, whoever makes it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.miniature import HARDWARE, PICTURES, RECIPE, SOURCE, write_miniature
from tinygptv.data.shards.shards import sidecar_rows
from tinygptv.data.versions.refresh import Refreshed, refresh
from tinygptv.errors import DefinitionError
from tinygptv.journey import Journey, open_journey
from tinygptv.shapes.scenes import draw, scene
from tinygptv.shapes.server import serve
from tinygptv.store.artifacts import Manifest

MORE = "more_pairs"
SAME_BYTES, CODED_AGAIN, NEW = (0, 1, 2), (3, 4), (100, 101, 102, 103)
COPIES = [
    {"name": "duplicate_image", "by": "coalesce(content_sha256, sha256)", "why": "the same bytes"},
    {"name": "near_duplicate", "by": "phash", "within": 4, "why": "the same picture coded again"},
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The miniature, and a second source: five of its pictures at other addresses, two as JPEG, and new ones."""
    folder = tmp_path / "mini"
    environment = write_miniature(folder, {"stage1": 2})
    (folder / "more").mkdir()
    for number in (*SAME_BYTES, *CODED_AGAIN, *NEW):
        kind = "JPEG" if number in CODED_AGAIN else "PNG"
        draw(scene("train", number), 32).save(folder / "more" / str(number), kind, quality=95)
    write_table(folder, (*SAME_BYTES, *CODED_AGAIN, *NEW))
    (folder / "definitions" / "filters" / "copies.yaml").write_text(
        yaml.safe_dump({"about": "no copies", "rules": [], "decontaminate": None, "duplicates": COPIES})
    )
    define(folder, [SOURCE])
    with serve(folder) as address:
        for name, value in (environment | {"TINYGPTV_BASE_URL": address}).items():
            monkeypatch.setenv(name, value)
        yield folder


def write_table(folder: Path, numbers: tuple[int, ...]) -> None:
    rows = [{"url": f"__BASE_URL__/more/{number}", "caption": f"picture number {number}"} for number in numbers]
    (folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def define(folder: Path, not_in: list[str]) -> None:
    """The second source, without copies of what `not_in` names."""
    definitions = folder / "definitions" / "sources"
    first = yaml.safe_load((definitions / f"{SOURCE}.yaml").read_text())
    changed = {"tables": [{"location": str(folder / "more.jsonl")}], "filter": "copies", "not_in": not_in}
    (definitions / f"{MORE}.yaml").write_text(yaml.safe_dump(first | changed))


def journey_of(folder: Path, source: str, run: str = "any") -> Journey:
    return open_journey(run, RECIPE, source, HARDWARE, str(folder.parent / "work"))


def refreshed(folder: Path, source: str) -> Refreshed:
    journey = journey_of(folder, source)
    accepted = ["shrunk", "captions_changed"]
    return refresh(journey.store, source, journey.run.source, accepted, benchmarks=journey.run.benchmark_sources)


def curated(folder: Path, run: str) -> Manifest:
    """The second source's pairs, as the journey of this run filters them."""
    journey = journey_of(folder, MORE, run)
    return [journey.make(arrow) for arrow in journey.arrows("download", "filter")][-1]


def test_what_another_source_has_published_is_left_out_by_a_journey_and_by_a_refresh(folder: Path) -> None:
    first = refreshed(folder, SOURCE)
    assert first.version and first.version.rows == PICTURES
    made = curated(folder, "first")
    assert made.drops == {"duplicate_image": len(SAME_BYTES), "near_duplicate": len(CODED_AGAIN)}
    assert first.version.filtered in made.parents
    kept = sidecar_rows(journey_of(folder, MORE).store.folder(made.artifact), ["url"])
    assert sorted(row["url"] for row in kept) == [f"__BASE_URL__/more/{number}" for number in NEW]
    done = refreshed(folder, MORE)
    assert done.version and done.version.filtered == made.artifact
    assert refreshed(folder, MORE).outcome == "nothing_new"


def test_a_run_keeps_to_the_version_it_began_with_and_the_next_refresh_takes_the_new_one(folder: Path) -> None:
    refreshed(folder, SOURCE)
    before = curated(folder, "first")
    table = folder / "pairs.jsonl"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[len(SAME_BYTES) :]))
    assert refreshed(folder, SOURCE).changes["removed"] == len(SAME_BYTES)
    assert curated(folder, "first") == before
    assert curated(folder, "second").rows_out == len(NEW) + len(SAME_BYTES)
    assert refreshed(folder, MORE).changes == {"added": len(NEW) + len(SAME_BYTES)}


def test_an_older_snapshot_of_the_source_itself_is_left_out(folder: Path) -> None:
    define(folder, [])
    write_table(folder, (*SAME_BYTES, *CODED_AGAIN))
    assert refreshed(folder, MORE).changes == {"added": 5}
    (folder / "more" / "300").write_bytes((folder / "more" / "0").read_bytes())
    write_table(folder, (*NEW, 300))
    define(folder, [f"{MORE}@1"])
    done = refreshed(folder, MORE)
    assert done.filtered and done.filtered.drops == {"duplicate_image": 1}
    assert done.version and done.version.rows == len(NEW)


def test_a_source_that_nobody_has_published_is_refused_before_anything_is_fetched(folder: Path) -> None:
    journey = journey_of(folder, MORE)
    with pytest.raises(DefinitionError, match=f"source '{MORE}', not_in: '{SOURCE}'.*`tinygptv refresh` publishes"):
        journey.make(journey.arrows("download")[0])
    assert journey.store.names("raw/") == []
