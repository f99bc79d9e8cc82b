"""Runs a target: case after case in a child process that may die of one, until the time is up.

A target is a module of this folder with two functions:

    cases(random: Random) -> bytes      an input, the same one for the same state of `random`
    check(data: bytes) -> int | None    raises if something is wrong about an input; returns how many things it looked
                                        at, where that is not one

Case `n` of a seed is the same in every run.
"""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import ModuleType

Cases = Callable[[Random], bytes]

SEED = 20260101
CASE_SECONDS = 120.0
"""After so long a case counts as one that never ends, and its child is ended."""

MEMORY_BYTES = 4 << 30
"""Of address space, for a child and for each process that it starts."""

MAX_SAVED = 100
"""Failing inputs of one run; more of them are only counted."""

_NAMES = {module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])}


@dataclass(frozen=True)
class State:
    """How far a child is: the case that it checks, and what it has counted before."""

    case: int
    checks: int
    failures: int


@dataclass(frozen=True)
class Summary:
    """What a run of one target came to."""

    target: str
    seed: int
    cases: int
    checks: int
    failures: int
    seconds: float

    def line(self) -> str:
        """As one line of JSON."""
        rates = {"cases_per_second": round(self.cases / self.seconds, 2), "seconds": round(self.seconds, 1)}
        return json.dumps(vars(self) | rates)


def targets() -> list[str]:
    """The names of the modules that have cases and a check."""
    names = sorted(name for name in _NAMES if not name.startswith(("_", "test_")))
    return [name for name in names if hasattr(load(name), "cases") and hasattr(load(name), "check")]


def load(target: str) -> ModuleType:
    """The module of a target."""
    return importlib.import_module(f"tests.fuzz.{target}")


def drawn(cases: Cases, seed: int, case: int) -> bytes:
    """The input of that number."""
    return cases(Random(f"{seed}/{case}"))


def run_target(
    target: str, seconds: float, folder: Path, seed: int = SEED, first: int = 0, case_seconds: float = CASE_SECONDS
) -> Summary:
    """Check cases from number `first` on, for so many seconds; failures are printed, their inputs saved in `folder`.

    A child that dies or does not end is a failure of the case that it was at; another one goes on behind it. Raises
    RuntimeError if a case cannot be drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    next_case, checks, failures = first, 0, 0
    while (left := begun + seconds - time.monotonic()) > 0:
        state_path(folder, target).unlink(missing_ok=True)
        numbers = (seed, next_case, left, case_seconds)
        child = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.child", target, str(folder), *map(str, numbers)],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        if not state_path(folder, target).exists():
            raise RuntimeError(f"{target}: case {next_case} cannot be drawn:\n{child.stderr[-8000:]}")
        state, data = read_state(folder, target)
        checks, failures = checks + state.checks, failures + state.failures
        next_case = state.case + 1
        if child.returncode == 0:
            next_case = state.case
            break
        failures += 1
        save_failure(folder, target, seed, state.case, data, f"exit code {child.returncode}\n{child.stderr[-8000:]}")
    return Summary(target, seed, next_case - first, checks, failures, time.monotonic() - begun)


def save_failure(folder: Path, target: str, seed: int, case: int, data: bytes, report: str) -> None:
    """Keep the input of a failure and what there is to say about it, and print where."""
    path = folder / f"{target}-{seed}-{case}.input"
    if len(list(folder.glob(f"{target}-*.input"))) < MAX_SAVED:
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(report)
    last_line = report.strip().rpartition("\n")[2]
    print(
        f"{target}: seed {seed}, case {case} fails: {last_line[:300]} (python -m tests.fuzz --replay {path})",
        flush=True,
    )


def state_path(folder: Path, target: str) -> Path:
    """Where a child notes how far it is."""
    return folder / f"{target}.current"


def write_state(folder: Path, target: str, state: State, data: bytes) -> None:
    """Note the case that is about to be checked, for whoever finds the child dead."""
    state_path(folder, target).write_bytes(json.dumps(vars(state)).encode() + b"\n" + data)


def read_state(folder: Path, target: str) -> tuple[State, bytes]:
    """What a child noted last."""
    described, _, data = state_path(folder, target).read_bytes().partition(b"\n")
    return State(**json.loads(described)), data
