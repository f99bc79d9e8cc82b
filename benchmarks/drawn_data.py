"""Drawn pictures with captions of any length, in the layout of MiniGPT-4's curated set, and mixtures of them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from tinygptv.definitions.mixture import Task
from tinygptv.shapes.scenes import draw, scene

SIDE = 448
WORDS = "red circle"
"""Two words, each of them one token of the embedded tokenizer."""


def draw_pictures(folder: Path, different: int, count: int, side: int = SIDE) -> None:
    """`count` JPEGs of side x side px, named by their numbers, below `folder`; after the `different` ones come copies.

    To a reader that keeps what it has decoded, copies are new pictures.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for number in range(different):
        draw(scene("train", number), side).convert("RGB").save(images / f"{number}.jpg")
    for number in range(different, count):
        shutil.copyfile(images / f"{number % different}.jpg", images / f"{number}.jpg")


def caption_of(tokens: int) -> str:
    """A caption that the embedded tokenizer cuts into so many tokens."""
    return " ".join((WORDS.split() * tokens)[:tokens])


def write_mixture(folder: Path, name: str, task: Task, captions: Sequence[str]) -> None:
    """Definitions below `folder` of a source and a mixture of it, both called `name`: a picture for each caption."""
    rows = [{"image_id": str(number), "caption": caption} for number, caption in enumerate(captions)]
    (folder / f"{name}.json").write_text(json.dumps({"annotations": rows}))
    source = {
        "kind": "annotations",
        "about": "drawn scenes whose captions have the length a benchmark wants",
        "licence": "CC0-1.0",
        "format": "cc_sbu_align",
        "files": {"annotations": str(folder / f"{name}.json")},
        "images": str(folder / "images"),
    }
    component = {"source": name, "task": task, "weight": 1.0}
    mixture = {"about": "a benchmark's", "draw": "per_step", "components": [component]}
    for path, definition in {f"sources/{name}": source, f"mixtures/{name}": mixture}.items():
        file = folder / "definitions" / f"{path}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(definition))
