"""The verbs that look after artifacts: verify, repair."""

import argparse
import json

from tinygptv.cli.options import AddVerb
from tinygptv.journey import WORKDIR


def add_upkeep_verbs(add: AddVerb) -> None:
    """Declare the verbs."""
    verify = add("verify", "re-read finished artifacts and list what is damaged", f"verify {WORKDIR}/raw", _verify)
    about = "restore damaged artifacts, or mark them to be remade"
    repair = add("repair", about, f"repair {WORKDIR}/raw", _repair)
    for parser in (verify, repair):
        parser.add_argument("place", help="a workdir, a folder in it, or one artifact: a path or s3://…")


def _verify(options: argparse.Namespace) -> int:
    """Print one line per damage and a JSON summary. Returns 1 if anything is damaged."""
    from tinygptv.data.upkeep.verify import verify

    found = verify(options.place)
    for damage in found.damages:
        print(damage)
    print(json.dumps(found.summary()))
    return 1 if found.damages else 0


def _repair(options: argparse.Namespace) -> int:
    """Print one line per damaged artifact and a JSON summary. Returns 1 if one of them has to be remade."""
    from tinygptv.data.upkeep.repair import repair

    repaired = repair(options.place)
    for one in repaired:
        print(one)
    given_up = [one.name for one in repaired if one.given_up]
    print(json.dumps({"samples": sum(one.samples for one in repaired), "damaged": len(repaired), "given_up": given_up}))
    return 1 if given_up else 0
