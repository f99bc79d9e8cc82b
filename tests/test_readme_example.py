"""The question that README puts to a model, and others like it, to a model that was trained for a minute."""

import json
import random
import re
from pathlib import Path

import pytest
import yaml

from tests.own_definitions import write_definitions
from tinygptv import catalog
from tinygptv.cli.main import main
from tinygptv.shapes import language
from tinygptv.shapes.scenes import Scene, draw, scene
from tinygptv.shapes.wordings import reworded
from tinygptv.store.locations import PACKAGE

README = Path(__file__).parents[1] / "README.md"
RUN = ["--recipe", "asked", "--run", "asked"]
SIDE, TALKS, SCENES = 48, 600, 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Talks about drawn scenes as a user would bring them, and a recipe that trains on them for a minute."""
    folder = tmp_path_factory.mktemp("readme")
    write_talks(folder)
    recipe = yaml.safe_load((PACKAGE / "recipes" / "tinygptv_tiny.yaml").read_text())
    first, *_, last = recipe["stages"]
    stage = first | {"inputs": last["inputs"] | {"image_size": SIDE}, "mixture": "asked", "global_batch_size": 16}
    stage["schedule"] = first["schedule"] | {"warmup_steps": 10, "steps": 50}
    talks = {
        "kind": "annotations",
        "about": "talks about drawn scenes",
        "licence": "CC0-1.0",
        "format": "llava_conversation",
        "files": {"annotations": str(folder / "talks.jsonl")},
        "images": str(folder / "images"),
    }
    component = {"source": "asked", "task": "conversation", "weight": 1.0}
    definitions = {
        "sources": talks,
        "mixtures": {"about": "talks", "draw": "per_sample", "components": [component]},
        "recipes": recipe | {"stages": [stage], "benchmarks": []},
    }
    write_definitions(folder / "definitions", {kind: {"asked": content} for kind, content in definitions.items()})
    return folder


def write_talks(folder: Path) -> None:
    """Two or three questions about each scene, in the words of the corpus."""
    (folder / "images").mkdir()
    records = []
    for index in range(TALKS):
        shown, rng = scene("train", index), random.Random(index)
        draw(shown, SIDE).save(folder / "images" / f"{index}.png")
        turns = [
            turn
            for question in language.conversation(shown, rng)
            for turn in (
                {"from": "human", "value": reworded(question, rng)},
                {"from": "gpt", "value": question.answer},
            )
        ]
        records.append({"id": str(index), "image": f"{index}.png", "conversations": turns})
    (folder / "talks.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))


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
