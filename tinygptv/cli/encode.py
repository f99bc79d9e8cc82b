"""The command line's `encode`: all of a journey's features, or one machine's share of the work."""

import argparse
import logging
from collections.abc import Sequence

from tinygptv.errors import DefinitionError
from tinygptv.journey import Arrow, Journey


def add_encode_options(parser: argparse.ArgumentParser) -> None:
    """What of the work is done here."""
    parser.add_argument("--stage", help="only for this stage")
    parser.add_argument("--part", metavar="K/N", help="only every N-th shard, from the K-th on; the rest comes last")


def refuse_live(journey: Journey) -> None:
    """Raise DefinitionError if the hardware profile wants nothing computed before."""
    if not journey.arrows("encode"):
        raise DefinitionError(
            f"infra/hardware/{journey.run.hardware_name}.yaml, features: live, so there is nothing to compute before "
            "training; write cached to have it done"
        )


def encode_share(journey: Journey, arrows: Sequence[Arrow], share: str) -> None:
    """Do `share`, such as 1/4, of the work that each arrow needs; `encode` without a share then finds it done."""
    part, _, parts = share.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise DefinitionError(f"--part {share}: write 1/4 for the first of four parts")
    from tinygptv.train.encoding.encode import encode_part

    say = logging.getLogger(__name__).info
    for arrow in arrows:
        inputs = journey.encoded(arrow.subject)
        encode_part(journey.store, journey.run, arrow.subject, *inputs, int(part), int(parts), say)
