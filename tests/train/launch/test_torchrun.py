"""Ranks started by torchrun: what they say is handed on, and one that dies or hangs is named."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from tinygptv.definitions.hardware import Hardware
from tinygptv.errors import LaunchError
from tinygptv.train.events import read_events
from tinygptv.train.launch.torchrun import DeepSpeedLauncher, RecordingLauncher

ROOT = Path(__file__).parents[3]
PROFILE = Hardware(about="test", device="cpu", ranks=2, restarts=0, micro_batch_size=1, precision="fp32", zero_stage=0)
CALLER = """
    import sys
    from pathlib import Path
    from tinygptv.definitions.hardware import Hardware
    from tinygptv.train.launch.torchrun import DeepSpeedLauncher

    job = Path(sys.argv[1])
    profile = Hardware.model_validate_json(sys.argv[2])
    launcher = DeepSpeedLauncher("tests.train.ranks_that_wait")
    launcher.run(job, profile, job.parent / "log", lambda line: print(line, flush=True))
"""


@pytest.fixture(autouse=True)
def rank_module_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def launch(tmp_path: Path, *acts: str, **profile: object) -> list[str]:
    lines: list[str] = []
    job = tmp_path / "job.json"
    job.write_text(json.dumps(acts))
    os.mkfifo(job.with_suffix(".fifo"))
    DeepSpeedLauncher("tests.train.ranks_that_wait").run(
        job, PROFILE.model_copy(update=profile), tmp_path / "log", lines.append
    )
    return lines


def test_every_line_of_every_rank_is_handed_on(tmp_path: Path) -> None:
    lines = launch(tmp_path, "end", "end")
    assert {line.split(" is ")[0] for line in lines if " is " in line} == {"rank 0", "rank 1"}


def test_the_rank_that_failed_first_is_named_and_its_echoes_are_not(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"rank 1 failed first: DataError: the shard is empty; draw it again"):
        launch(tmp_path, "echo", "fail", restarts=1)
    assert (tmp_path / "log").read_text().count("rank 1 is ") == 1, "what would fail again was started again"


def test_a_killed_rank_ends_the_others(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"rank 1 failed first, with exit code -9"):
        launch(tmp_path, "tell and wait", "be killed")
    waiting = int(re.search(r"rank 0 is (\d+)", (tmp_path / "log").read_text())[1])
    assert not psutil.pid_exists(waiting)


def test_a_group_that_lost_a_rank_is_started_again(tmp_path: Path) -> None:
    lines = launch(tmp_path, "die once", "end", restarts=1)
    assert sum(line.startswith("rank 0 is ") for line in lines) == 2
    failed, restarted = read_events(tmp_path)
    assert (failed["event"], failed["rank"], failed["exit_code"]) == ("rank_failed", 0, -9)
    assert restarted["event"] == "restarted"


def test_a_rank_that_hangs_is_found_in_time_told_where_it_is_and_started_again(tmp_path: Path) -> None:
    launch(tmp_path, "hang once", "end", restarts=1, stall_seconds=2)
    hung = read_events(tmp_path)[0]
    assert (hung["event"], hung["rank"], hung["doing"]) == ("rank_hung", 0, "looking for an end")
    assert hung["stack"][0].startswith("stuck (ranks_that_wait.py:")
    assert 2 < hung["seconds"] < 2 + 5
    assert [event["event"] for event in read_events(tmp_path)] == ["rank_hung", "rank_failed", "restarted"]


def test_a_rank_that_goes_on_hanging_ends_the_training_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"rank 1 hung for .* at 'starting' in stuck \(ranks_that_wait.py:\d+\)"):
        launch(tmp_path, "end", "wait", stall_seconds=1)


@pytest.mark.parametrize("victim", ["caller", "agent"])
def test_no_rank_outlives_a_killed_caller_or_agent(tmp_path: Path, victim: str) -> None:
    job = tmp_path / "job.json"
    job.write_text(json.dumps(["wait", "wait"]))
    command = [sys.executable, "-c", textwrap.dedent(CALLER), str(job), PROFILE.model_dump_json()]
    caller = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ)
    ranks: list[psutil.Process] = []
    for line in caller.stdout or []:
        if found := re.match(r"rank \d is (\d+)", line):
            ranks.append(psutil.Process(int(found[1])))
        if len(ranks) == PROFILE.ranks:
            break
    assert len(ranks) == PROFILE.ranks
    agent = ranks[0].parent()
    assert agent is not None
    assert agent.ppid() == caller.pid
    (caller if victim == "caller" else agent).kill()
    _, alive = psutil.wait_procs([*ranks, agent], timeout=5)
    caller.communicate(timeout=10)
    assert alive == []
    assert caller.returncode != 0


def test_what_interrupts_the_caller_ends_the_ranks(tmp_path: Path) -> None:
    job, ranks = tmp_path / "job.json", list[int]()
    job.write_text(json.dumps(["wait", "wait"]))

    def cancel(line: str) -> None:
        if found := re.match(r"rank \d is (\d+)", line):
            ranks.append(int(found[1]))
        if len(ranks) == PROFILE.ranks:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DeepSpeedLauncher("tests.train.ranks_that_wait").run(job, PROFILE, tmp_path / "log", cancel)
    assert not any(psutil.pid_exists(rank) for rank in ranks)


def test_several_nodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="needs 2"):
        DeepSpeedLauncher().run(tmp_path / "job.json", PROFILE.model_copy(update={"nodes": 2}), tmp_path / "log", print)


def test_the_recording_launcher_starts_nothing(tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text('{"stage": "stage1"}')
    launcher = RecordingLauncher(pretend=lambda folder: (folder / "trained").touch())
    launcher.run(job, PROFILE, tmp_path / "log", print)
    assert launcher.jobs == [{"stage": "stage1"}]
    assert (tmp_path / "trained").exists()
