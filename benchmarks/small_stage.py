"""Stage 1 of the tiny recipe on drawn pictures, trained as a flow trains it: what benchmarks of training share."""

from pathlib import Path
from typing import Any

from drawn_data import draw_pictures, write_mixture

from tinygptv import catalog
from tinygptv.catalog import ResolvedRun
from tinygptv.data.mixtures.mixing import mix
from tinygptv.definitions.filters import FilterChain
from tinygptv.definitions.recipe import Recipe
from tinygptv.definitions.source import PairsSource
from tinygptv.shapes.scenes import scene
from tinygptv.store.artifacts import Manifest, Store
from tinygptv.train.stage import train_stage

RECIPE, STAGE, MIXTURE = "tinygptv_tiny", "stage1", "bench_stage"
PICTURES = 64


def write_data(folder: Path) -> None:
    """Drawn pictures with captions, and a mixture of them, in `definitions` below the folder."""
    draw_pictures(folder, PICTURES, PICTURES, side=48)
    shown = [scene("train", number).objects[0] for number in range(PICTURES)]
    write_mixture(folder, MIXTURE, "caption_only", [f"a picture with a {one.colour} {one.kind}" for one in shown])


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
