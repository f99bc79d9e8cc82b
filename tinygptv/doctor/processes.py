"""Prefect and torchrun, tried from outside: servers over HTTP, and processes of their own.

The library does not import the orchestrator, and a process that hangs here must not hang the doctor.
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
    """Start two processes as training does, and let them add their ranks over gloo."""
    code = (
        "import deepspeed, torch, torch.distributed as d; d.init_process_group('gloo');"
        "t = torch.tensor([d.get_rank() + 1.0]); d.all_reduce(t); assert t.item() == 3; d.destroy_process_group()"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    run_quietly([*launcher, "--nproc-per-node", "2", "--no-python", sys.executable, "-c", code])
    return "DeepSpeed imports, gloo adds"


def test_harness_starts() -> str:
    """The suite's flow tests stand on it."""
    code = (
        "from prefect import flow\nfrom prefect.testing.utilities import prefect_test_harness\n"
        "@flow\ndef one(): return 1\n"
        f"with prefect_test_harness(server_startup_timeout={PATIENCE_SECONDS}): assert one() == 1"
    )
    with tempfile.TemporaryDirectory() as home:
        run_quietly([sys.executable, "-c", code], PREFECT_HOME=home)
    return "a flow ran in it"


def null_fields_are_accepted(server: "TemporaryServer") -> str:
    """Newer FastAPI versions answer 422 to what Prefect's own client sends."""
    status, answer = server.post("/deployments/filter", {"deployments": None, "flows": None, "limit": 1})
    if status != 200:
        raise SetupError(f"a filter with nulls was answered {status} {answer}; {REINSTALL}")
    return "accepted"


def scheduled_runs_are_planned(server: "TemporaryServer") -> str:
    """Newer SQLAlchemy versions look healthy and plan nothing."""
    _, flow = server.post("/flows/", {"name": "doctor"})
    schedule = {"schedule": {"interval": 3600}, "active": True}
    body = {"name": "doctor", "flow_id": flow["id"], "schedules": [schedule]}
    status, deployment = server.post("/deployments/", body)
    if status >= 300:
        raise SetupError(f"a scheduled deployment was answered {status} {deployment}; {REINSTALL}")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        _, runs = server.post("/flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}}})
        if runs:
            return f"planned {len(runs)} runs"
        time.sleep(0.5)
    raise SetupError(f"the server planned no run of a scheduled deployment in {PATIENCE_SECONDS} s; {REINSTALL}")


class TemporaryServer:
    """A Prefect server on a free port with its own home, started when first asked and ended with `stack`."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._address = ""

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """The status and the decoded answer, or the beginning of a refusal."""
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
                # A busy SQLite is answered 503, which Prefect's own client repeats too.
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
        words = (home / "server.log").read_text(errors="replace").strip().splitlines()[-3:]
        raise SetupError(f"Prefect's server did not start: {' '.join(words)}; {REINSTALL}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_quietly(command: list[str], **environment: str) -> None:
    """Run a command quietly. Raises SetupError with its last words if it fails or takes too long."""
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
        _, words = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise SetupError(
            f"no answer after {PATIENCE_SECONDS} s; if the machine is not just busy, {REINSTALL}"
        ) from error
    finally:
        # The processes it started too, if it could not end them itself.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        raise SetupError(f"{' '.join(words.strip().splitlines()[-3:])}; {REINSTALL}")


def _environment(**more: str) -> dict[str, str]:
    """This process's environment without its Prefect server, and with nothing sent to anybody."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    quiet = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "OMP_NUM_THREADS": "1"}
    return inherited | quiet | more
