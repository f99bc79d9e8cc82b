"""A training killed ten times at random steps, each time a rank, the launcher or the whole flow: does it end the same?

    python benchmarks/crash_training.py [RANKS] [SEED]

Not a race but a proof too long for the suite, which kills less often. One rank must end with the same bits as a run
that was left alone, several within a tolerance; all with the same metrics. Exit code 1 if they do not.
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
from small_stage import STAGE, left_by, write_data

from tinygptv.catalog import OWN_DEFINITIONS
from tinygptv.train.events import read_events
from tinygptv.train.job import METRICS, TRAINED, read_metrics

STEPS, CHECKPOINT_EVERY, KILLS = 60, 5, 10
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


def train(folder: Path, name: str, ranks: int) -> None:
    """What the flow would do: the stage, from its last good checkpoint."""
    stage = {"checkpoint_every": CHECKPOINT_EVERY, "global_batch_size": 8}
    small_stage.train(folder, name, STEPS, stage, {"ranks": ranks, "micro_batch_size": 4, "restarts": KILLS})


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
        if "--job" in process.cmdline() and "tinygptv.train.launch.torchrun" not in process.cmdline()
    ]
    if not ranks:
        return None
    return {"rank": ranks[-1], "launcher": ranks[-1].parent(), "flow": psutil.Process(flow.pid)}[victim]


def steps_taken(folder: Path) -> int:
    """Lines of the metrics so far, also of those that will be taken again."""
    found = list(folder.glob(f"work/.drafts/runs/fire/{STAGE}@*/{METRICS}"))
    return len(read_metrics(found[0])) if found else 0


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
