"""The process that checks the cases of one target: `python -m tests.fuzz.child TARGET FOLDER NUMBERS`."""

import faulthandler
import resource
import sys
import time
import traceback
from itertools import count
from pathlib import Path

from tests.fuzz.runner import MEMORY_BYTES, State, drawn, load, save_failure, write_state


def check_cases(target: str, folder: Path, seed: int, first: int, seconds: float, case_seconds: float) -> None:
    """Check one case after the other until the time is up. A case that never ends ends the process."""
    module = load(target)
    end = time.monotonic() + seconds
    checks = failures = 0
    for case in count(first):
        data = drawn(module.cases, seed, case)
        write_state(folder, target, State(case, checks, failures), data)
        if time.monotonic() > end:
            return
        faulthandler.dump_traceback_later(case_seconds, exit=True)
        try:
            found = module.check(data)
            checks += found if isinstance(found, int) else 1
        except Exception:
            failures += 1
            save_failure(folder, target, seed, case, data, traceback.format_exc())
        finally:
            faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    _target, _folder, _seed, _first, _seconds, _case_seconds = sys.argv[1:]
    check_cases(_target, Path(_folder), int(_seed), int(_first), float(_seconds), float(_case_seconds))
