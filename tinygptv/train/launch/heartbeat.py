"""How a rank shows that it is alive, and how its launcher finds the one that hangs.

A rank writes what it is about to do into its own file, at every micro-batch. When a file gets too old, the launcher
asks all ranks for their stacks (with a signal that `faulthandler` answers even inside a blocked call). Most ranks wait
in a collective operation for the one that hangs. That one is elsewhere, or does not answer at all.
"""

import faulthandler
import json
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

RANKS = "ranks"
"""The folder next to the job file for heartbeats and failures; removed when the stage is complete."""

_STACK_SIGNAL = signal.SIGUSR1
_ANSWER_SECONDS = 1.0
_COLLECTIVE = re.compile(r"distributed/distributed_c10d\.py|deepspeed/comm/")
_FRAME = re.compile(r'File "(.+)", line (\d+) in (.+)')


class Heartbeat:
    """One rank's sign of life."""

    def __init__(self, folder: Path, rank: int) -> None:
        folder.mkdir(exist_ok=True)
        self._file = (folder / f"{rank}.heartbeat.json").open("w")
        self._stack = (folder / f"{rank}.stack.txt").open("w")
        faulthandler.register(_STACK_SIGNAL, self._stack, all_threads=False)
        self.beat("starting")

    def beat(self, doing: str) -> None:
        """Report what comes next. Takes some microseconds."""
        text = json.dumps({"host": os.uname().nodename, "pid": os.getpid(), "doing": doing, "at": time.monotonic()})
        os.pwrite(self._file.fileno(), f"{text:<280}\n".encode(), 0)


@dataclass(frozen=True)
class Hung:
    """A rank that makes no progress: its last report, how long ago (s), and its stack, innermost call first."""

    rank: int
    pid: int
    doing: str
    seconds: float
    stack: list[str]


def find_hung(folder: Path, agent: int, limit_seconds: float) -> list[Hung]:
    """The ranks, children of process `agent`, that have kept the others waiting for longer than the limit."""
    # Processes of other machines may have the same ids, and their clocks mean nothing here.
    here = {rank: beat for rank, beat in _beats(folder).items() if beat["host"] == os.uname().nodename}
    beating = {rank: beat for rank, beat in here.items() if _is_child(beat["pid"], agent)}
    if not any(_age(beat) > limit_seconds for beat in beating.values()):
        return []
    stacks = _stacks(folder, {rank: beat["pid"] for rank, beat in beating.items()})
    late = {rank: beat for rank, beat in beating.items() if _age(beat) > limit_seconds}
    hanging = {rank for rank in late if not waits_for_others(stacks[rank])}
    hanging = hanging or {min(late, key=lambda rank: late[rank]["at"])}
    return [
        Hung(rank, beat["pid"], beat["doing"], round(_age(beat), 1), _frames(stacks[rank]))
        for rank, beat in sorted(late.items())
        if rank in hanging
    ]


def waits_for_others(stack: str) -> bool:
    """Whether a stack, as faulthandler prints it, is inside a collective operation."""
    return _COLLECTIVE.search(stack) is not None


def _beats(folder: Path) -> dict[int, dict]:
    beats = {}
    for path in folder.glob("*.heartbeat.json"):
        try:
            beats[int(path.name.partition(".")[0])] = json.loads(path.read_text())
        except json.JSONDecodeError:
            continue  # being written right now
    return beats


def _age(beat: dict) -> float:
    return time.monotonic() - beat["at"]


def _is_child(pid: int, parent: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return f"\nPPid:\t{parent}\n" in status


def _stacks(folder: Path, pids: dict[int, int]) -> dict[int, str]:
    """The stack of each rank now; empty for ranks that are stopped and cannot answer."""
    before = {rank: (folder / f"{rank}.stack.txt").stat().st_size for rank in pids}
    for pid in pids.values():
        os.kill(pid, _STACK_SIGNAL)
    time.sleep(_ANSWER_SECONDS)
    return {rank: (folder / f"{rank}.stack.txt").read_text()[size:] for rank, size in before.items()}


def _frames(stack: str) -> list[str]:
    return [f"{name} ({Path(file).name}:{line})" for file, line, name in _FRAME.findall(stack)][:12]
