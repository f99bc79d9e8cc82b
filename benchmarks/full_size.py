"""TinyGPT-V at its full size on this machine: memory and seconds of every stage, beside what `plan` says.

    python benchmarks/full_size.py [FOLDER]

Random weights of 3.9 billion parameters are written in the published layouts (8 GB of disk, in FOLDER or a temporary
one), loaded by the real loader, and trained by the real ranks with the profile `cpu_bf16`: a step of every stage, each
from what the one before left, and of stage 2 once more beside a base in 4 bits. The recipe is the published one but for
its data, drawn pictures with captions longer than any stage takes, so that sequences have their full length; its
tokenizer, the embedded one; and its global batch, cut down to what a CPU does in minutes. Takes a quarter of an hour
and 12 GB of memory on two idle cores.
"""

import importlib.util
import multiprocessing
import os
import re
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from comparison import report
from drawn_data import caption_of, draw_pictures, write_mixture
from published_weights import write_published

from tinygptv import catalog
from tinygptv.catalog import OWN_DEFINITIONS, ResolvedRun
from tinygptv.data.mixtures.mixing import mix
from tinygptv.definitions.filters import FilterChain
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.recipe import Recipe, Stage
from tinygptv.definitions.source import PairsSource
from tinygptv.store.artifacts import Manifest, Store
from tinygptv.train.job import METRICS, read_metrics
from tinygptv.train.planning.estimate import StageEstimator
from tinygptv.train.stage import train_stage

RECIPE, HARDWARE = "tinygptv", "cpu_bf16"
GLOBAL_BATCH = {"stage1": 4, "stage2": 4, "stage3": 2, "stage4": 1}
PICTURES, CAPTION_TOKENS = 16, 2400
TOKENIZER = "embedded:backbones/shapes/tokenizer"
TASKS: dict[str, Task] = {"bench_pairs": "caption_only", "bench_described": "describe"}
MOST_GB, CLOSE = 20, 0.1


def main() -> None:
    """Write the weights and the data, then load, run and train."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary).absolute()
        recipe = prepare(folder)
        measure_loading(recipe)
        measure_training(folder, recipe)


def prepare(folder: Path) -> Recipe:
    """Weights, pictures and definitions below `folder`; what is there already is used again."""
    recipe_file = folder / "recipe.json"
    os.environ[OWN_DEFINITIONS] = str(folder / "definitions")
    if not recipe_file.is_file():
        write_data(folder)
        content = catalog.recipe(RECIPE).model_dump()
        content["model"] = write_published(folder, catalog.recipe(RECIPE).model).model_dump()
        content["model"]["language_model"]["tokenizer"] = TOKENIZER
        for stage in content["stages"]:
            stage["mixture"] = "bench_pairs" if stage["inputs"]["template"] is None else "bench_described"
            stage["global_batch_size"] = GLOBAL_BATCH[stage["stage"]]
            stage["schedule"] |= {"warmup_steps": 0, "steps": 1, "rounds": 1}
        recipe_file.write_text(Recipe.model_validate(content).model_dump_json())
    return Recipe.model_validate_json(recipe_file.read_text())


def write_data(folder: Path) -> None:
    """Drawn pictures with endless captions, and a mixture of them for each way to read them."""
    draw_pictures(folder, PICTURES, PICTURES)
    for mixture, task in TASKS.items():
        write_mixture(folder, mixture, task, [caption_of(CAPTION_TOKENS)] * PICTURES)


def measure_loading(recipe: Recipe) -> None:
    """Load in a process of its own and look at one picture."""
    answers: multiprocessing.Queue[dict[str, Any]] = multiprocessing.get_context("spawn").Queue()
    process = multiprocessing.get_context("spawn").Process(target=load_and_look, args=(recipe, answers))
    process.start()
    measured = answers.get()
    process.join()
    report("full size: load", measured["load_seconds"], None, "s", "none", parameters=measured["parameters"])
    report("full size: forward pass", measured["forward_seconds"], None, "s", "none")
    peak = measured["peak_bytes"] / 1e9
    report("full size: peak memory of loading and a forward pass", peak, None, "GB", f"<= {MOST_GB}")


def load_and_look(recipe: Recipe, answers: "multiprocessing.Queue[dict[str, Any]]") -> None:
    """Load the first stage's model in bf16 and run it on one picture."""
    import torch

    from tinygptv.models.weights import empty_model, load_weights
    from tinygptv.sample import IMAGE_SLOT

    torch.set_num_threads(os.cpu_count() or 1)
    began = time.monotonic()
    model = empty_model(recipe.model, recipe.stages[0].inputs.image_size)
    load_weights(model, recipe.model, dtype=torch.bfloat16)
    loaded = time.monotonic()
    ids = torch.full((1, 1 + model.num_image_tokens), IMAGE_SLOT)
    ids[:, 0] = 0
    side = recipe.stages[0].inputs.image_size
    with torch.no_grad():
        logits = model.eval().logits(torch.zeros(1, 3, side, side, dtype=torch.bfloat16), ids, torch.ones_like(ids))
    assert bool(logits.isfinite().all())
    answers.put(
        {
            "load_seconds": loaded - began,
            "forward_seconds": time.monotonic() - loaded,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "peak_bytes": peak_bytes(),
        }
    )


def measure_training(folder: Path, recipe: Recipe) -> None:
    """Train every stage from what the one before left; then stage 2 again, beside a base in 4 bits."""
    run = ResolvedRun(
        RECIPE,
        recipe,
        HARDWARE,
        catalog.hardware(HARDWARE),
        "bench",
        PairsSource.model_construct(),
        FilterChain.model_construct(),
        {name: catalog.mixture(name) for name in TASKS},
        {},
        {},
    )
    store = Store(str(folder / "work"))
    before: dict[str, Manifest] = {}
    for stage in recipe.stages:
        before[stage.stage] = measure_stage(store, run, "full", stage, before.get(stage.starts_from))
    if importlib.util.find_spec("bitsandbytes"):
        in_nf4 = replace(run, hardware=run.hardware.model_copy(update={"quantize_base": "nf4"}))
        measure_stage(store, in_nf4, "nf4", recipe.stage("stage2"), before["stage1"])


def measure_stage(store: Store, run: ResolvedRun, run_name: str, stage: Stage, previous: Manifest | None) -> Manifest:
    """Train one stage, or find it trained; its peak beside the plan's, and the seconds of its last step."""
    made = train_stage(store, run, run_name, stage.stage, mix(store, stage.mixture, None), previous, on_line=print)
    step = read_metrics(store.folder(made.artifact) / METRICS)[-1]
    estimator = StageEstimator(run.recipe, stage.stage)
    planned = estimator.memory(run.hardware).total / 1e9
    measured = made.details["peak_memory_bytes"] / 1e9
    told = f"full size {stage.stage}" + (", base in 4 bits" if run.hardware.quantize_base == "nf4" else "")
    report(
        f"{told}: peak memory of the rank",
        measured,
        None,
        "GB",
        f"<= {MOST_GB}, plan within {CLOSE:.0%}",
        planned=round(planned, 3),
        planned_by_measured=round(planned / measured, 4),
        micro_batch_size=estimator.micro_batch_size(run.hardware),
        tokens=estimator.tokens(stage.inputs.max_text_tokens),
    )
    details = {"global_batch_size": stage.global_batch_size, "loss": round(step["loss"], 4)}
    report(f"{told}: a step", step["seconds"], None, "s", "none", **details)
    return made


def peak_bytes() -> int:
    """The most memory this process has had resident."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
