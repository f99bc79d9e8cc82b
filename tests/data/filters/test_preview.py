"""A threshold is tried without making anything, and people see what it would change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.judged import write_rows
from tinygptv import catalog
from tinygptv.cli.main import main
from tinygptv.data.filters.preview import preview
from tinygptv.definitions.filters import FilterChain, Rule
from tinygptv.errors import DefinitionError
from tinygptv.store.artifacts import Manifest, Outcome, Store

SIDES = (20, 40, 60, 80, 100)
CHAIN = FilterChain(
    about="test",
    rules=[
        Rule(name="min_side", keep="least(width, height) >= 50", why="small"),
        Rule(name="similarity", keep="coalesce(similarity, 1) >= 0.28", why="apart"),
        Rule(name="not_secret", keep="NOT contains(caption, 'secret')", why="secret"),
    ],
)


@pytest.fixture
def raw(store: Store, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Manifest:
    monkeypatch.setattr(catalog, "filter_chain", {"chain": CHAIN}.__getitem__)
    images = {str(side): picture(side, side) for side in SIDES}
    rows: list[dict[str, Any]] = [
        {"width": side, "height": side, "image": str(side), "caption": f"cat & dog {side}", "similarity": 0.3}
        for side in SIDES
    ]
    rows.append(rows[2] | {"caption": "a secret"})
    made = write_rows(tmp_path / "made", rows, images)

    def build(draft: Path) -> Outcome:
        for path in made.iterdir():
            path.rename(draft / path.name)
        return Outcome(rows_in=len(rows), rows_out=len(rows))

    return store.make("raw/t@1", "test", {}, [], build)


def test_a_preview_counts_what_would_be_dropped_and_what_would_come_back(store: Store, raw: Manifest) -> None:
    stricter = preview(store, "t", "chain", raw, "min_side", 70)
    assert (stricter.rows, stricter.kept, stricter.would_keep) == (6, 4, 2)
    assert (stricter.would_go, stricter.would_come) == (1, 0), "the secret one goes anyway"
    looser = preview(store, "t", "chain", raw, "min_side", 30)
    assert (looser.would_keep, looser.would_go, looser.would_come) == (5, 0, 1)


def test_the_page_shows_the_pictures_on_both_sides_nearest_first(store: Store, raw: Manifest) -> None:
    page = preview(store, "t", "chain", raw, "min_side", 70).page.read_text()
    inside, outside = page.split("just outside")
    assert [f"cat &amp; dog {side}<" in inside for side in SIDES] == [False, False, False, True, True]
    assert inside.index("<b>80</b>") < inside.index("<b>100</b>")
    assert outside.index("<b>60</b>") < outside.index("<b>40</b>") < outside.index("<b>20</b>")
    assert "secret" not in page
    assert page.count("data:image/jpeg;base64,") == len(SIDES)


def test_nothing_is_filtered(store: Store, raw: Manifest) -> None:
    preview(store, "t", "chain", raw, "min_side", 70)
    assert store.names("filtered/") == []


def test_the_rows_are_measured_once_for_every_rule_and_threshold(store: Store, raw: Manifest) -> None:
    preview(store, "t", "chain", raw, "min_side", 70)
    (measured,) = store.names("measured/")
    numbers = [preview(store, "t", "chain", raw, "similarity", number) for number in (0.2, 0.4)]
    assert [one.would_keep for one in numbers] == [6, 0]
    assert store.names("measured/") == [measured]


def test_a_row_without_a_value_is_on_no_side(store: Store, raw: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Rule(name="watermark", keep="pwatermark < 0.5", why="marked")
    chain = CHAIN.model_copy(update={"rules": [*CHAIN.rules, rule]})
    monkeypatch.setattr(catalog, "filter_chain", {"chain": chain}.__getitem__)
    shown = preview(store, "t", "chain", raw, "watermark", 0.9)
    assert (shown.rows, shown.kept, shown.would_keep, shown.would_go, shown.would_come) == (6, 0, 0, 0, 0)
    assert "<figure>" not in shown.page.read_text()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("min_sides", r"chain\.yaml: no rule 'min_sides'. Did you mean 'min_side'\?"),
        ("not_secret", r"not_secret: `NOT contains.*` has no threshold"),
    ],
)
def test_a_rule_without_a_threshold_is_refused(store: Store, raw: Manifest, rule: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        preview(store, "t", "chain", raw, rule, 1)


@pytest.mark.parametrize(
    ("keep", "parts"),
    [
        ("least(width, height) >= 200", ("least(width, height)", ">=", 200)),
        ("coalesce(punsafe, 0) < 0.5", ("coalesce(punsafe, 0)", "<", 0.5)),
        ("similarity>-1.5e-2", ("similarity", ">", -0.015)),
        ("width > 3 AND height > 4", ("width > 3 AND height", ">", 4)),
        ("width BETWEEN 3 AND 4", None),
        ("length(caption) > width", None),
    ],
)
def test_a_threshold_is_the_number_a_rule_ends_with(keep: str, parts: tuple[str, str, float] | None) -> None:
    assert Rule(name="rule", keep=keep, why="test").threshold == parts


def test_a_preview_without_a_threshold_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["filter", "--preview", "min_side"]) == 2
    assert "--preview needs --threshold" in capsys.readouterr().err
