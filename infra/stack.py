"""The embedded stack: a Prefect server and a process worker on this machine, bound to loopback.

    python infra/stack.py up                                    start what is not running, deploy prefect.yaml
    python infra/stack.py run train-all/local -p source=shapes  the same, then run a deployment and follow it
    python infra/stack.py down                                  stop everything it started, including runs

All processes it starts have $TINYGPTV_STACK, the path of this checkout's state folder, in their environment, and so
have their children. Our processes are found by that variable instead of pid files, which can be stale or incomplete.
"""

import argparse
import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import psutil

from tinygptv.errors import DefinitionError, LaunchError, SetupError, TinyGPTVError, did_you_mean
from tinygptv.store.artifacts import fingerprint, storage_errors

CHECKOUT = Path(__file__).resolve().parent.parent
STATE = CHECKOUT / ".state"
CLIENT_SETTINGS = CHECKOUT / "prefect.toml"
PREFECT = Path(sys.executable).with_name("prefect")
MARK = "TINYGPTV_STACK"
POOL = "local"
DEFAULT_PORT = 4200
START_TIMEOUT_SECONDS = 180
STOP_TIMEOUT_SECONDS = 15


def up() -> str:
    """Start server and worker if needed, and deploy if definitions changed. Returns the server's address."""
    with _exclusive():
        port = _running_port()
        if port is None:
            port = _start_server()
        address = f"http://127.0.0.1:{port}"
        os.environ |= _client_environment(address)
        CLIENT_SETTINGS.write_text(f'# Written by `make up`, removed by `make down`.\n[api]\nurl = "{address}/api"\n')
        _deploy()
        if not _find("worker"):
            _clean_up_after_lost_worker()
            _spawn("worker", "worker", "start", "--pool", POOL, "--type", "process", "--name", POOL)
    return address


def down() -> None:
    """Stop the worker, its runs and the server. Raises LaunchError if a process survives."""
    processes = _ours()
    worker = _find("worker")
    for process in [*worker, *(p for p in processes if p not in worker)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=STOP_TIMEOUT_SECONDS)
    for process in {*alive, *_ours()}:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(_ours(), timeout=STOP_TIMEOUT_SECONDS)
    if alive:
        raise LaunchError(f"these processes could not be stopped: {', '.join(str(process.pid) for process in alive)}")
    CLIENT_SETTINGS.unlink(missing_ok=True)
    print(f"stopped {len(processes)} processes" if processes else "nothing was running")


def run(deployment: str, parameters: dict[str, str]) -> int:
    """Run a deployment and follow it. Returns the exit code: 0 if it completed, 1 if not, 130 if interrupted."""
    address = up()
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        deployed = client.read_deployment_by_name(deployment)
        _refuse_unknown(parameters, deployed, deployment)
        inherited = {name: value for name, value in os.environ.items() if name.startswith("TINYGPTV_") and name != MARK}
        flow_run = client.create_flow_run_from_deployment(
            deployed.id, parameters=parameters, job_variables={"env": inherited}
        )
        page = f"{address}/runs/flow-run/{flow_run.id}"
        print(f"{deployment}: watch it at {page}", flush=True)
        try:
            return _follow(client, flow_run.id, page)
        except KeyboardInterrupt:
            print(f"\nstopped following; the run continues at {page}\nto stop it: make down")
            return 130


def _refuse_unknown(parameters: dict[str, str], deployed: Any, deployment: str) -> None:
    """Raise DefinitionError for a parameter that the deployment does not have."""
    known = (deployed.parameter_openapi_schema or {}).get("properties", {})
    for name in parameters:
        if name not in known:
            raise DefinitionError(f"-p {name}=…: {deployment} has no such parameter. {did_you_mean(name, known)}")


