"""Does this environment work? Every answer comes from trying, not from reading version numbers.

Each check is a function that returns a short word of what it saw, or raises; a SetupError's message then says what to
do. The versions whose habits are tried here are those that were seen to look healthy and fail (see pyproject.toml).
Prefect is examined from outside, as a server over HTTP and in processes of its own: the library does not import it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tinygptv import catalog
from tinygptv.artifacts import storage_errors
from tinygptv.definitions.recipe import Schedule
from tinygptv.errors import SetupError
from tinygptv.locations import PACKAGE

FREE_DISK_GIB = 2
PATIENCE_SECONDS = 180
BUSY = 503
REINSTALL = "remove .venv and run `make setup`"


@dataclasses.dataclass(frozen=True)
class Finding:
    """The outcome of one check: what was seen, or what is wrong and what to do."""

    check: str
    ok: bool
    detail: str


def examine(workdir: Path) -> Iterator[Finding]:
    """Try everything, in seconds each, most basic first. A failed check does not stop the next."""
    for name, check in checks(workdir):
        try:
            yield Finding(name, True, check())
        except Exception as error:  # whatever goes wrong here is the finding
            yield Finding(name, False, f"{type(error).__name__}: {error}")


def checks(workdir: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """Each check by its name. The last two share a server, which lives until the last is taken."""
    yield "workdir can be written", lambda: workdir_is_writable(workdir)
    yield "definitions load", definitions_load
    yield "YAML numbers", numbers_written_as_text_are_refused
    yield "pretrained backbones", backbones_are_complete
    yield "dataclasses", dataclasses_are_the_standard_library
    yield "torch", torch_computes
    yield "Q-Former masks", masks_reach_the_qformer
    yield "vision initialisation", vision_initialisation_is_overridden
    yield "DeepSpeed, two ranks", two_ranks_talk
    yield "Prefect test harness", test_harness_starts
    with contextlib.ExitStack() as stack:
        server = TemporaryServer(stack)
        yield "Prefect server, null fields", lambda: null_fields_are_accepted(server)
        yield "Prefect scheduler", lambda: scheduled_runs_are_planned(server)


def workdir_is_writable(workdir: Path) -> str:
    """Write, flush and rename in the workdir, with room to spare."""
    with storage_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=workdir) as folder:
            partial = Path(folder) / "partial"
            partial.write_text("complete or absent")
            partial.rename(partial.with_name("complete"))
    free = shutil.disk_usage(workdir).free / 2**30
    if free < FREE_DISK_GIB:
        raise SetupError(f"{workdir}: {free:.1f} GiB free, a tiny run wants {FREE_DISK_GIB}; free some space")
    return f"{workdir}: {free:.0f} GiB free"


def definitions_load() -> str:
    """Every YAML definition passes its schema."""
    loaders: dict[str, Callable[[str], Any]] = {
        "source": catalog.source,
        "filter": catalog.filter_chain,
        "mixture": catalog.mixture,
        "benchmark": catalog.benchmark,
        "recipe": catalog.recipe,
        "hardware": catalog.hardware,
    }
    definitions = [load(name) for kind, load in loaders.items() for name in catalog.names(kind)]
    return f"{len(definitions)} definitions"


def numbers_written_as_text_are_refused() -> str:
    """PyYAML reads `1e-5` as text; a schema that let it through would train with a string."""
    fields = yaml.safe_load("{warmup_lr: 1e-5, peak_lr: 1.0e-3, final_lr: 1.0e-4, warmup_steps: 1, steps: 2}")
    try:
        Schedule.model_validate(fields)
    except ValidationError:
        return "1e-5 is refused, 1.0e-5 is a number"
    if isinstance(fields["warmup_lr"], float):
        return "this YAML reader takes 1e-5 for a number"
    raise SetupError("a learning rate given as text was accepted; the schemas are no longer strict")


def backbones_are_complete() -> str:
    """Every shipped file has the content that its provenance records."""
    folder = PACKAGE / "backbones" / "shapes"
    provenance = folder / "provenance.json"
    if not provenance.is_file():
        raise SetupError(f"{provenance} is missing; restore it from git, or run `tinygptv bootstrap`")
    phases = json.loads(provenance.read_text()).values()
    recorded = {name: expected for phase in phases for name, expected in phase["files"].items()}
    for name, expected in recorded.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise SetupError(f"{path} is missing or damaged; restore it from git, or run `tinygptv bootstrap`")
    return f"{len(recorded)} files as recorded"


def dataclasses_are_the_standard_library() -> str:
    """img2dataset lists an obsolete backport which breaks Prefect's server when it is installed."""
    backport = Path(sysconfig.get_path("purelib")) / "dataclasses.py"
    if backport.exists() or Path(dataclasses.__file__).parent != Path(sysconfig.get_path("stdlib")):
        raise SetupError(f"{backport} shadows the standard library; run `pip uninstall dataclasses`")
    return dataclasses.__file__


def torch_computes() -> str:
    """Multiply two matrices on every device there is."""
    import torch

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    for device in devices:
        ones = torch.ones(4, 4, device=device)
        if (ones @ ones).sum().item() != 64:
            raise SetupError(f"torch computes wrongly on {device}; {REINSTALL}")
    return f"{torch.__version__} on {', '.join(devices)}"


def masks_reach_the_qformer() -> str:
    """A masked token must not matter. Boolean 4-D masks are silently misread; ours are additive, so these are tried."""
    import torch
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    config = Blip2QFormerConfig(
        num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32, encoder_hidden_size=16
    )
    qformer = Blip2QFormerModel(config).eval()
    tokens, image_features = torch.randn(1, 4, 16), torch.randn(1, 5, 16)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., -1] = torch.finfo(mask.dtype).min
    with torch.no_grad():
        masked = qformer(tokens, 4, attention_mask=mask, encoder_hidden_states=image_features)[0][:, :3]
        dropped = qformer(tokens[:, :3], 3, encoder_hidden_states=image_features)[0]
    if not torch.allclose(masked, dropped, atol=1e-5):
        raise SetupError(f"a masked token still changes the Q-Former's output with this transformers; {REINSTALL}")
    return "a masked token does not matter"


def vision_initialisation_is_overridden() -> str:
    """Blip2VisionConfig starts all weights at 1e-10, with which nothing is ever learned; ours must not."""
    from tinygptv.models.vision import VisionEncoder, vision_config

    encoder = VisionEncoder(
        vision_config(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            patch_size=8,
            image_size=16,
        )
    )
    spread = min(p.std().item() for name, p in encoder.named_parameters() if name.endswith("weight") and p.dim() > 1)
    if spread < 1e-3:
        raise SetupError(f"vision weights start with a spread of {spread:.0e}; the library's default came through")
    return f"weights start with a spread of at least {spread:.3f}"


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
