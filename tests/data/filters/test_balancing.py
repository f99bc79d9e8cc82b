"""Common concepts are thinned out, rare ones are not, and chance is the same for everybody."""

from pathlib import Path
from typing import Any

from tests.data.judged import ANYTHING, dropped, write_rows
from tinygptv.definitions.filters import Balance, FilterChain


def chain(per_concept: int) -> FilterChain:
    balance = Balance(name="too_common", concepts=["dog", "axolotl", "hot dog"], per_concept=per_concept, why="test")
    return FilterChain(about="test", rules=[ANYTHING], decontaminate=None, balance=balance)


def rows() -> list[dict[str, Any]]:
    common = [{"key": f"dog{number}", "caption": "a dog and another dog"} for number in range(900)]
    rare = [{"key": f"axolotl{number}", "caption": "an axolotl near a dog"} for number in range(20)]
    return [*common, *rare, *({"key": f"none{number}", "caption": "a dogma"} for number in range(30))]


def test_the_rows_of_a_common_concept_are_thinned_to_about_its_share(tmp_path: Path) -> None:
    gone = dropped(write_rows(tmp_path / "rows", rows()), chain(100))
    assert set(gone.values()) == {"too_common"}
    assert all(row < 900 for row in gone), "rows with a rare concept or with none stay"
    assert 60 <= 900 - len(gone) <= 140


def test_the_choice_depends_on_keys_and_not_on_order(tmp_path: Path) -> None:
    forwards, backwards = rows(), rows()[::-1]
    chosen = [
        {row["key"] for place, row in enumerate(ordered) if place not in gone}
        for name, ordered in (("forwards", forwards), ("backwards", backwards))
        for gone in [dropped(write_rows(tmp_path / name, ordered), chain(100))]
    ]
    assert chosen[0] == chosen[1]


def test_nothing_is_dropped_below_the_cap(tmp_path: Path) -> None:
    assert dropped(write_rows(tmp_path / "rows", rows()), chain(1000)) == {}
