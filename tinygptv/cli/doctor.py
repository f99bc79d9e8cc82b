"""The command line's `doctor`: is this environment, or the arithmetic of this machine, what it should be?"""

import argparse
import json
from pathlib import Path

from tinygptv.journey import RECIPE, WORKDIR


def add_doctor_options(parser: argparse.ArgumentParser) -> None:
    """What is examined."""
    parser.add_argument("--workdir", type=Path, default=WORKDIR, help=f"where runs will write (default: {WORKDIR})")
    parser.add_argument("--recipe", default=RECIPE, help=f"whose weights should be there (default: {RECIPE})")
    parser.add_argument("--model", type=Path, help="a released model's folder, to be loaded and asked about pictures")
    parser.add_argument("--golden", type=Path, help="instead, compare with the recorded cases in this folder")


def run_doctor(options: argparse.Namespace) -> int:
    """One line per check. 1 if one of them needs attention."""
    if options.golden is not None:
        return _golden(options.golden)
    from tinygptv.doctor import examine

    failures = 0
    for finding in examine(options.workdir, options.recipe, options.model):
        failures += not finding.ok
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check:<28} {finding.detail}", flush=True)
    print(f"{failures} of these need attention" if failures else "this environment works")
    return 1 if failures else 0


def _golden(folder: Path) -> int:
    """One JSON line per check. 1 if a difference is above tolerance, 2 if a case cannot be read or built."""
    from tinygptv.golden import check_folder

    worst = 0
    for outcome in check_folder(folder):
        print(json.dumps(outcome.as_json()), flush=True)
        worst = max(worst, 2 if outcome.error else int(not outcome.ok))
    return worst
