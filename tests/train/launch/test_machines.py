"""Agents of two machines really meet: here both are this one, and what starts the second only looks like ssh."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tinygptv.definitions.hardware import Hardware
from tinygptv.errors import LaunchError
from tinygptv.train.events import read_events
from tinygptv.train.launch import nodes, pods
from tinygptv.train.launch.torchrun import DeepSpeedLauncher

ROOT = Path(__file__).parents[3]
# The last argument is a command line for a shell on the other machine, as ssh takes it.
SSH = """#!/bin/sh
for line in "$@"; do :; done
echo "$@" >> {folder}/ssh.txt
exec sh -c "$line"
"""
# Every task gets the same command.
SRUN = """#!/bin/sh
echo "$@" >> {folder}/srun.txt
while [ "${{1#-}}" != "$1" ]; do case $1 in --nodes|--ntasks) shift;; esac; shift; done
"$@" &
exec "$@"
"""


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hardware:
    """Two machines of one rank each, which meet on loopback; `ssh` and `srun` are in front of any others."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name, script in {"ssh": SSH, "srun": SRUN}.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(script.format(folder=tmp_path))
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Hardware(
        about="test",
        device="cpu",
        nodes=2,
        ranks=1,
        rendezvous=f"127.0.0.1:{port}",
        restarts=1,
        stall_seconds=60,
        micro_batch_size=1,
        precision="fp32",
        zero_stage=0,
    )


def launch(folder: Path, hardware: Hardware, *acts: str) -> list[str]:
    lines: list[str] = []
    (folder / "job.json").write_text(json.dumps(acts))
    os.mkfifo(folder / "job.fifo")
    launcher = DeepSpeedLauncher("tests.train.ranks_that_wait")
    launcher.run(folder / "job.json", hardware, folder / "log", lines.append)
    return lines


def ranks_in(lines: list[str]) -> list[str]:
    return sorted(found[1] for line in lines if (found := re.match(r"(rank \d) is ", line)))


def test_an_agent_here_and_one_over_ssh_start_ranks_of_one_group_and_agree_on_a_restart(
    tmp_path: Path, two: Hardware
) -> None:
    lines = launch(tmp_path, two.model_copy(update={"hosts": ["here", "there"]}), "die once", "wait once")
    assert (tmp_path / "ssh.txt").read_text().startswith("-tt -o BatchMode=yes there cd ")
    assert {"rank 0", "rank 1"} == set(ranks_in(lines))
    told = [event["event"] for event in read_events(tmp_path)]
    assert told.count("rank_failed") == told.count("restarted") >= 1


def test_one_srun_starts_both_agents(tmp_path: Path, two: Hardware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    lines = launch(tmp_path, two, "end", "end")
    assert ranks_in(lines) == ["rank 0", "rank 1"]
    assert (tmp_path / "srun.txt").read_text().startswith("--nodes 2 --ntasks 2 --ntasks-per-node=1 ")


@pytest.fixture
def other_pod(tmp_path: Path, two: Hardware) -> Iterator[subprocess.Popen[str]]:
    """Pod 1 of two, which runs what the manifest says; its lines come over its pipe."""
    environment = os.environ | {nodes.POD: "1", pods.FOLDER: str(tmp_path / "pods")}
    command = [sys.executable, "-m", "tinygptv.train.launch.pods"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    yield process
    process.kill()
    process.communicate()


def test_pods_meet_whenever_pod_0_trains_and_end_with_the_other(
    tmp_path: Path, two: Hardware, other_pod: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(nodes.POD, "0")
    monkeypatch.setenv(nodes.SERVICE, "tinygptv")
    monkeypatch.setenv("HOSTNAME", "tinygptv-train-0")
    monkeypatch.setenv(pods.FOLDER, str(tmp_path / "pods"))
    started: list[int] = []
    for name in ("one stage", "the next"):
        (tmp_path / name).mkdir()
        here = ranks_in(launch(tmp_path / name, two, "end", "end"))
        there = next(found for line in other_pod.stdout or [] if (found := re.match(r"(rank \d) is (\d+)", line)))
        assert sorted([*here, there[1]]) == ["rank 0", "rank 1"]
        started.append(int(there[2]))
    assert not (tmp_path / "pods" / "start.json").exists()
    assert other_pod.poll() is None
    other_pod.send_signal(signal.SIGKILL)
    assert not any(psutil.pid_exists(pid) for pid in started)


def test_a_pod_that_is_not_told_where_the_others_are_does_not_start(
    tmp_path: Path, two: Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(nodes.POD, "0")
    monkeypatch.setenv("HOSTNAME", "tinygptv-train-0")
    with pytest.raises(LaunchError, match="TINYGPTV_SERVICE is not set"):
        launch(tmp_path, two.model_copy(update={"rendezvous": None}), "end", "end")
