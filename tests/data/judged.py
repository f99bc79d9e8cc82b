"""Sidecars made of a few words per row, opened as a filter opens them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinygptv.data.columns.database import connect
from tinygptv.data.filters.rows import Rows
from tinygptv.data.filters.rule_attribution import KEPT, judge
from tinygptv.data.shards.shards import SIDECAR, ShardWriter, content_hash
from tinygptv.definitions.filters import FilterChain, Rule

ANYTHING = Rule(name="anything", keep="TRUE", why="test")


def write_rows(folder: Path, rows: list[dict[str, Any]], images: dict[str, bytes] | None = None) -> Path:
    """A folder with a sidecar and shards. A row's `image` names one of `images`; its key is its place if not given."""
    folder.mkdir()
    with ShardWriter(folder, 1000) as shards:
        for number, row in enumerate(rows):
            image = (images or {}).get(row.get("image", ""), b"")
            known = {"key": f"{number:04d}", "caption": "", "table_row": number, "sha256": content_hash(image)}
            shards.write(known | row, image)
    return folder


@contextmanager
def opened(folder: Path, *earlier: Path) -> Iterator[Rows]:
    with connect(folder) as database:
        yield Rows(database, folder / SIDECAR, folder, earlier)


def dropped(folder: Path, chain: FilterChain, *earlier: Path, held_out: tuple[Path, ...] = ()) -> dict[int, str]:
    """Row → the step that drops it."""
    with opened(folder, *earlier) as rows:
        judgement = judge(rows, chain, held_out)
    names = ["", *(step.name for step in judgement.steps)]
    assert sum(entry["dropped_first"] for entry in judgement.funnel) == (judgement.verdicts != KEPT).sum()
    return {row: names[verdict] for row, verdict in enumerate(judgement.verdicts.tolist()) if verdict != KEPT}
