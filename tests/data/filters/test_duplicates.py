"""Which copy survives, what is no picture, and that looking alike is more than a near hash."""

import io
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.data.judged import ANYTHING, dropped, opened, write_rows
from tinygptv.data.columns.database import connect
from tinygptv.data.filters.duplicates import compare
from tinygptv.data.filters.rows import Rows
from tinygptv.data.filters.rule_attribution import judge
from tinygptv.data.pictures.phash import distance
from tinygptv.data.pictures.storing import store_picture
from tinygptv.data.shards.shards import SIDECAR, content_hash
from tinygptv.definitions.filters import Deduplicate, FilterChain, Placeholder
from tinygptv.definitions.source import Download

BY_URL = Deduplicate(name="same_url", by="url", order="similarity DESC NULLS LAST, key", why="test")
BY_HASH = Deduplicate(name="near", by="phash", within=4, why="test")


def chain(*duplicates: Deduplicate, placeholders: list[Placeholder] | None = None) -> FilterChain:
    return FilterChain(
        about="test",
        rules=[ANYTHING],
        decontaminate=None,
        placeholders=placeholders or [],
        duplicates=list(duplicates),
    )


def flat(*colour: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(stream, "JPEG")
    return stream.getvalue()


def test_the_best_of_equal_rows_survives_and_null_equals_nothing(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"url": "a", "similarity": 0.1},
        {"url": "b", "similarity": None},
        {"url": "a", "similarity": 0.3},
        {"url": "a", "similarity": 0.3},
        {"url": None},
        {"url": None},
    ]
    folder = write_rows(tmp_path / "rows", rows)
    assert dropped(folder, chain(BY_URL)) == {0: "same_url", 3: "same_url"}


def test_rows_of_an_earlier_sidecar_are_originals_and_are_not_judged(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "first", [{"url": "a"}, {"url": "a"}, {"url": "b"}])
    folder = write_rows(tmp_path / "rows", [{"url": "b", "similarity": 0.9}, {"url": "c"}, {"url": "c"}])
    assert dropped(folder, chain(BY_URL), first) == {0: "same_url", 2: "same_url"}
    assert dropped(folder, chain(BY_URL)) == {2: "same_url"}


def test_one_picture_under_many_captions_is_dropped_whole(tmp_path: Path) -> None:
    rows = [{"content_sha256": "error", "caption": f"caption {number}"} for number in range(3)]
    rows += [{"content_sha256": "fine", "caption": "one caption"} for _ in range(3)]
    folder = write_rows(tmp_path / "rows", rows)
    gone = Placeholder(name="gone", by="content_sha256", captions=3, why="test")
    same = Deduplicate(name="same", by="content_sha256", why="test")
    assert dropped(folder, chain(same, placeholders=[gone])) == {0: "gone", 1: "gone", 2: "gone", 4: "same", 5: "same"}


def test_a_near_copy_needs_a_survivor_nearby(tmp_path: Path) -> None:
    """0, 3 bits and 6 bits: the middle one goes, the last is near nobody who stays."""
    rows = [{"phash": 0}, {"phash": 0b111}, {"phash": 0b111111}, {"phash": -1}]
    folder = write_rows(tmp_path / "rows", rows)
    by_hash_alone = BY_HASH.model_copy(update={"confirm": False})
    assert dropped(folder, chain(by_hash_alone)) == {1: "near"}
    ends_first = by_hash_alone.model_copy(update={"order": "phash = 7 DESC, key"})
    assert dropped(folder, chain(ends_first)) == {0: "near", 2: "near"}


