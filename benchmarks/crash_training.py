"""Kill a training ten times at random steps (a rank, the launcher or the whole flow) and compare the result.

    python benchmarks/crash_training.py [RANKS] [SEED]

Not a benchmark but a check that is too slow for the test suite, which kills less often. With one rank, weights and
metrics must be identical to those of an undisturbed run; with several, weights may differ within a tolerance. Exit code
1 on failure.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import small_stage
import torch
from comparison import report
from safetensors.torch import load_file
from small_stage import STAGE, stage_folder, write_data

from tinygptv.catalog import OWN_DEFINITIONS
from tinygptv.train.events import read_events
from tinygptv.train.job import METRICS, TRAINED, read_metrics

STEPS, CHECKPOINT_EVERY, KILLS = 60, 5, 10
TOLERANCE = 1e-4
REPRODUCIBLE = ("step", "round", "batch", "loss", "losses", "lr", "grad_norm", "tombstones")
VICTIMS = ("rank", "launcher", "flow")


def main() -> None:
    """Train once undisturbed and once with kills, then compare."""
    if sys.argv[1:2] == ["train"]:
        folder, name, ranks = sys.argv[2:]
        train(Path(folder), name, int(ranks))
        return
    ranks = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_data(folder)
        assert start(folder, "undisturbed", ranks).wait() == 0, (folder / "undisturbed.log").read_text()
        killed = with_kills(folder, ranks, random.Random(seed))
        undisturbed, disturbed = (stage_folder(folder, name) for name in ("undisturbed", "disturbed"))
        farthest = compare(undisturbed, disturbed, exactly=ranks == 1)
        events = [event["event"] for event in read_events(disturbed)]
        goal = "same bits and metrics" if ranks == 1 else f"<= {TOLERANCE}"
        name = f"crash_training: farthest weight after {KILLS} kills, {ranks} rank{'s' * (ranks > 1)}"
        report(name, farthest, None, "", goal, killed=killed, restarts_by_itself=events.count("restarted"))


def train(folder: Path, name: str, ranks: int) -> None:
    """Train the stage, resuming from its last good checkpoint, as the flow does."""
    stage = {"checkpoint_every": CHECKPOINT_EVERY, "global_batch_size": 8}
    small_stage.train(folder, name, STEPS, stage, {"ranks": ranks, "micro_batch_size": 4, "restarts": KILLS})


def start(folder: Path, name: str, ranks: int) -> subprocess.Popen[bytes]:
    """Start the training in a separate process, with a log."""
    command = [sys.executable, __file__, "train", str(folder), name, str(ranks)]
    environment = os.environ | {OWN_DEFINITIONS: str(folder / "definitions")}
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def with_kills(folder: Path, ranks: int, chance: random.Random) -> dict[str, int]:
    """Train to the end with kills on the way; returns how often each kind of process was killed."""
    killed = dict.fromkeys(VICTIMS, 0)
    flow = start(folder, "disturbed", ranks)
    for step in sorted(chance.sample(range(1, STEPS - 5), KILLS)):
        while steps_taken(folder) < step:
            if flow.poll() is not None:
                assert flow.returncode != 0, "the training ended before all kills"
                flow = start(folder, "disturbed", ranks)
            time.sleep(0.01)
        victim = chance.choice(VICTIMS)
        if process := find(flow, victim):
            process.kill()
            killed[victim] += 1
    while flow.wait() != 0:
        flow = start(folder, "disturbed", ranks)
    return killed


def find(flow: subprocess.Popen[bytes], victim: str) -> psutil.Process | None:
    """Find a rank, the agent that started it, or the process that launched both."""
    children = psutil.Process(flow.pid).children(recursive=True)
    ranks = [
        process
        for process in children
        if "--job" in process.cmdline() and "tinygptv.train.launch.torchrun" not in process.cmdline()
    ]
    if not ranks:
        return None
    return {"rank": ranks[-1], "launcher": ranks[-1].parent(), "flow": psutil.Process(flow.pid)}[victim]


def steps_taken(folder: Path) -> int:
    """Number of lines in the metrics, including steps that will be repeated."""
    found = list(folder.glob(f"work/.drafts/runs/disturbed/{STAGE}@*/{METRICS}"))
    return len(read_metrics(found[0])) if found else 0


def compare(undisturbed: Path, disturbed: Path, exactly: bool) -> float:
    """Largest difference between weights. Raises AssertionError if it, or a metric, differs too much."""
    expected_weights, weights = (load_file(folder / TRAINED) for folder in (undisturbed, disturbed))
    assert expected_weights.keys() == weights.keys()
    farthest = max(float((expected_weights[name] - weights[name]).abs().max()) for name in expected_weights)
    assert farthest <= (0 if exactly else TOLERANCE), farthest
    expected, found = (reproducible(folder / METRICS) for folder in (undisturbed, disturbed))
    assert [row["step"] for row in found] == [row["step"] for row in expected] == list(range(1, STEPS + 1))
    if exactly:
        assert found == expected
        assert all(torch.equal(expected_weights[name], weights[name]) for name in expected_weights)
    return farthest


def reproducible(metrics: Path) -> list[dict[str, Any]]:
    """The metrics without measurements of time and memory."""
    return [{field: row[field] for field in REPRODUCIBLE} for row in read_metrics(metrics)]


if __name__ == "__main__":
    main()
