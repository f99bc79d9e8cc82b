"""A journey whose whole process group is killed in its second stage, and what the same command then does."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_API_URL

from tests.miniature import RECIPE, SOURCE, write_miniature
from tinygptv.shapes.server import serve
from tinygptv.store.artifacts import MANIFEST

ROOT = Path(__file__).resolve().parents[2]
STEPS = {"stage1": 2, "stage2": 60}
PATIENCE_SECONDS = 400


@pytest.fixture
def miniature(tmp_path: Path, prefect_server: None) -> Iterator[dict[str, str]]:
    """The environment of a flow process: definitions, image server, Prefect server."""
    environment = write_miniature(tmp_path / "mini", STEPS)
    with serve(tmp_path / "mini") as address:
        yield os.environ | environment | {"TINYGPTV_BASE_URL": address, "PREFECT_API_URL": PREFECT_API_URL.value()}


def start(environment: dict[str, str], workdir: Path) -> subprocess.Popen[str]:
    """Start the flow in its own process group, as a worker does."""
    arguments = {"run": "killed", "recipe": RECIPE, "source": SOURCE, "workdir": str(workdir)}
    code = f"from flows.journey import train_all; print(train_all(**{arguments!r}, return_state=True).message)"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def kill_at_a_checkpoint(flow: subprocess.Popen[str], workdir: Path) -> int:
    """SIGKILL to the process group once stage 2 has a checkpoint; returns the checkpoint's step."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := sorted(workdir.glob(".drafts/runs/killed/stage2@*/checkpoints/step*"))):
        assert flow.poll() is None, "the flow ended before it could be killed"
        assert time.monotonic() < deadline, "stage 2 left no checkpoint"
        time.sleep(0.02)
    ranks = [p for p in psutil.Process(flow.pid).children(recursive=True) if "--job" in p.cmdline()]
    os.killpg(flow.pid, signal.SIGKILL)
    flow.wait()
    assert ranks and psutil.wait_procs(ranks, timeout=10)[1] == []
    return int(found[-1].name.removeprefix("step"))


def manifest_times(workdir: Path) -> dict[str, int]:
    """Modification time of each finished artifact's manifest."""
    return {
        str(path.parent.relative_to(workdir)): path.stat().st_mtime_ns
        for path in workdir.rglob(MANIFEST)
        if ".drafts" not in path.parts
    }


def test_a_killed_journey_continues_from_its_last_checkpoint_and_repeats_nothing(
    miniature: dict[str, str], tmp_path: Path
) -> None:
    workdir = tmp_path / "work"
    step = kill_at_a_checkpoint(start(miniature, workdir), workdir)
    before = manifest_times(workdir)
    assert {name.partition("@")[0] for name in before} == {
        f"raw/{SOURCE}",
        f"described/{SOURCE}-web",
        f"filtered/{SOURCE}-mini_pairs",
        "mixtures/mini_mixture",
        "usable/mini_mixture",
        "runs/killed/stage1",
    }

    message, _ = start(miniature, workdir).communicate(timeout=PATIENCE_SECONDS)
    after = manifest_times(workdir)
    assert {name: after[name] for name in before} == before

    (stage2,) = workdir.glob("runs/killed/stage2@*")
    steps = [json.loads(line)["step"] for line in (stage2 / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS["stage2"] + 1))
    assert f"steps {step} to {STEPS['stage2']}" in (stage2 / "train.log").read_text()

    report = Path(message.strip().removeprefix("report: ")).read_text()
    assert all(stage in report for stage in STEPS)

    start(miniature, workdir).communicate(timeout=PATIENCE_SECONDS)
    assert manifest_times(workdir) == after
