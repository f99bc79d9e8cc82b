"""Stage 1 of the tiny recipe on drawn pictures, trained as a flow trains it: what benchmarks of training share."""

import json
from pathlib import Path
from typing import Any

import yaml

from tinygptv import catalog
from tinygptv.artifacts import Manifest, Store
from tinygptv.catalog import ResolvedRun
from tinygptv.data.mixing import mix
from tinygptv.data.shapes.scenes import draw, scene
from tinygptv.definitions.filters import FilterChain
from tinygptv.definitions.recipe import Recipe
from tinygptv.definitions.source import PairsSource
from tinygptv.train.stage import train_stage

RECIPE, STAGE, MIXTURE = "tinygptv_tiny", "stage1", "bench_stage"
PICTURES = 64


def write_data(folder: Path) -> None:
    """Drawn pictures with captions, and a mixture of them, in `definitions` below the folder."""
    (folder / "images").mkdir()
    rows = []
    for number in range(PICTURES):
        shown = scene("train", number)
        draw(shown, 48).convert("RGB").save(folder / "images" / f"{number}.jpg")
        first = shown.objects[0]
        rows.append({"image_id": str(number), "caption": f"a picture with a {first.colour} {first.kind}"})
    (folder / "captions.json").write_text(json.dumps({"annotations": rows}))
    source = {
        "kind": "annotations",
        "about": "drawn scenes",
        "licence": "CC0-1.0",
        "format": "cc_sbu_align",
        "files": {"annotations": str(folder / "captions.json")},
        "images": str(folder / "images"),
    }
    component = {"source": "bench", "task": "caption_only", "weight": 1.0}
    mixture = {"about": "a benchmark's", "draw": "per_step", "components": [component]}
    for name, definition in {"sources/bench": source, f"mixtures/{MIXTURE}": mixture}.items():
        path = folder / "definitions" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(definition))


def train(folder: Path, name: str, steps: int, stage: dict[str, Any], hardware: dict[str, Any]) -> Manifest:
    """The stage with these fields changed, under the profile `cpu` with those; from its last good checkpoint, if any.

    Needs $TINYGPTV_DEFINITIONS to name the folder's `definitions`.
    """
    content = catalog.recipe(RECIPE).model_dump()
    content["stages"] = content["stages"][:1]
    content["stages"][0] |= {"mixture": MIXTURE} | stage
    content["stages"][0]["schedule"] |= {"warmup_steps": 5, "steps": steps}
    run = ResolvedRun(
        RECIPE,
        Recipe.model_validate(content),
        "cpu",
        catalog.hardware("cpu").model_copy(update=hardware),
        "bench",
        PairsSource.model_construct(),
        FilterChain.model_construct(),
        {MIXTURE: catalog.mixture(MIXTURE)},
        {},
        {},
    )
    store = Store(str(folder / "work"))
    return train_stage(store, run, name, STAGE, mix(store, MIXTURE, None), None)


def left_by(folder: Path, name: str) -> Path:
    """What a finished run left behind."""
    (found,) = folder.glob(f"work/runs/{name}/{STAGE}@*")
    return found
