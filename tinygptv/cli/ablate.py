"""The command line's `ablate`: a recipe beside itself without one thing at a time."""

import argparse
import logging
from collections.abc import Iterator

from tinygptv.journey import Arrow, Journey, summary
from tinygptv.runs.plan import plan
from tinygptv.store.artifacts import Manifest


def add_ablate_options(parser: argparse.ArgumentParser) -> None:
    """What is left out, and for how long each training goes on."""
    names = "lora,input_norm,rms_norm,qk_norm"
    parser.add_argument("--without", default=names, metavar="NAMES", help=f"one at a time (default: {names})")
    parser.add_argument("--shuffled-tower", action="store_true", help="also with the vision encoder's weights shuffled")
    parser.add_argument(
        "--steps-scale", type=float, default=1.0, metavar="X", help="of each stage's steps (default: 1)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would happen, and do nothing")


def ablate_lines(options: argparse.Namespace) -> Iterator[str]:
    """What became of each variant, as it ends, and where the comparison is."""
    from tinygptv.runs.ablation import SHUFFLED_TOWER, follow, variants
    from tinygptv.runs.comparison import PAGE, compare, told

    compared = variants(
        options.run,
        options.recipe,
        options.source,
        options.hardware,
        options.workdir,
        without=[name for name in options.without.split(",") if name],
        shuffled_tower=options.shuffled_tower and not options.dry_run,
        steps_scale=options.steps_scale,
    )
    if options.dry_run:
        for variant in compared:
            wanted = set(variant.arrows())
            for one in plan(variant.journey):
                if one.arrow in wanted:
                    yield f"{variant.name:<20} {one.action:<7} {one.arrow}"
        if options.shuffled_tower:
            yield f"{SHUFFLED_TOWER:<20} run     after its weights are made"
        return
    results = []
    for variant in compared:
        results.append(follow(variant, _make))
        yield told(results[-1])
    made = compare(options.run, results, options.steps_scale)
    yield f"compared in {compared[0].journey.store.workdir}/{made.artifact}/{PAGE}"


def _make(journey: Journey, arrow: Arrow) -> Manifest:
    say = logging.getLogger("tinygptv").info
    manifest = journey.make(arrow, say)
    say("%s", f"{journey.name}: {arrow}: {summary(manifest)}")
    return manifest
