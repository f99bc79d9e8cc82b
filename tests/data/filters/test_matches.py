"""Rows with a fellow are found whatever the value is, and the same ones in one bucket or in many."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.filters.test_duplicates import chain, flat
from tests.data.judged import dropped, opened, write_rows
from tinygptv.data.columns.buckets import Buckets
from tinygptv.data.filters.matches import fellows
from tinygptv.definitions.filters import Deduplicate, Placeholder


def found(folder: Path, by: str, needs: str = "", earlier: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    with opened(folder, *earlier) as rows:
        turns = [rows.database.sql("FROM fellows").to_arrow_table().to_pylist() for _ in fellows(rows, by, needs)]
        assert not rows.database.sql("SHOW TABLES").filter("name = 'fellows'").fetchall()
    return sorted((row for turn in turns for row in turn), key=lambda row: row["position"])


def test_only_rows_that_share_a_value_come_with_what_is_needed_of_them(tmp_path: Path) -> None:
    rows = [{"url": "a", "similarity": 0.5}, {"url": "b"}, {"url": None}, {"url": None}, {"url": "a"}]
    folder = write_rows(tmp_path / "rows", rows)
    taken = found(folder, "url", "Similarity DESC NULLS LAST, key")
    assert [(row["position"], row["same"], row["similarity"], row["key"]) for row in taken] == [
        (0, "a", 0.5, "0000"),
        (4, "a", None, "0004"),
    ]
    assert set(found(folder, "url")[0]) == {"position", "earlier", "same", "code"}


def test_fellows_of_earlier_sidecars_count(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "first", [{"width": 7}, {"width": 8}])
    folder = write_rows(tmp_path / "rows", [{"width": 9}, {"width": 7}])
    taken = found(folder, "width", earlier=(first,))
    assert [(row["position"], row["same"], row["earlier"]) for row in taken] == [(1, 7, False), (2, 7, True)]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it has everything looked at twenty rows at a time."""
    made = Buckets.__init__
    return lambda: monkeypatch.setattr(Buckets, "__init__", lambda self, folder, rows, _: made(self, folder, rows, 20))


def test_equal_rows_are_the_same_in_one_piece_or_in_many(tmp_path: Path, small_pieces: Callable[[], None]) -> None:
    chance = random.Random(0)
    rows = [{"uid": f"{chance.randrange(200)}", "caption": f"{chance.randrange(250)}"} for _ in range(400)]
    folder = write_rows(tmp_path / "rows", rows)
    whole = chain(
        Deduplicate(name="same_uid", by="uid", order="caption DESC, key", why="test"),
        Deduplicate(name="same_caption", by="caption", why="test"),
        placeholders=[Placeholder(name="gone", by="uid", captions=5, why="test")],
    )
    at_once = dropped(folder, whole)
    small_pieces()
    assert dropped(folder, whole) == at_once
    assert len(set(at_once.values())) == 3


@pytest.mark.parametrize("confirm", [True, False])
def test_near_rows_are_the_same_in_one_piece_or_in_many(
    confirm: bool, tmp_path: Path, small_pieces: Callable[[], None]
) -> None:
    chance = random.Random(1)
    images = {
        name: flat(*colour)
        for name, colour in {"red": (200, 0, 0), "reddish": (202, 2, 2), "blue": (0, 0, 200)}.items()
    }
    centres = [chance.getrandbits(63) for _ in range(60)]
    rows = [
        {"phash": chance.choice(centres) ^ (1 << chance.randrange(12)) ^ (1 << chance.randrange(12)), "image": image}
        for image in chance.choices(sorted(images), k=300)
    ]
    folder = write_rows(tmp_path / "rows", rows, images)
    near = chain(Deduplicate(name="near", by="phash", within=4, order="key", confirm=confirm, why="test"))
    at_once = dropped(folder, near)
    small_pieces()
    assert dropped(folder, near) == at_once
    assert 100 < len(at_once) < 290
