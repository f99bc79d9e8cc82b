"""The verb `ablate`: train a recipe and its ablations, and compare them."""

import argparse
import logging
from collections.abc import Iterator

from tinygptv.cli.options import AddVerb, add_dry_run, add_run_options, printing
from tinygptv.journey import Arrow, Journey, summary
from tinygptv.runs.plan import plan
from tinygptv.store.artifacts import Manifest


def add_ablate_verb(add: AddVerb) -> None:
    """Declare the verb."""
    about = "train a recipe and variants that lack one thing each, and compare them"
    parser = add("ablate", about, "ablate --without lora,qk_norm --steps-scale 0.25", printing(_ablate))
    add_run_options(parser)
    names = "lora,input_norm,rms_norm,qk_norm"
    parser.add_argument("--without", default=names, metavar="NAMES", help=f"left out one at a time (default: {names})")
    parser.add_argument("--shuffled-tower", action="store_true", help="add a variant with shuffled vision weights")
    about = "fraction of each stage's steps to train for (default: 1)"
    parser.add_argument("--steps-scale", type=float, default=1.0, metavar="X", help=about)
    add_dry_run(parser)


def _ablate(options: argparse.Namespace) -> Iterator[str]:
    """One line per variant as it ends, then the path of the comparison."""
    from tinygptv.runs.ablation import SHUFFLED_TOWER, follow, variants
    from tinygptv.runs.comparison import PAGE, compare, describe

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
            arrows = set(variant.arrows())
            for one in plan(variant.journey):
                if one.arrow in arrows:
                    yield f"{variant.name:<20} {one.action:<7} {one.arrow}"
        if options.shuffled_tower:
            yield f"{SHUFFLED_TOWER:<20} run     after its weights are shuffled"
        return
    results = []
    for variant in compared:
        results.append(follow(variant, _make))
        yield describe(results[-1])
    made = compare(options.run, results, options.steps_scale)
    yield f"comparison: {compared[0].journey.store.workdir}/{made.artifact}/{PAGE}"


def _make(journey: Journey, arrow: Arrow) -> Manifest:
    log = logging.getLogger("tinygptv").info
    manifest = journey.make(arrow, log)
    log("%s", f"{journey.name}: {arrow}: {summary(manifest)}")
    return manifest
