"""Checks in separate processes, none of which is left running."""

import contextlib
import sys
from pathlib import Path

import psutil
import pytest

from tinygptv.doctor import processes
from tinygptv.errors import SetupError


def test_the_server_accepts_null_fields_and_schedules_runs() -> None:
    with contextlib.ExitStack() as stack:
        server = processes.TemporaryServer(stack)
        assert processes.null_fields_are_accepted(server) == "accepted"
        assert processes.scheduled_runs_are_planned(server).startswith("scheduled")


def test_a_process_that_fails_is_reported_with_its_last_lines() -> None:
    with pytest.raises(SetupError, match="RuntimeError: no interface"):
        processes.run_quietly([sys.executable, "-c", "raise RuntimeError('no interface')"])


def test_a_process_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE_SECONDS", 5)
    child = "import time; time.sleep(600)"
    code = (
        "import pathlib, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    with pytest.raises(SetupError, match="no result after 5 s"):
        processes.run_quietly([sys.executable, "-c", code])
    pid = int((tmp_path / "pid").read_text())
    with contextlib.suppress(psutil.NoSuchProcess):
        # A killed process ends only once the kernel has got round to it, and nobody may ask for its exit code.
        _, left = psutil.wait_procs([psutil.Process(pid)], timeout=10)
        assert all(process.status() == psutil.STATUS_ZOMBIE for process in left)
