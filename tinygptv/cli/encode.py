"""Options of the verb `encode`: all features of a run, or one machine's share of the work."""

import argparse
import logging
from collections.abc import Sequence

from tinygptv.errors import DefinitionError
from tinygptv.journey import Arrow, Journey


def add_encode_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that select a part of the work."""
    parser.add_argument("--stage", help="encode only for this stage")
    parser.add_argument(
        "--part", metavar="K/N", help="encode the K-th of N shares; a run without --part then completes the rest"
    )


def refuse_live(journey: Journey) -> None:
    """Raise DefinitionError if the hardware profile does not precompute features."""
    if not journey.arrows("encode"):
        raise DefinitionError(
            f"infra/hardware/{journey.run.hardware_name}.yaml, features: live, so there is nothing to precompute; "
            "set `features: cached` to encode before training"
        )


def encode_share(journey: Journey, arrows: Sequence[Arrow], share: str) -> None:
    """Do `share` (such as 1/4) of the work of each arrow. A later `encode` without --part reuses it."""
    part, _, parts = share.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise DefinitionError(f"--part {share}: expected K/N, such as 1/4 for the first of four parts")
    from tinygptv.train.encoding.encode import encode_part

    log = logging.getLogger(__name__).info
    for arrow in arrows:
        inputs = journey.encoded(arrow.subject)
        encode_part(journey.store, journey.run, arrow.subject, *inputs, int(part), int(parts), log)
