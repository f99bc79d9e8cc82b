"""What happens to a job when its processes are killed, told to end, or run out of room; `tinygptv curate` from outside.

The names of the tests are sentences about one row of `docs/faults.md`.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.data.sources import pairs_table
from tests.own_definitions import write_definitions
from tests.web.pages import after, page, status
from tests.web.server import Web
from tinygptv.catalog import FOLDERS
from tinygptv.store.artifacts import MANIFEST, Manifest

ROWS, DEAD = 120, 7
CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture
def pictures(web: Web, picture: Callable[..., bytes]) -> Web:
    """Pictures that take a moment each, and some that are not there."""
    web.pages = {f"/{number}.jpg": after(0.05, page(picture(80, 70, number))) for number in range(ROWS - DEAD)}
    web.pages |= {f"/{number}.jpg": status(404) for number in range(ROWS - DEAD, ROWS)}
    return web


@pytest.fixture
def job(tmp_path: Path, pictures: Web) -> "Job":
    return Job(tmp_path, pictures)


class Job:
    """`tinygptv curate` on a table of the web's pictures, as a process with a session of its own.

    Its recipe has no benchmarks, whose pictures would have to be drawn before a table can be cleared of them.
    """

    def __init__(self, folder: Path, web: Web) -> None:
        self.workdir = folder / "work"
        rows = [
            {"url": f"__BASE_URL__/{number}.jpg", "caption": f"a picture of thing number {number}"}
            for number in range(ROWS)
        ]
        source = {
            "kind": "pairs",
            "about": "a job to be disturbed",
            "licence": "CC0-1.0",
            "tables": [{"location": str(pairs_table(folder, rows))}],
            "filter": "web_pairs",
            "allow_private": True,
            "download": {"image_size": 64, "threads": 4, "samples_per_shard": 20},
        }
        recipe = yaml.safe_load((FOLDERS["recipe"] / "tinygptv_tiny.yaml").read_text()) | {"benchmarks": []}
        definitions = {"sources": {"job": source}, "recipes": {"nothing_to_score": recipe}}
        self._environment = os.environ | {
            "TINYGPTV_DEFINITIONS": str(write_definitions(folder / "definitions", definitions)),
            "TINYGPTV_BASE_URL": web.address,
        }

    def start(self) -> subprocess.Popen[str]:
        options = ["--source", "job", "--recipe", "nothing_to_score", "--workdir", str(self.workdir)]
        return subprocess.Popen(
            [sys.executable, "-m", "tinygptv.cli", "curate", *options],
            cwd=CHECKOUT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> dict[str, Any]:
        """Run to the end; the account on the last line."""
        process = self.start()
        try:
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 0, errors
        return dict(json.loads(output.splitlines()[-1]))

    def raw(self) -> tuple[Path, Manifest]:
        (path,) = self.workdir.glob(f"raw/*/{MANIFEST}")
        return path.parent, Manifest.model_validate_json(path.read_text())

    def shards(self) -> dict[str, str]:
        """Tar → hash of its bytes."""
        folder, _ = self.raw()
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


def tree(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def all_end(processes: list[psutil.Process]) -> bool:
    _, left = psutil.wait_procs(processes, timeout=20)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in left)


def test_curate_accounts_for_every_row_on_its_last_line(job: Job) -> None:
    account = job.finish()
    assert set(account) == {"rows_in", "rows_out", "drops", "seconds", "peak_memory_bytes"}
    assert account["rows_in"] == ROWS == account["rows_out"] + sum(account["drops"].values())
    assert account["drops"]["http_404"] == DEAD
    assert 30e6 < account["peak_memory_bytes"] < 400e6
    again = job.finish()
    assert {name: again[name] for name in ("rows_in", "rows_out", "drops")} == {
        name: account[name] for name in ("rows_in", "rows_out", "drops")
    }


def test_a_job_killed_at_random_instants_loses_and_repeats_nothing(job: Job, web: Web, tmp_path: Path) -> None:
    """Every process of it at once, as an out-of-memory killer or a power cut would. What was fetched before a kill is
    not asked for again, but for what was on its way at that moment, and the shards are the same to the bit."""
    instants, kills = random.Random(7), 0
    for _ in range(3):
        process = job.start()
        try:
            process.wait(instants.uniform(0.6, 2.0))
            break
        except subprocess.TimeoutExpired:
            victims = tree(process)
            for victim in victims:
                victim.kill()
            process.communicate()
            assert all_end(victims)
            kills += 1
    account = job.finish()
    assert account["rows_in"] == ROWS == account["rows_out"] + sum(account["drops"].values())
    _, raw = job.raw()
    assert (raw.rows_out, raw.drops) == (ROWS - DEAD, {"http_404": DEAD})
    asked = web.asked_for
    assert len(asked) == ROWS
    assert asked.total() - ROWS <= kills * 4, "at most what four threads were asking for when they were killed"
    (tmp_path / "undisturbed").mkdir()
    undisturbed = Job(tmp_path / "undisturbed", web)
    undisturbed.finish()
    assert undisturbed.shards() == job.shards()


def test_a_job_that_is_told_to_end_drains_and_leaves_no_process(job: Job, web: Web) -> None:
    process = job.start()
    while web.count("/9.jpg") == 0:
        assert process.poll() is None
        time.sleep(0.01)
    processes = tree(process)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert len(processes) == 2
    assert all_end(processes)
    job.finish()
    assert Counter(web.asked_for.values()) == {1: ROWS}


def test_a_job_without_room_ends_with_an_error_that_says_so(job: Job, web: Web) -> None:
    process = job.start()
    psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (20_000, psutil.RLIM_INFINITY))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "StorageError" in errors
    assert "start the same command again" in errors
    assert not list(job.workdir.glob("raw/*"))
    assert job.finish()["rows_in"] == ROWS
