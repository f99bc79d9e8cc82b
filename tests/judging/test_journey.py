"""A source whose filter names a scorer, from the command line: planned, scored between download and filter, kept."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.miniature import PICTURES, RECIPE, SOURCE, write_miniature
from tinygptv.cli.main import main
from tinygptv.shapes.server import serve

RULE = {"name": "unfit", "keep": "itm >= 0.0", "why": "test"}


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    environment = write_miniature(tmp_path / "mini", {"stage1": 2})
    with serve(tmp_path / "mini") as address:
        for name, value in (environment | {"TINYGPTV_BASE_URL": address}).items():
            monkeypatch.setenv(name, value)
        yield ["--recipe", RECIPE, "--source", SOURCE, "--workdir", str(tmp_path / "work")]


def ask(folder: Path, scorer: str, **more: bool) -> None:
    """Let the miniature's filter name a scorer."""
    path = folder / "mini" / "definitions" / "filters" / f"{SOURCE}.yaml"
    chain = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(chain | {"scores": scorer, "rules": [*chain["rules"], RULE]} | more))


def test_a_source_that_asks_is_scored_on_the_way(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(tmp_path, "shapes")
    assert main(["plan", *options]) == 0
    planned = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("run ")]
    assert planned[:3] == ["download", "score", "filter"]
    assert main(["curate", *options]) == 0
    account = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert account["rows_out"] == PICTURES
    assert account["rows_in"] == PICTURES + sum(account["drops"].values())
    assert main(["filter", "--preview", "unfit", "--threshold", "2", *options]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (shown["kept"], shown["would_keep"]) == (PICTURES, 0)
    assert main(["score", *options]) == 0
    assert f"score {SOURCE}: kept {PICTURES} of {PICTURES}" in capsys.readouterr().out


def test_a_source_that_does_not_ask_has_nothing_to_score(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", *options]) == 2
    assert f"{SOURCE}.yaml names no scorer; add `scores: NAME` (blip2, clip, shapes)" in capsys.readouterr().err


def test_better_captions_are_not_asked_of_a_scorer_that_writes_none(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(tmp_path, "clip", better_caption=True)
    assert main(["plan", *options]) == 2
    assert "better_caption: scorer 'clip' writes no captions" in capsys.readouterr().err


def test_a_scorer_that_does_not_exist_is_refused_before_any_work(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(tmp_path, "shape")
    assert main(["curate", *options]) == 2
    assert "scores: no scorer named 'shape' in datasets/scorers/. Did you mean 'shapes'?" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
