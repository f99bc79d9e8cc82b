"""`tinygptv mix` says how a mixture is drawn, what a step sees, and shows samples token for token."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.miniature import RECIPE, SOURCE, write_miniature
from tinygptv.cli.main import main


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The miniature recipe on a mixture of statements alone, which needs no pairs."""
    for name, value in write_miniature(tmp_path / "mini", {"stage1": 2, "stage2": 3}).items():
        monkeypatch.setenv(name, value)
    component = {"source": "mini_statements", "task": "statement", "weight": 1.0}
    (tmp_path / "mini" / "definitions" / "mixtures" / "mini_mixture.yaml").write_text(
        yaml.safe_dump({"about": "statements", "draw": "per_sample", "components": [component]})
    )
    return ["mix", "--recipe", RECIPE, "--source", SOURCE, "--workdir", str(tmp_path / "work")]


def test_shares_and_epochs_are_told_for_every_stage(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 0
    told = capsys.readouterr().out
    assert re.search(r"stage1: mini_mixture, 2 steps of (\d+)", told)
    rows = re.findall(r"mini_statements statement +(\d+) +100.00% +100.00% +([\d.]+)", told)
    assert [size for size, _ in rows] == ["24", "24"]
    assert float(rows[1][1]) == pytest.approx(1.5 * float(rows[0][1]), abs=0.02)


def test_a_step_names_its_samples_and_images(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options, "--stage", "stage2", "--at", "7"]) == 0
    told = capsys.readouterr().out
    named = re.findall(r"step 7: mini_statements statement #(\d+) (\d\d\.png)/.*  \((.+)\)", told)
    (batch,) = map(int, re.findall(r"stage2: mini_mixture, 3 steps of (\d+)", told))
    assert len(named) == batch
    assert all(Path(path).name == key for _, key, path in named)
    assert "stage1" not in told.partition("stage2:")[2]
    assert main([*options, "--stage", "stage2", "--at", "7"]) == 0
    assert capsys.readouterr().out.partition("stage2:")[2] == told.partition("stage2:")[2]


def test_samples_are_shown_token_for_token_and_as_a_page(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "samples.html"
    assert main([*options, "--stage", "stage1", "--show", "3", "--html", str(page)]) == 0
    told = capsys.readouterr().out
    closer = told.replace(" ", "")  # the miniature tokenizer puts a space between all letters
    answers = re.findall(r"isthisstatementtrueorfalse\?thereisa.*«(true|false)###»", closer)
    assert len(answers) == 3
    assert len(re.findall(r"<\d+ image tokens>", told)) == 3
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == 3
    assert html.count('<span class="learned">') == 3 + 1
    assert "http" not in html.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--stage", "stage9"], "no such stage"),
        (["--show", "0"], "--show 0: give 1 or more"),
        (["--at", "-1"], "--at -1: give 0 or more"),
        (["--html", "x.html"], "--html shows one stage's samples"),
    ],
)
def test_a_wrong_question_is_refused(
    options: list[str], capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    assert main([*options, *given]) == 2
    assert said in capsys.readouterr().err


def test_what_a_stage_cannot_learn_from_is_said_and_not_shown(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    statements = tmp_path / "mini" / "statements.jsonl"
    first, second, *others = statements.read_text().splitlines()
    long = json.dumps(json.loads(first) | {"caption": "there is a circle and " * 40 + "a square"})
    quoting = json.dumps(json.loads(second) | {"caption": "there is a <|end|> of it"})
    statements.write_text("\n".join([long, quoting, *others]))
    assert main([*options, "--stage", "stage1", "--show", "23"]) == 0
    told = capsys.readouterr().out
    assert "23 of 24 samples can be learned from (left out: mini_statements: prompt_too_long 1); longest" in told
    assert re.search(r"mini_statements statement +23 ", told)
    assert "special_token_in_text 1: kept, and read as text" in told
    assert "a n d" not in told.partition("longest sequence")[2]


def test_mixtures_are_made_before_there_is_a_tokenizer(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tmp_path / "mini" / "backbones" / "tokenizer")
    assert main(options) == 0
    assert "lengths and end symbols are not checked yet, which training does: " in capsys.readouterr().out
