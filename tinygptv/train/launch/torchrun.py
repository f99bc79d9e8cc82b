"""The only module that starts processes: torchrun with its ranks, which all end with their caller.

    caller ── agent (torchrun) ── rank 0, rank 1, …

The agent restarts the whole group when a rank is lost, and the ranks resume from their last good checkpoint. It also
kills a rank that hangs. On several machines there is one agent on each: `nodes.py` says how they are started.

A rank has its own session, so killing the caller's process group does not reach it. Therefore the agent and every rank
ask the kernel to kill them when their parent dies. Output goes to a file, not to a pipe that orphans could hold open,
and the run ends with the agent's exit code, not with the end of a stream.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from tinygptv.definitions.hardware import Hardware
from tinygptv.errors import LaunchError, TinyGPTVError
from tinygptv.train.events import read_events, record
from tinygptv.train.launch.heartbeat import RANKS, find_hung
from tinygptv.train.launch.nodes import ELSEWHERE, agent_commands, command_for_pods
from tinygptv.train.launch.parent_death import end_with_parent
from tinygptv.train.launch.pods import called_together

RANK_MODULE = "tinygptv.train.rank"
_AGENT_PID = "TINYGPTV_AGENT_PID"
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 20
_TAIL_LINES = 12
# torchrun's closing summary, which includes ranks that left no error themselves, and its lines before that.
_ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*: (\d+).*?exitcode\s*: (-?\d+)", re.DOTALL)
_AGENT_LINE = re.compile(r"[WE]\d{4} ")
_RANK_FAILED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+) \(pid: \d+\)")
_WATCH_SECONDS = 1.0
# Errors of the surviving ranks when another rank has died.
_ECHOES = ("connection closed by peer", "connection reset by peer", "broken pipe", "socket closed", "timed out waiting")


class Launcher(Protocol):
    """Runs a training job to its end."""

    def run(self, job: Path, hardware: Hardware, log: Path, on_line: Callable[[str], None]) -> None:
        """Start all ranks, pass every line they write to `on_line`, return when all have succeeded.

        Raises LaunchError if one has failed.
        """


@dataclass(frozen=True)
class DeepSpeedLauncher:
    """Ranks under torchrun, on this machine or on several. `rank_module` is what each of them runs."""

    rank_module: str = RANK_MODULE

    def run(self, job: Path, hardware: Hardware, log: Path, on_line: Callable[[str], None]) -> None:
        """See Launcher. Whatever ends this call also ends all ranks."""
        shutil.rmtree(job.parent / RANKS, ignore_errors=True)
        (job.parent / RANKS).mkdir()
        known = len(read_events(job.parent))
        agent = [sys.executable, "-m", "tinygptv.train.launch.torchrun", str(job), str(hardware.stall_seconds)]
        ranks = ["--nproc-per-node", str(hardware.ranks), "--max-restarts", str(hardware.restarts)]
        ranks += ["-m", self.rank_module, "--job", str(job)]
        environment = rank_environment(hardware)
        commands = agent_commands(hardware, agent, ranks, environment)
        for_pods = command_for_pods(hardware, agent, ranks, environment)
        with contextlib.ExitStack() as stack:
            if for_pods:
                stack.enter_context(called_together(for_pods, environment))
            sink = stack.enter_context(log.open("ab"))
            begin = sink.tell()
            processes = [
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=environment
                )
                for command in commands
            ]
            stream = stack.enter_context(log.open(encoding="utf-8", errors="replace"))
            stream.seek(begin)
            code = _follow(processes, stream, _noting_failures(job.parent, on_line))
        if code != 0:
            raise LaunchError(_explain(code, job.parent, log, begin, known))


@dataclass
class RecordingLauncher:
    """Starts nothing: records the jobs it was given and lets `pretend` write what ranks would leave behind."""

    pretend: Callable[[Path], None] = lambda folder: None
    jobs: list[dict[str, Any]] = field(default_factory=list)

    def run(self, job: Path, hardware: Hardware, log: Path, on_line: Callable[[str], None]) -> None:
        """See Launcher."""
        self.jobs.append(json.loads(job.read_text()))
        self.pretend(job.parent)


def end_with_agent() -> None:
    """Have the kernel kill this rank when its agent ends."""
    end_with_parent(int(os.environ[_AGENT_PID]))


def record_failure(job: Path, rank: int, when: float, error: BaseException) -> None:
    """Leave a rank's error in a file for the launcher; the output alone does not say which rank failed first.

    Our own errors are final: they are caused by definitions or data, and a restart would repeat them. Others may be
    caused by the machine.
    """
    failure = {"rank": rank, "when": when, "error": type(error).__name__, "message": str(error)}
    failure["final"] = isinstance(error, TinyGPTVError)
    (job.parent / RANKS / f"{rank}.failure.json").write_text(json.dumps(failure))


def failures(folder: Path) -> list[dict[str, Any]]:
    """The errors that ranks have left so far."""
    return [json.loads(path.read_text()) for path in sorted((folder / RANKS).glob("*.failure.json"))]


def rank_environment(hardware: Hardware) -> dict[str, str]:
    """The environment of a rank, before torchrun adds its rank and address."""
    threads = hardware.threads_per_rank or max(1, (os.cpu_count() or 1) // hardware.ranks)
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "DS_ACCELERATOR": hardware.device,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        # Otherwise a restarted group uses the store of the previous one, with the addresses of its dead ranks.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    if hardware.device == "cpu":
        # DeepSpeed decorates an optimizer that is not used here with torch.compile, whose import takes longer than
        # building a small model.
        environment["TORCHDYNAMO_DISABLE"] = "1"
    return environment


def _noting_failures(folder: Path, on_line: Callable[[str], None]) -> Callable[[str], None]:
    """Pass lines on, and record what torchrun says about lost ranks."""

    def line(text: str) -> None:
        if lost := _RANK_FAILED.search(text):
            record(folder, "rank_failed", rank=int(lost[2]), exit_code=int(lost[1]))
        on_line(text)

    return line


def _follow(processes: list[subprocess.Popen[bytes]], stream: TextIO, on_line: Callable[[str], None]) -> int:
    """Pass lines on until every agent has ended or one has failed; returns its exit code, or 0."""
    partial = ""
    try:
        while True:
            code = _wait(processes)
            *lines, partial = (partial + stream.read()).split("\n")
            for line in lines:
                on_line(line)
            if code is not None:
                return code
    finally:
        _end(processes)


def _wait(processes: list[subprocess.Popen[bytes]]) -> int | None:
    running = [process for process in processes if process.poll() is None]
    if running and not any(process.returncode for process in processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            running[0].wait(timeout=_POLL_SECONDS)
        return None
    return next((process.returncode for process in processes if process.returncode), 0)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask running agents to end their ranks; kill an agent that does not, which kills its ranks."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _explain(code: int, folder: Path, log: Path, begin: int, known_events: int) -> str:
    first = min(failures(folder), key=lambda failure: (_is_echo(failure["message"]), failure["when"]), default=None)
    if first is not None and not _is_echo(first["message"]):
        return f"rank {first['rank']} failed first: {first['error']}: {first['message']} (all output: {log})"
    if hung := [event for event in read_events(folder)[known_events:] if event["event"] == "rank_hung"]:
        last = hung[-1]
        where = f" in {last['stack'][0]}" if last["stack"] else ", and gave no stack"
        return f"rank {last['rank']} hung for {last['seconds']} s at '{last['doing']}'{where} (all output: {log})"
    with log.open("rb") as stream:
        stream.seek(begin)
        output = stream.read().decode(errors="replace")
    causes = _ROOT_CAUSE.findall(output)
    culprit = "rank {} failed first, with exit code {}".format(*causes[-1]) if causes else f"exit code {code}"
    lines = [line.rstrip() for line in output.split("=" * 40)[0].splitlines()]
    tail = [line for line in lines if line and not _is_echo(line) and not _AGENT_LINE.match(line)][-_TAIL_LINES:]
    return f"{culprit} (all output: {log}); the last lines:\n" + "\n".join(tail)


def _is_echo(text: str) -> bool:
    return any(echo in text.lower() for echo in _ECHOES)


def _end_the_hung(job: Path, stall_seconds: float) -> None:
    """Kill hanging ranks of this agent, in an endless loop; the agent then restarts the group."""
    while True:
        time.sleep(_WATCH_SECONDS)
        for hung in find_hung(job.parent / RANKS, os.getpid(), stall_seconds):
            record(job.parent, "rank_hung", **vars(hung))
            with contextlib.suppress(ProcessLookupError):
                os.kill(hung.pid, signal.SIGKILL)


def _agent() -> None:
    """torchrun that ends with its caller.

    `python -m tinygptv.train.launch.torchrun <job> <stall seconds> <caller's pid> <torchrun's arguments>`
    """
    job, stall_seconds, caller, *arguments = sys.argv[1:]
    end_with_parent(os.getppid() if caller == ELSEWHERE else int(caller))
    os.environ[_AGENT_PID] = str(os.getpid())
    threading.Thread(target=_end_the_hung, args=(Path(job), float(stall_seconds)), daemon=True).start()
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    try:
        main(arguments)
    except ChildFailedError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _agent()
