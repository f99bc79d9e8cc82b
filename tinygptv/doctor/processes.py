"""Checks of Prefect and torchrun in separate processes.

The library does not import Prefect, and a process that hangs must not hang the doctor.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tinygptv.errors import SetupError

PATIENCE_SECONDS = 180
BUSY = 503
REINSTALL = "remove .venv and run `make setup`"


def two_ranks_talk() -> str:
    """Start two processes as training does, and run an all-reduce over gloo."""
    code = (
        "import deepspeed, torch, torch.distributed as d; d.init_process_group('gloo');"
        "t = torch.tensor([d.get_rank() + 1.0]); d.all_reduce(t); assert t.item() == 3; d.destroy_process_group()"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    run_quietly([*launcher, "--nproc-per-node", "2", "--no-python", sys.executable, "-c", code])
    return "DeepSpeed imports, all-reduce works"


def test_harness_starts() -> str:
    """Run a flow in Prefect's test harness, which the flow tests use."""
    code = (
        "from prefect import flow\nfrom prefect.testing.utilities import prefect_test_harness\n"
        "@flow\ndef one(): return 1\n"
        f"with prefect_test_harness(server_startup_timeout={PATIENCE_SECONDS}): assert one() == 1"
    )
    with tempfile.TemporaryDirectory() as home:
        run_quietly([sys.executable, "-c", code], PREFECT_HOME=home)
    return "ran a flow"


def null_fields_are_accepted(server: "TemporaryServer") -> str:
    """With newer FastAPI versions, the server answers 422 to requests of Prefect's own client."""
    status, answer = server.post("/deployments/filter", {"deployments": None, "flows": None, "limit": 1})
    if status != 200:
        raise SetupError(f"the server answered {status} to a filter with nulls: {answer}; {REINSTALL}")
    return "accepted"


def scheduled_runs_are_planned(server: "TemporaryServer") -> str:
    """With newer SQLAlchemy versions, the server looks healthy but schedules no runs."""
    _, flow = server.post("/flows/", {"name": "doctor"})
    schedule = {"schedule": {"interval": 3600}, "active": True}
    body = {"name": "doctor", "flow_id": flow["id"], "schedules": [schedule]}
    status, deployment = server.post("/deployments/", body)
    if status >= 300:
        raise SetupError(f"the server answered {status} to a scheduled deployment: {deployment}; {REINSTALL}")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        _, runs = server.post("/flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}}})
        if runs:
            return f"scheduled {len(runs)} runs"
        time.sleep(0.5)
    raise SetupError(f"the server scheduled no run of a deployment in {PATIENCE_SECONDS} s; {REINSTALL}")


class TemporaryServer:
    """A Prefect server on a free port with its own home, started on the first request and stopped with `stack`."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._address = ""

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """POST a request; returns the status and the decoded body, or the start of the body on an error."""
        if not self._address:
            self._start()
        request = urllib.request.Request(
            f"{self._address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                # A busy SQLite results in 503, which Prefect's own client retries too.
                if error.code != BUSY or time.monotonic() > deadline:
                    return error.code, error.read().decode(errors="replace")[:200]
                time.sleep(0.5)

    def _start(self) -> None:
        home = Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        log = self._stack.enter_context((home / "server.log").open("wb"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(PREFECT_HOME=str(home)),
        )
        self._stack.callback(_stop, process)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5):
                self._address = f"http://127.0.0.1:{port}/api"
                return
            time.sleep(0.2)
        log_tail = (home / "server.log").read_text(errors="replace").strip().splitlines()[-3:]
        raise SetupError(f"Prefect's server did not start: {' '.join(log_tail)}; {REINSTALL}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_quietly(command: list[str], **environment: str) -> None:
    """Run a command without output. Raises SetupError with its last lines if it fails or takes too long."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(**environment),
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise SetupError(
            f"no result after {PATIENCE_SECONDS} s; unless the machine is just busy, {REINSTALL}"
        ) from error
    finally:
        # Also any processes that it started and did not end.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        raise SetupError(f"{' '.join(errors.strip().splitlines()[-3:])}; {REINSTALL}")


def _environment(**more: str) -> dict[str, str]:
    """This process's environment without Prefect settings, and with telemetry disabled."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    quiet = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "OMP_NUM_THREADS": "1"}
    return inherited | quiet | more
