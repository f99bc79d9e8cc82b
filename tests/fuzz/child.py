"""The process that checks the cases of one target: `python -m tests.fuzz.child TARGET SEED FIRST SECONDS FOLDER`."""

import faulthandler
import resource
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.runner import CASE_SECONDS, MEMORY_BYTES, State, load, numbered, save_failure, write_state


def check_cases(target: str, seed: int, first: int, seconds: float, folder: Path) -> None:
    """Check one case after the other until the time is up. A case that never ends ends the process."""
    module = load(target)
    end = time.monotonic() + seconds
    checks = failures = 0
    for case, data in numbered(module, seed, first):
        write_state(folder, target, State(case, checks, failures), data)
        if time.monotonic() > end:
            return
        faulthandler.dump_traceback_later(CASE_SECONDS, exit=True)
        try:
            checks += module.check(data) or 1
        except Exception:
            failures += 1
            save_failure(folder, target, seed, case, data, traceback.format_exc())
        finally:
            faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    name, seed_text, first_text, seconds_text, folder_text = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    check_cases(name, int(seed_text), int(first_text), float(seconds_text), Path(folder_text))
