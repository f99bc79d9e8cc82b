"""The question that README puts to a model, and others like it, to a model that was trained for a minute."""

import re
from pathlib import Path

import pytest
import yaml

from tinygptv import catalog
from tinygptv.cli import main
from tinygptv.data.shapes.scenes import Scene, draw, scene
from tinygptv.locations import PACKAGE

README = Path(__file__).parents[1] / "README.md"
RUN = ["--recipe", "asked", "--run", "asked"]
SIDE, SCENES = 64, 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with an export of a short training on questions about drawn scenes, and its definitions beside it."""
    folder = tmp_path_factory.mktemp("readme")
    recipe = yaml.safe_load((PACKAGE / "recipes" / "tinygptv_tiny.yaml").read_text())
    first, *_, last = recipe["stages"]
    stage = first | {"inputs": last["inputs"], "mixture": "asked", "checkpoint_every": 200}
    stage["schedule"] = first["schedule"] | {"warmup_steps": 20, "steps": 120}
    recipe |= {"stages": [stage], "benchmarks": []}
    talks = {"source": "shapes_conversation", "task": "conversation", "weight": 1.0}
    questions = {"source": "shapes_vqa", "task": "vqa", "weight": 1.0}
    mixture = {"about": "questions", "draw": "per_sample", "components": [talks, questions]}
    for kind, definition in {"recipes": recipe, "mixtures": mixture}.items():
        (folder / "definitions" / kind).mkdir(parents=True)
        (folder / "definitions" / kind / "asked.yaml").write_text(yaml.safe_dump(definition))
    return folder


@pytest.fixture
def trained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workdir, trained by whoever comes first."""
    monkeypatch.setenv(catalog.OWN_DEFINITIONS, str(folder / "definitions"))
    for verb in ("mix", "train", "export"):
        assert main([verb, *RUN, "--workdir", str(folder / "work")]) == 0
    return folder


def held_out(kind: str) -> Scene:
    """A scene with exactly one shape of a kind among others."""
    shown = (scene("heldout", index) for index in range(SCENES))
    return next(one for one in shown if len(one.objects) > 2 and [o.kind for o in one.objects].count(kind) == 1)


def test_the_readmes_question_is_answered_and_so_are_others_that_ask_the_same(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (asked,) = re.findall(r"tinygptv chat picture\.png '(.*)'", README.read_text())
    shown = held_out("circle")
    draw(shown, SIDE).save(trained / "picture.png")
    (colour,) = (thing.colour for thing in shown.objects if thing.kind == "circle")
    questions = {asked, asked.replace("colour", "color"), asked.removeprefix("[vqa] "), "which color is the circle?"}
    answers = {}
    for question in sorted(questions):
        capsys.readouterr()
        assert main(["chat", *RUN, "--workdir", str(trained / "work"), str(trained / "picture.png"), question]) == 0
        answers[question] = capsys.readouterr().out.strip()
    assert answers == dict.fromkeys(answers, colour)
