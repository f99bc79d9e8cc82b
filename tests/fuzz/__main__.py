"""`python -m tests.fuzz`: every target for a share of the time, two at a time; exit code 1 if anything failed."""

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.runner import SEED, load, run_target, targets

_AT_A_TIME = 2


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(targets())}; all of them if none")
    parser.add_argument("--minutes", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--folder", type=Path, help="for the inputs that failed; a temporary one if not given")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="check the input in this file again, and no other")
    given = parser.parse_args()
    if given.replay:
        target = given.targets[0] if given.targets else given.replay.name.partition("-")[0]
        load(target).check(given.replay.read_bytes())
        print(f"{given.replay}: nothing is wrong")
        return 0
    if unknown := set(given.targets) - set(targets()):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(targets())}")
    chosen = given.targets or targets()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    seconds = given.minutes * 60 * min(_AT_A_TIME, len(chosen)) / len(chosen)
    print(
        f"{', '.join(chosen)}: {seconds:.0f} s each, seed {given.seed}; inputs that fail are saved in {folder}",
        flush=True,
    )
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        summaries = list(pool.map(lambda target: run_target(target, seconds, folder, given.seed, given.first), chosen))
    for summary in summaries:
        print(summary.line())
    return int(any(summary.failures for summary in summaries))


if __name__ == "__main__":
    sys.exit(main())
