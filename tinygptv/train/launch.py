"""The only module that starts processes: torchrun with its ranks, bound to the life of whoever asked for them.

    caller ── agent (torchrun) ── rank 0, rank 1, …

A rank has a session of its own, so killing the caller's process group does not reach it. Therefore the kernel is asked,
in the agent and in every rank, to kill it when its parent dies. Output goes to a file, never to a pipe that orphans
could hold open, and the end is the agent's exit code, never the end of a stream.
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from tinygptv.definitions.hardware import Hardware
from tinygptv.errors import LaunchError

RANK_MODULE = "tinygptv.train.rank"
_AGENT_PID = "TINYGPTV_AGENT_PID"
_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 20
_TAIL_LINES = 12
# torchrun's closing summary, which knows of ranks that could not say anything themselves, and its lines before that.
_ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*: (\d+).*?exitcode\s*: (-?\d+)", re.DOTALL)
_AGENT_LINE = re.compile(r"[WE]\d{4} ")
# What the survivors say when another rank has died.
_ECHOES = ("connection closed by peer", "connection reset by peer", "broken pipe", "socket closed", "timed out waiting")


class Launcher(Protocol):
    """Runs a training job to its end."""

    def run(self, job: Path, hardware: Hardware, log: Path, on_line: Callable[[str], None]) -> None:
        """Start all ranks, hand every line they write to `on_line`, return when all have ended well.

        Raises LaunchError if one has not.
        """


@dataclass(frozen=True)
class DeepSpeedLauncher:
    """Ranks of one machine under torchrun. `rank_module` is what each of them runs."""

    rank_module: str = RANK_MODULE

    def run(self, job: Path, hardware: Hardware, log: Path, on_line: Callable[[str], None]) -> None:
        """See Launcher; additionally, whatever ends this call ends all ranks."""
        if hardware.nodes > 1:
            raise LaunchError(f"this launcher starts ranks on one machine, but the profile asks for {hardware.nodes}")
        for failure in job.parent.glob("failure.rank*.json"):
            failure.unlink()
        command = [sys.executable, "-m", "tinygptv.train.launch", str(os.getpid()), "--standalone"]
        command += ["--local-addr", "127.0.0.1", "--nproc_per_node", str(hardware.ranks)]
        command += ["-m", self.rank_module, "--job", str(job)]
        with log.open("ab") as sink:
            begin = sink.tell()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=_environment(hardware)
            )
        with log.open(encoding="utf-8", errors="replace") as stream:
            stream.seek(begin)
            code = _follow(process, stream, on_line)
        if code != 0:
            raise LaunchError(_explain(code, job.parent, log, begin))


@dataclass
class RecordingLauncher:
    """Starts nothing: remembers the jobs it was given and lets `pretend` write what ranks would leave behind."""

    pretend: Callable[[Path], None] = lambda folder: None
    jobs: list[dict[str, Any]] = field(default_factory=list)

    def run(self, job: Path, hardware: Hardware, log: Path, on_line: Callable[[str], None]) -> None:
        """See Launcher."""
        self.jobs.append(json.loads(job.read_text()))
        self.pretend(job.parent)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; at once if the parent, by id, is gone already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end_with_agent() -> None:
    """As `end_with_parent`, in a rank."""
    end_with_parent(int(os.environ[_AGENT_PID]))


def record_failure(job: Path, rank: int, when: float, error: BaseException) -> None:
    """Leave a rank's error where the launcher looks for it. Its output alone would not say who failed first."""
    told = {"rank": rank, "when": when, "error": type(error).__name__, "message": str(error)}
    (job.parent / f"failure.rank{rank}.json").write_text(json.dumps(told))


def _environment(hardware: Hardware) -> dict[str, str]:
    threads = hardware.threads_per_rank or max(1, (os.cpu_count() or 1) // hardware.ranks)
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "DS_ACCELERATOR": hardware.device,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if hardware.device == "cpu":
        # DeepSpeed decorates an optimizer we do not use with torch.compile, whose import takes a rank longer than
        # building this model.
        environment["TORCHDYNAMO_DISABLE"] = "1"
    return environment


def _follow(process: subprocess.Popen[bytes], stream: TextIO, on_line: Callable[[str], None]) -> int:
    partial = ""
    try:
        while True:
            try:
                code = process.wait(timeout=_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                code = None
            *lines, partial = (partial + stream.read()).split("\n")
            for line in lines:
                on_line(line)
            if code is not None:
                return code
    finally:
        if process.poll() is None:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the agent to end its ranks; if it does not, kill it, which kills them."""
    process.terminate()
    try:
        process.wait(timeout=_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _explain(code: int, folder: Path, log: Path, begin: int) -> str:
    failures = [json.loads(path.read_text()) for path in folder.glob("failure.rank*.json")]
    first = min(failures, key=lambda failure: (_is_echo(failure["message"]), failure["when"]), default=None)
    if first is not None and not _is_echo(first["message"]):
        return f"rank {first['rank']} failed first: {first['error']}: {first['message']} (all output: {log})"
    with log.open("rb") as stream:
        stream.seek(begin)
        output = stream.read().decode(errors="replace")
    cause = _ROOT_CAUSE.search(output)
    culprit = f"rank {cause[1]} failed first, with exit code {cause[2]}" if cause else f"it ended with exit code {code}"
    lines = [line.rstrip() for line in output.split("=" * 40)[0].splitlines()]
    told = [line for line in lines if line and not _is_echo(line) and not _AGENT_LINE.match(line)][-_TAIL_LINES:]
    return f"{culprit} (all output: {log}); the last lines:\n" + "\n".join(told)


def _is_echo(text: str) -> bool:
    return any(echo in text.lower() for echo in _ECHOES)


def _agent() -> None:
    """torchrun, ending with its caller: `python -m tinygptv.train.launch <caller's pid> <torchrun arguments>`."""
    end_with_parent(int(sys.argv[1]))
    os.environ[_AGENT_PID] = str(os.getpid())
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    try:
        main(sys.argv[2:])
    except ChildFailedError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _agent()