def test_a_near_hash_is_confirmed_by_a_look(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    images = {"red": flat(200, 30, 30), "blue": flat(30, 30, 200), "red again": flat(201, 32, 30)}
    rows = [{"phash": 0, "image": name} for name in images]
    folder = write_rows(tmp_path / "rows", rows, images)
    assert dropped(folder, chain(BY_HASH)) == {2: "near"}
    assert dropped(folder, chain(BY_HASH.model_copy(update={"confirm": False}))) == {1: "near", 2: "near"}


def test_pictures_of_one_layout_with_other_words_are_no_copies(tmp_path: Path) -> None:
    def leaf(text: str, quality: int = 90) -> bytes:
        stream, page = io.BytesIO(), Image.new("RGB", (400, 500), "white")
        draw = ImageDraw.Draw(page)
        draw.rectangle([0, 0, 400, 110], fill=(190, 30, 30))
        draw.text((200, 300), text, fill="black", font_size=90, anchor="mm")
        page.save(stream, "JPEG", quality=quality)
        return stream.getvalue()

    images = {text: leaf(text) for text in ("13", "16", "18", "SALT", "RICE")} | {"16 again": leaf("16", 50)}
    folder = write_rows(tmp_path / "rows", [{"phash": 0, "image": name} for name in images], images)
    assert dropped(folder, chain(BY_HASH)) == {5: "near"}


def test_near_copies_of_an_earlier_snapshot_are_found_in_its_own_shards(tmp_path: Path) -> None:
    images = {"red": flat(200, 30, 30), "blue": flat(30, 30, 200)}
    first = write_rows(tmp_path / "first", [{"phash": 1, "image": "red"}], images)
    folder = write_rows(tmp_path / "rows", [{"phash": 0, "image": "blue"}, {"phash": 0, "image": "red"}], images)
    assert dropped(folder, chain(BY_HASH), first) == {1: "near"}


def test_what_a_copy_is_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = [{"key": f"{number:02d}", "phash": (1 << number % 7) - 1, "table_row": 0} for number in range(40)]
    by_hash_alone = BY_HASH.model_copy(update={"confirm": False})
    survivors = []
    for name, ordered in (("forwards", rows), ("backwards", rows[::-1])):
        gone = dropped(write_rows(tmp_path / name, ordered), chain(by_hash_alone))
        survivors.append({row["key"] for place, row in enumerate(ordered) if place not in gone})
    assert survivors[0] == survivors[1]


def test_a_query_that_cannot_spill_is_given_more_memory(tmp_path: Path) -> None:
    rows = [{"uid": f"{number % 40}", "caption": f"caption {number}"} for number in range(20_000)]
    folder = write_rows(tmp_path / "rows", rows)
    gone = Placeholder(name="gone", by="uid", captions=500, why="test")
    with connect(folder) as database:
        scarce = Rows(database, folder / SIDECAR, folder, memory_bytes=1 << 20)
        with pytest.raises(duckdb.OutOfMemoryException):
            database.sql("SELECT uid, list(caption) FROM rows GROUP BY uid").fetchall()
        (positions,) = compare(scarce, gone).dropped(lambda positions: np.ones(len(positions), np.bool_))
        assert len(positions) == len(rows)


def test_the_funnel_counts_copies_alone_and_only(tmp_path: Path) -> None:
    rows = [{"url": "a", "caption": "x"}, {"url": "a", "caption": "x"}, {"url": "b", "caption": "x"}, {"url": "c"}]
    by_caption = Deduplicate(name="same_caption", by="nullif(caption, '')", why="test")
    with opened(write_rows(tmp_path / "rows", rows)) as sidecar:
        funnel = judge(sidecar, chain(BY_URL, by_caption)).funnel
    counts = [(each["rule"], each["dropped_first"], each["dropped_alone"], each["dropped_only"]) for each in funnel]
    assert counts == [("anything", 0, 0, 0), ("same_url", 1, 1, 0), ("same_caption", 1, 2, 1)]


FIXTURES = ("123_456", "208_495", "321_421", "389_535", "416_264", "456_123", "524_316")
SAME_BYTES = {f"repo_fixtures/img2dataset/resize_test_image__{name}.jpg" for name in FIXTURES}
SCALED_OR_BLURRED = {
    f"repo_fixtures/img2dataset/blur_test_files__{name}"
    for name in (
        "blurred.png",
        "original.png",
        "resize_keep_ratio.jpg",
        "resize_keep_ratio_largest.jpg",
        "resize_no.jpg",
    )
}
ONE_TEMPLATE = {
    ("llava_pretrain/00001/000011616.jpg", "llava_pretrain/00001/000011880.jpg"),
    ("llava_pretrain/00001/000010559.jpg", "llava_pretrain/00001/000012711.jpg"),
}
"""Two telephone cases and two shirts with different prints: 6 and 8 bits apart, and no copies."""


@pytest.fixture(scope="module")
def photographs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The 704 reference photographs as rows."""
    root = shared / "data" / "images"
    rows, images = [], {}
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".jpg", ".png")):
        body, name = path.read_bytes(), str(path.relative_to(root))
        stored = store_picture(body, Download(image_size=64, min_side=1, max_aspect=100.0))
        images[name] = stored.jpeg
        rows.append({"image": name, "caption": name, "phash": stored.phash, "content_sha256": content_hash(body)})
    return write_rows(tmp_path_factory.mktemp("photographs") / "rows", rows, images), rows


def test_every_duplicate_of_the_reference_photographs_is_found_and_nothing_else(
    photographs: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, rows = photographs
    same_bytes = Deduplicate(name="same_bytes", by="content_sha256", why="test")
    gone = dropped(folder, chain(same_bytes, BY_HASH))
    found = {rows[row]["image"]: reason for row, reason in gone.items()}
    assert {name for name, reason in found.items() if reason == "same_bytes"} == SAME_BYTES
    assert {name for name, reason in found.items() if reason == "near"} == SCALED_OR_BLURRED


def test_distinct_photographs_with_near_hashes_are_known_and_told_apart(
    photographs: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, rows = photographs
    apart = {(a["image"], b["image"]): distance(a["phash"], b["phash"]) for a, b in combinations(rows, 2)}
    near = {pair for pair, bits in apart.items() if bits <= 8 and not {*pair} & (SAME_BYTES | SCALED_OR_BLURRED)}
    assert {tuple(sorted(pair)) for pair in near} == {tuple(sorted(pair)) for pair in ONE_TEMPLATE}
    wide = BY_HASH.model_copy(update={"within": 8})
    prints = {name for pair in ONE_TEMPLATE for name in pair}
    assert not prints & {rows[row]["image"] for row in dropped(folder, chain(wide))}
    assert (
        len(prints & {rows[row]["image"] for row in dropped(folder, chain(wide.model_copy(update={"confirm": False})))})
        == 2
    )


def test_captions_of_one_address_are_one_picture_and_no_copies_of_each_other(tmp_path: Path) -> None:
    said = [("a", "one"), ("a", "two"), ("b", "three"), ("a", "TWO"), ("b", "four")]
    rows = [{"url": url, "caption": caption, "phash": 0, "uid": "same"} for url, caption in said]
    folder = write_rows(tmp_path / "rows", rows)
    equal = Deduplicate(name="copy", by="uid", why="test")
    assert dropped(folder, chain(equal)) == {2: "copy", 3: "copy", 4: "copy"}
    near = Deduplicate(name="near", by="phash", within=4, confirm=False, why="test")
    assert dropped(folder, chain(near)) == {2: "near", 3: "near", 4: "near"}


def test_many_captions_of_one_address_make_no_placeholder(tmp_path: Path) -> None:
    gone = Placeholder(name="gone", by="uid", captions=3, why="test")
    one = [{"url": "a", "caption": f"caption {number}", "uid": "x"} for number in range(5)]
    other = [{"url": url, "caption": "caption 0", "uid": "x"} for url in "bcd"]
    assert dropped(write_rows(tmp_path / "one", one + other), chain(placeholders=[gone])) == {}
    several = [{"url": url, "caption": f"caption {url}", "uid": "y"} for url in "bc"]
    everything = dropped(
        write_rows(tmp_path / "many", [row | {"uid": "y"} for row in one] + several), chain(placeholders=[gone])
    )
    assert set(everything) == set(range(7))
