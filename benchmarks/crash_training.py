"""A training killed ten times at random steps, each time a rank, the launcher or the whole flow: does it end the same?

    python benchmarks/crash_training.py [RANKS] [SEED]

Not a race but a proof too long for the suite, which kills less often. One rank must end with the same bits as a run
that was left alone, several within a tolerance; all with the same metrics. Exit code 1 if they do not.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from comparison import report
from safetensors.torch import load_file

from tinygptv import catalog
from tinygptv.artifacts import Manifest, Store
from tinygptv.catalog import OWN_DEFINITIONS, ResolvedRun
from tinygptv.data.mixing import mix
from tinygptv.data.shapes.scenes import draw, scene
from tinygptv.definitions.filters import FilterChain
from tinygptv.definitions.recipe import Recipe
from tinygptv.definitions.source import PairsSource
from tinygptv.train.events import read_events
from tinygptv.train.stage import METRICS, TRAINED, read_metrics, train_stage

RECIPE, STAGE, MIXTURE = "tinygptv_tiny", "stage1", "bench_crash"
STEPS, CHECKPOINT_EVERY, PICTURES, KILLS = 60, 5, 64, 10
TOLERANCE = 1e-4
LASTING = ("step", "round", "batch", "loss", "losses", "lr", "grad_norm", "tombstones")
VICTIMS = ("rank", "launcher", "flow")


def main() -> None:
    """Train once in peace and once under fire, then compare."""
    if sys.argv[1:2] == ["train"]:
        folder, name, ranks = sys.argv[2:]
        train(Path(folder), name, int(ranks))
        return
    ranks = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_data(folder)
        assert start(folder, "peace", ranks).wait() == 0, (folder / "peace.log").read_text()
        killed = under_fire(folder, ranks, random.Random(seed))
        peace, fire = (left_by(folder, name) for name in ("peace", "fire"))
        farthest = compare(peace, fire, exactly=ranks == 1)
        events = [event["event"] for event in read_events(fire)]
        goal = "same bits and metrics" if ranks == 1 else f"<= {TOLERANCE}"
        name = f"crash_training: farthest weight after {KILLS} kills, {ranks} rank{'s' * (ranks > 1)}"
        report(name, farthest, None, "", goal, killed=killed, restarts_by_itself=events.count("restarted"))


def write_data(folder: Path) -> None:
    """Drawn pictures with captions, and a mixture of them."""
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


def train(folder: Path, name: str, ranks: int) -> Manifest:
    """What the flow would do: the stage, from its last good checkpoint."""
    content = catalog.recipe(RECIPE).model_dump()
    content["stages"] = content["stages"][:1]
    stage = content["stages"][0]
    stage |= {"mixture": MIXTURE, "checkpoint_every": CHECKPOINT_EVERY, "global_batch_size": 8}
    stage["schedule"] |= {"warmup_steps": 5, "steps": STEPS}
    profile = {"ranks": ranks, "micro_batch_size": 4, "restarts": KILLS}
    run = ResolvedRun(
        RECIPE,
        Recipe.model_validate(content),
        "cpu",
        catalog.hardware("cpu").model_copy(update=profile),
        "bench",
        PairsSource.model_construct(),
        FilterChain.model_construct(),
        {MIXTURE: catalog.mixture(MIXTURE)},
        {},
        {},
    )
    store = Store(str(folder / "work"))
    return train_stage(store, run, name, STAGE, mix(store, MIXTURE, None), None)


def start(folder: Path, name: str, ranks: int) -> subprocess.Popen[bytes]:
    """The training in a process of its own, with a log."""
    command = [sys.executable, __file__, "train", str(folder), name, str(ranks)]
    environment = os.environ | {OWN_DEFINITIONS: str(folder / "definitions")}
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def under_fire(folder: Path, ranks: int, chance: random.Random) -> dict[str, int]:
    """Train to the end, killing on the way; how often each victim was hit."""
    killed = dict.fromkeys(VICTIMS, 0)
    flow = start(folder, "fire", ranks)
    for step in sorted(chance.sample(range(1, STEPS - 5), KILLS)):
        while steps_taken(folder) < step:
            if flow.poll() is not None:
                assert flow.returncode != 0, "the training ended before all kills"
                flow = start(folder, "fire", ranks)
            time.sleep(0.01)
        victim = chance.choice(VICTIMS)
        if process := find(flow, victim):
            process.kill()
            killed[victim] += 1
    while flow.wait() != 0:
        flow = start(folder, "fire", ranks)
    return killed


def find(flow: subprocess.Popen[bytes], victim: str) -> psutil.Process | None:
    """A rank, the agent that started it, or the process that asked for both."""
    children = psutil.Process(flow.pid).children(recursive=True)
    ranks = [
        process
        for process in children
        if "--job" in process.cmdline() and "tinygptv.train.launch" not in process.cmdline()
    ]
    if not ranks:
        return None
    return {"rank": ranks[-1], "launcher": ranks[-1].parent(), "flow": psutil.Process(flow.pid)}[victim]


def steps_taken(folder: Path) -> int:
    """Lines of the metrics so far, also of those that will be taken again."""
    found = list(folder.glob(f"work/.drafts/runs/fire/{STAGE}@*/{METRICS}"))
    return len(read_metrics(found[0])) if found else 0


def left_by(folder: Path, name: str) -> Path:
    """What a finished run left behind."""
    (found,) = folder.glob(f"work/runs/{name}/{STAGE}@*")
    return found


def compare(peace: Path, fire: Path, exactly: bool) -> float:
    """The farthest that a weight is off; raises AssertionError if that, or a metric, is too far."""
    quiet, loud = (load_file(folder / TRAINED) for folder in (peace, fire))
    assert quiet.keys() == loud.keys()
    farthest = max(float((quiet[name] - loud[name]).abs().max()) for name in quiet)
    assert farthest <= (0 if exactly else TOLERANCE), farthest
    expected, found = (lasting(folder / METRICS) for folder in (peace, fire))
    assert [row["step"] for row in found] == [row["step"] for row in expected] == list(range(1, STEPS + 1))
    if exactly:
        assert found == expected
        assert all(torch.equal(quiet[name], loud[name]) for name in quiet)
    return farthest


def lasting(metrics: Path) -> list[dict[str, Any]]:
    """What is no measurement of time or memory."""
    return [{field: row[field] for field in LASTING} for row in read_metrics(metrics)]


if __name__ == "__main__":
    main()
