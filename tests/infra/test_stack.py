"""The embedded stack, on a copy of the flows: it starts, runs, recovers, reports errors, and stops completely."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import psutil
import pytest

from tests.miniature import DEAD_LINKS, PICTURES, RECIPE, SOURCE, write_miniature
from tinygptv.errors import LaunchError, SetupError
from tinygptv.shapes.server import serve

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 300


def copy_checkout(folder: Path) -> Path:
    """Copy the parts of a checkout that the stack reads; the package is the installed one."""
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "infra").mkdir()
    shutil.copy(ROOT / "infra" / "stack.py", folder / "infra")
    shutil.copy(ROOT / "prefect.yaml", folder)
    return folder


@pytest.fixture
def stack(tmp_path: Path) -> ModuleType:
    """The module, with its own state folder."""
    path = copy_checkout(tmp_path / "checkout") / "infra" / "stack.py"
    specification = importlib.util.spec_from_file_location("stack", path)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.STATE.mkdir()
    return module


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes_of(checkout: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TINYGPTV_STACK") == str(checkout / ".state"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_the_stack_runs_recovers_from_a_killed_worker_and_leaves_no_process(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    environment = os.environ | write_miniature(tmp_path / "mini", {"stage1": 2}) | {"TINYGPTV_PORT": str(free_port())}

    def stack(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "infra/stack.py", *arguments],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    run = ("run", "curate/local", "-p", f"source={SOURCE}", "-p", f"workdir={tmp_path / 'work'}", "-p")
    try:
        code, output = stack(*run, "recipe=minni")
        assert code == 1 and "Did you mean 'mini'?" in output
        server = f"http://127.0.0.1:{environment['TINYGPTV_PORT']}"
        assert f"{server}/api" in (checkout / "prefect.toml").read_text()

        code, output = stack(*run, "resipe=mini")
        assert code == 1 and "curate/local has no such parameter. Did you mean 'recipe'?" in output

        (worker,) = [process for process in processes_of(checkout) if "worker" in process.cmdline()]
        worker.kill()
        with serve(tmp_path / "mini") as address:
            environment["TINYGPTV_BASE_URL"] = address
            code, output = stack(*run, f"recipe={RECIPE}")
        with urllib.request.urlopen(f"{server}/ui-settings", timeout=10) as answer:
            assert json.load(answer)["api_url"] == f"{server}/api", "the UI requests data from another server"
        assert code == 0 and f"{PICTURES} of {PICTURES + DEAD_LINKS} pairs kept" in output
    finally:
        code, output = stack("down")
    assert code == 0 and output.startswith("stopped")
    assert processes_of(checkout) == []
    assert not (checkout / "prefect.toml").exists()


def test_a_requested_port_that_is_taken_is_refused(
    stack: ModuleType, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYGPTV_PORT", str(taken_port))
    with pytest.raises(SetupError, match=f"port {taken_port} .* is in use by another program; choose another"):
        stack.up()


@pytest.mark.parametrize("port", ["http", "0", "70000"])
def test_an_invalid_port_is_refused(port: str, stack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_PORT", port)
    with pytest.raises(SetupError, match="between 1 and 65535"):
        stack.up()


def test_a_taken_default_port_is_replaced_by_the_next_free_one(
    stack: ModuleType, taken_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TINYGPTV_PORT", raising=False)
    monkeypatch.setattr(stack, "DEFAULT_PORT", taken_port)
    chosen = stack.free_port()
    assert taken_port < chosen < taken_port + 100
    assert f"port {taken_port} is in use by another program; using {chosen}" in capsys.readouterr().out


def test_a_server_that_exits_during_start_up_is_reported_with_its_last_lines(
    stack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "prefect"
    broken.write_text("raise SystemExit('ImportError: no such thing as min_items')")
    monkeypatch.setattr(stack, "PREFECT", broken)
    monkeypatch.setenv("TINYGPTV_PORT", str(free_port()))
    with pytest.raises(LaunchError, match="no such thing as min_items"):
        stack.up()


@pytest.fixture
def plain_prefect(stack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A `prefect` whose server says that it is healthy, whose worker idles, and which does nothing else."""
    script = tmp_path / "prefect"
    script.write_text(
        "import sys, time\n"
        "from http.server import BaseHTTPRequestHandler, HTTPServer\n"
        "class Health(BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'true')\n"
        "if sys.argv[1] == 'server':\n"
        "    HTTPServer(('127.0.0.1', int(sys.argv[-1])), Health).serve_forever()\n"
        "elif sys.argv[1] == 'worker':\n"
        "    time.sleep(60)\n"
    )
    monkeypatch.setattr(stack, "PREFECT", script)
    monkeypatch.setattr(stack, "_clean_up_after_lost_worker", lambda: None)
    with patch.dict(os.environ):  # `up` leaves its settings there
        yield


def test_two_checkouts_that_start_at_once_have_a_server_each(
    stack: ModuleType, plain_prefect: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TINYGPTV_PORT", raising=False)
    monkeypatch.setattr(stack, "DEFAULT_PORT", free_port())
    other = subprocess.Popen([sys.executable, stack.PREFECT, "server", "start", "--port", str(stack.DEFAULT_PORT)])
    look, looked = stack.free_port, []

    def look_before_the_other_has_started() -> int:
        looked.append(stack.DEFAULT_PORT)
        return stack.DEFAULT_PORT if len(looked) == 1 else look()

    try:
        while stack._is_free(stack.DEFAULT_PORT):
            assert other.poll() is None
        monkeypatch.setattr(stack, "free_port", look_before_the_other_has_started)
        address = stack.up()
        assert len(looked) == 2
        assert address != f"http://127.0.0.1:{stack.DEFAULT_PORT}"
        assert stack.up() == address
    finally:
        stack.down()
        other.kill()
        other.wait()


def test_stopping_a_stopped_stack_is_not_an_error(stack: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    stack.down()
    assert capsys.readouterr().out == "nothing was running\n"