def _follow(client: Any, flow_run_id: Any, page: str) -> int:
    """Print the steps of a run as they start, progress and finish. Returns the exit code."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    steps = _Steps(client, flow_run_id)
    while True:
        if not _find("worker"):
            raise LaunchError(f"the worker is gone (see {STATE / 'worker.log'}); run the same command to restart it")
        (whole,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])))
        steps.print_changes()
        if whole.state.is_final():
            print(f"{whole.state.name}: {whole.state.message or ''}\n{page}", flush=True)
            return 0 if whole.state.is_completed() else 1
        time.sleep(1)


class _Steps:
    """Prints the steps of a run: a line when one starts or finishes, and progress of the running one."""

    def __init__(self, client: Any, flow_run_id: Any) -> None:
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId

        self._client = client
        self._children = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run_id]))
        self._printed: dict[Any, str] = {}
        self._progress = _Progress(client)

    def print_changes(self) -> None:
        """Print what changed since the last call."""
        from prefect.client.schemas.sorting import FlowRunSort

        for step in self._client.read_flow_runs(flow_run_filter=self._children, sort=FlowRunSort.START_TIME_ASC):
            state = step.state
            if state.name != self._printed.get(step.id) and (state.is_running() or state.is_final()):
                self._printed[step.id] = state.name
                _print_step(step)
            if state.is_running():
                self._progress.show(step)


def _print_step(step: Any) -> None:
    seconds = f"{(step.end_time - step.start_time).total_seconds():4.0f} s  " if step.state.is_final() else " " * 8
    mark = {"Running": "→", "Completed": "✓"}.get(step.state.name, "✗")
    print(f"{mark} {seconds}{step.name:<24} {step.state.message or ''}".rstrip(), flush=True)


class _Progress:
    """Prints the latest progress artifact of the running step, at most every ten seconds."""

    every_seconds = 10

    def __init__(self, client: Any) -> None:
        self._client = client
        self._last_time = time.monotonic()
        self._last_line = ""

    def show(self, step: Any) -> None:
        from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterType
        from prefect.client.schemas.sorting import ArtifactSort

        if time.monotonic() - self._last_time < self.every_seconds:
            return
        self._last_time = time.monotonic()
        mine = ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[step.id]), type=ArtifactFilterType(any_=["progress"])
        )
        for artifact in self._client.read_artifacts(artifact_filter=mine, sort=ArtifactSort.UPDATED_DESC, limit=1):
            line = f"          {step.name:<24} {float(artifact.data):3.0f} %  {artifact.description or ''}".rstrip()
            if line != self._last_line:
                self._last_line = line
                print(line, flush=True)


@contextlib.contextmanager
def _exclusive() -> Iterator[None]:
    """Lock the state folder, so that two commands at once do not start two servers."""
    with storage_errors(STATE):
        STATE.mkdir(exist_ok=True)
        lock: IO[str]
        with (STATE / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _ours() -> list[psutil.Process]:
    """All running processes started by this stack, including their children."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(STATE) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _find(role: str) -> list[psutil.Process]:
    """Our processes whose command line says `prefect <role> start`."""
    found = []
    for process in _ours():
        with contextlib.suppress(psutil.Error):
            if [role, "start"] == process.cmdline()[2:4]:
                found.append(process)
    return found


def _running_port() -> int | None:
    """The port of our running server, or None. Raises LaunchError if the server does not respond in time."""
    servers = _find("server")
    if not servers:
        return None
    command = servers[0].cmdline()
    port = int(command[command.index("--port") + 1])
    _wait_for_health(port, servers[0])
    return port


def free_port() -> int:
    """$TINYGPTV_PORT, or the first free port from 4200 on. Raises SetupError if the requested port is taken."""
    wanted = os.environ.get("TINYGPTV_PORT")
    if wanted is not None:
        if not wanted.isdigit() or not 0 < int(wanted) < 65536:
            raise SetupError(f"TINYGPTV_PORT is {wanted!r}; expected a number between 1 and 65535")
        if not _is_free(int(wanted)):
            raise SetupError(f"port {wanted} (from TINYGPTV_PORT) is in use by another program; choose another")
        return int(wanted)
    for port in range(DEFAULT_PORT, DEFAULT_PORT + 100):
        if _is_free(port):
            if port != DEFAULT_PORT:
                print(f"port {DEFAULT_PORT} is in use by another program; using {port} (set TINYGPTV_PORT to choose)")
            return port
    raise SetupError(f"no free port between {DEFAULT_PORT} and {DEFAULT_PORT + 99}; set TINYGPTV_PORT to a free one")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _start_server() -> int:
    """Start the server and return its port. If another program takes the port first, try the next one.

    Raises LaunchError if the server does not start, SetupError if it has no port.
    """
    while True:
        port = free_port()
        print(f"starting the Prefect server on http://127.0.0.1:{port}", flush=True)
        # Without this, the UI requests its data from port 4200, whatever port serves it.
        os.environ["PREFECT_SERVER_UI_API_URL"] = f"http://127.0.0.1:{port}/api"
        server = _spawn("server", "server", "start", "--host", "127.0.0.1", "--port", str(port))
        try:
            _wait_for_health(port, psutil.Process(server.pid))
        except LaunchError:
            if server.poll() is None or _is_free(port):
                raise
        else:
            return port


