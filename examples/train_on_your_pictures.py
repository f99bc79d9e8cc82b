"""Train on a folder of your own pictures, each with its caption in a text file of the same name beside it.

    python examples/train_on_your_pictures.py my_pictures --workdir work_own --steps 200

Trains one stage of the tiny recipe, exports the model, and has it describe the first picture. The tiny recipe's frozen
parts know drawn shapes only, so do not expect much of photographs; the steps are the same for a larger recipe.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import yaml

from tinygptv import catalog
from tinygptv.journey import Journey, open_journey
from tinygptv.release.chat import answer

NAME = "own"
ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}
QUESTION = "[caption] Briefly describe this image."


def captioned(pictures: Path) -> list[dict[str, str]]:
    """One record per picture that has a caption, in the layout of Karpathy's list of COCO captions."""
    records = []
    for picture in sorted(path for path in pictures.iterdir() if path.suffix.lower() in ENDINGS):
        text = picture.with_suffix(".txt")
        if text.is_file():
            caption = text.read_text(encoding="utf-8").strip()
            records.append({"image": picture.name, "image_id": picture.stem, "caption": caption})
    return records


def definitions(pictures: Path, annotations: Path, steps: int) -> dict[str, dict[str, Any]]:
    """What a run needs to know, as definition files would say it: a source, a mixture of it, and a recipe."""
    recipe = catalog.recipe("tinygptv_tiny").model_dump(mode="json")
    stage = recipe["stages"][-1] | {"stage": "stage1", "starts_from": "backbones", "mixture": NAME, "gates": []}
    stage["lora"]["init"] = "fresh"
    stage["schedule"] |= {"steps": steps, "warmup_steps": max(1, steps // 10)}
    stage["watch"] = {}
    return {
        "sources": {
            "kind": "annotations",
            "about": "my pictures and their captions",
            "licence": "my own",
            "format": "coco_karpathy",
            "files": {"annotations": str(annotations)},
            "images": str(pictures),
        },
        "mixtures": {
            "about": "my pictures",
            "draw": "per_sample",
            "components": [{"source": NAME, "task": "caption", "weight": 1.0}],
        },
        "recipes": recipe | {"about": "one stage on my pictures", "stages": [stage], "benchmarks": []},
    }


def prepare(pictures: Path, workdir: Path, steps: int) -> Journey:
    """Write the annotations and the definitions below the workdir, and open a run of them."""
    workdir.mkdir(parents=True, exist_ok=True)
    annotations = workdir / "captions.json"
    annotations.write_text(json.dumps(captioned(pictures)))
    folder = workdir / "definitions"
    for kind, definition in definitions(pictures, annotations, steps).items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / f"{NAME}.yaml").write_text(yaml.safe_dump(definition))
    os.environ[catalog.OWN_DEFINITIONS] = str(folder)
    return open_journey(run=NAME, recipe=NAME, workdir=str(workdir))


def main(arguments: list[str] | None = None) -> None:
    """Train, export, and describe one picture. The same command continues what was interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="a folder of pictures, each with its caption in a .txt beside it")
    parser.add_argument("--workdir", type=Path, default=Path("work_own"))
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(arguments)

    pictures = options.pictures.absolute()
    journey = prepare(pictures, options.workdir.absolute(), options.steps)
    for arrow in journey.arrows("mix", "train", "export"):
        manifest = journey.make(arrow, print)
        print(f"{arrow}: {journey.store.workdir}/{manifest.artifact}")
    model = journey.store.folder(journey.find(journey.arrows("export")[0]).artifact)
    first = pictures / captioned(pictures)[0]["image"]
    print(f"{first.name}: {answer(model, first, QUESTION)}")


if __name__ == "__main__":
    main()
