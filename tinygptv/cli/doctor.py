"""The verb `doctor`: check that this environment works, or that this machine reproduces recorded results."""

import argparse
import json
from pathlib import Path

from tinygptv.cli.options import AddVerb
from tinygptv.journey import RECIPE, WORKDIR


def add_doctor_verb(add: AddVerb) -> None:
    """Declare the verb."""
    parser = add("doctor", "check that this environment works, by exercising it", "doctor --workdir work", _doctor)
    parser.add_argument(
        "--workdir", type=Path, default=WORKDIR, help=f"where runs will be written (default: {WORKDIR})"
    )
    parser.add_argument("--recipe", default=RECIPE, help=f"recipe whose weights are checked (default: {RECIPE})")
    parser.add_argument("--model", type=Path, help="folder of an exported model to load and query")
    parser.add_argument("--golden", type=Path, help="run only the recorded golden cases in this folder")


def _doctor(options: argparse.Namespace) -> int:
    """Print one line per check. Returns 1 if a check failed."""
    if options.golden is not None:
        return _golden(options.golden)
    from tinygptv.doctor import examine

    failures = 0
    for finding in examine(options.workdir, options.recipe, options.model):
        failures += not finding.ok
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check:<28} {finding.detail}", flush=True)
    print(f"checks failed: {failures}" if failures else "all checks passed")
    return 1 if failures else 0


def _golden(folder: Path) -> int:
    """Print one JSON line per check. Returns 1 if a difference exceeds its tolerance, 2 if a case cannot be run."""
    from tinygptv.golden import check_folder

    worst = 0
    for outcome in check_folder(folder):
        print(json.dumps(outcome.as_json()), flush=True)
        worst = max(worst, 2 if outcome.error else int(not outcome.ok))
    return worst
