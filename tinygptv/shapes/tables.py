"""URL+caption tables about drawn scenes, in three published layouts, with a known number of bad rows.

Every fault of `FAULTS` is one that real tables have; each table holds the same share of each, spread evenly, so that
what curation drops, and why, can be checked against what was put in.
"""

import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tinygptv.shapes import language
from tinygptv.shapes.scenes import Scene, draw, scene

SIZES = {"laion": 2400, "cc3m": 1500, "sbu": 1300}
"""Rows per table; rows with a fault are among them."""

BASE_URL = "__BASE_URL__"

FAULTS = (
    "not_found",
    "html",
    "truncated",
    "tiny_image",
    "extreme_aspect",
    "short_caption",
    "duplicate_url",
    "duplicate_content",
)
_LAION_FAULTS = (*FAULTS, "low_similarity", "unsafe")  # only LAION's tables have the columns to tell
_EVERY = 12  # every twelfth row has a fault, in turn
_HTML = b"<!doctype html><title>Moved</title><p>This picture is no longer here.</p>"


@dataclass(frozen=True)
class _Row:
    url: str
    caption: str
    width: int
    height: int
    fault: str
    similarity: float
    punsafe: float
    pwatermark: float


def write_tables(folder: Path, side: int) -> dict[str, dict[str, int]]:
    """Write `tables/` and the `images/` they point to; rows per table and fault (`good` where there is none)."""
    (folder / "tables").mkdir(exist_ok=True)
    counts, first = {}, 0
    for name, size in SIZES.items():
        rows = list(_Site(folder, name, side).rows(first, size))
        _WRITERS[name](folder / "tables", rows)
        counts[name] = {"rows": size, **Counter(row.fault for row in rows)}
        first += size
    return counts


class _Site:
    """The images of one table, and the rows that point to them."""

    def __init__(self, folder: Path, name: str, side: int) -> None:
        self.folder, self.name, self.side = folder, name, side
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)

    def rows(self, first: int, size: int) -> Iterator[_Row]:
        """`size` rows about the scenes from number `first` on."""
        faults = _LAION_FAULTS if self.name == "laion" else FAULTS
        original: _Row | None = None  # the latest good row, for the next duplicate to repeat
        for number in range(size):
            turn, place = divmod(number, _EVERY)
            if place < _EVERY - 1 or original is None:
                original = row = self._row(number, scene("train", first + number), "good")
            elif (fault := faults[turn % len(faults)]) == "duplicate_url":
                row = replace(original, fault=fault)
            elif fault == "duplicate_content":
                row = self._copy(number, original)
            else:
                row = self._row(number, scene("train", first + number), fault)
            yield row

    def _row(self, number: int, picture: Scene, fault: str) -> _Row:
        rng = random.Random(f"{self.name} {number}")
        path = f"images/{self.name}/{number:06d}.{'html' if fault == 'html' else 'jpg'}"
        image = draw(picture, self.side)
        if fault == "tiny_image":
            image = image.resize((self.side // 8, self.side // 8), Image.Resampling.BICUBIC)
        elif fault == "extreme_aspect":
            image = image.resize((self.side * 5, self.side), Image.Resampling.BICUBIC)
        if fault != "not_found":
            # 200 bytes end within the header: no decoder can make a picture of them.
            data = {"html": _HTML, "truncated": jpeg(image)[:200]}.get(fault) or jpeg(image)
            (self.folder / path).write_bytes(data)
        return _Row(
            url=f"{BASE_URL}/{path}",
            caption=picture.objects[0].kind if fault == "short_caption" else web_caption(picture, rng),
            width=image.width,
            height=image.height,
            fault=fault,
            similarity=rng.uniform(0.1, 0.15) if fault == "low_similarity" else rng.uniform(0.3, 0.4),
            punsafe=rng.uniform(0.9, 1.0) if fault == "unsafe" else rng.uniform(0.0, 0.1),
            pwatermark=rng.uniform(0.0, 0.3),
        )

    def _copy(self, number: int, original: _Row) -> _Row:
        path = f"images/{self.name}/{number:06d}.jpg"
        shutil.copyfile(self.folder / original.url.removeprefix(f"{BASE_URL}/"), self.folder / path)
        return replace(original, url=f"{BASE_URL}/{path}", fault="duplicate_content")


def web_caption(picture: Scene, rng: random.Random) -> str:
    """A caption in one of several styles; half of them name everything with its place."""
    styles = (language.caption, language.full_caption, language.full_caption, language.detailed_description)
    return rng.choice(styles)(picture, rng)


def jpeg(image: Image.Image) -> bytes:
    """JPEG without chroma subsampling, so that small shapes keep their colours."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def _write_laion(folder: Path, rows: list[_Row]) -> None:
    columns = {
        "URL": [row.url for row in rows],
        "TEXT": [row.caption for row in rows],
        "WIDTH": [row.width for row in rows],
        "HEIGHT": [row.height for row in rows],
        "similarity": [row.similarity for row in rows],
        "punsafe": [row.punsafe for row in rows],
        "pwatermark": [row.pwatermark for row in rows],
        "LICENSE": ["?"] * len(rows),  # as LAION-400M writes an unknown one
        "hash": list(range(len(rows))),
    }
    pq.write_table(pa.table(columns), folder / "laion.parquet")


def _write_cc3m(folder: Path, rows: list[_Row]) -> None:
    (folder / "cc3m.tsv").write_text("".join(f"{row.caption}\t{row.url}\n" for row in rows))


def _write_sbu(folder: Path, rows: list[_Row]) -> None:
    content = {"image_urls": [row.url for row in rows], "captions": [row.caption for row in rows]}
    (folder / "sbu.json").write_text(json.dumps(content))


_WRITERS = {"laion": _write_laion, "cc3m": _write_cc3m, "sbu": _write_sbu}