def _wait_for_health(port: int, server: psutil.Process) -> None:
    """Wait until this server answers, not the server of another checkout on the same port."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if not _lives(server):
            raise LaunchError(f"the Prefect server exited during start-up; its last lines:\n{_tail('server')}")
        if _is_healthy(port) and _listens(server, port):
            return
        time.sleep(0.2)
    raise LaunchError(
        f"the Prefect server did not respond within {START_TIMEOUT_SECONDS} s; see {STATE / 'server.log'}"
    )


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _listens(server: psutil.Process, port: int) -> bool:
    """Whether the server, or a process that it started, holds the port."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [server, *server.children(recursive=True)]:
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return True
    return False


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5) as answer:
            return json.load(answer) is True
    except (OSError, ValueError):
        return False


def _client_environment(address: str) -> dict[str, str]:
    return {"PREFECT_API_URL": f"{address}/api"} | _quiet_environment()


def _quiet_environment() -> dict[str, str]:
    """Settings of all processes: a separate Prefect home, no telemetry, and our log records shown in runs."""
    return {
        "PREFECT_HOME": str(STATE / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tinygptv",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    }


def _spawn(name: str, *command: str) -> subprocess.Popen[bytes]:
    """Start `prefect <command>` in its own session, out of reach of Ctrl-C, with output to a log file."""
    with (STATE / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, PREFECT, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=CHECKOUT,
            env=os.environ | _quiet_environment() | {MARK: str(STATE), "TINYGPTV_CHECKOUT": str(CHECKOUT)},
        )


def _tail(name: str) -> str:
    return "\n".join((STATE / f"{name}.log").read_text(errors="replace").splitlines()[-15:])


def _deploy() -> None:
    """Create the work pool and apply prefect.yaml, unless it and the flows are unchanged."""
    definitions = [CHECKOUT / "prefect.yaml", *sorted((CHECKOUT / "flows").glob("*.py"))]
    state = fingerprint([path.read_text() for path in definitions])
    stamp = STATE / "deployed"
    if stamp.is_file() and stamp.read_text() == state:
        return
    print("deploying prefect.yaml", flush=True)
    _prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
    _prefect("--no-prompt", "deploy", "--all")
    stamp.write_text(state)


def _prefect(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, PREFECT, *command],
        check=False,
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env=os.environ | {"TINYGPTV_CHECKOUT": str(CHECKOUT)},
        timeout=START_TIMEOUT_SECONDS,
    )
    if done.returncode:
        raise LaunchError(f"`prefect {' '.join(command)}` failed:\n{done.stdout}{done.stderr}")


def _clean_up_after_lost_worker() -> None:
    """Kill processes of a killed worker, and mark its runs as crashed: they would still hold the only slot."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    servers = _find("server")
    for process in _ours():
        if process not in servers and process.ppid() not in {server.pid for server in servers}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    unfinished = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    with get_client(sync_client=True) as client:
        lost = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=unfinished)))
        for flow_run in lost:
            client.set_flow_run_state(flow_run.id, Crashed(message="its worker was killed"), force=True)


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: expected name=value")
    return name, value


def main() -> int:
    """Run the command line. Errors meant for users are printed without traceback, with exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up")
    commands.add_parser("down")
    runs = commands.add_parser("run")
    runs.add_argument("deployment")
    runs.add_argument("-p", "--param", action="append", type=_parameter, default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    try:
        if arguments.command == "up":
            print(f"up: {up()}")
        elif arguments.command == "down":
            down()
        else:
            return run(arguments.deployment, dict(arguments.param))
    except TinyGPTVError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
