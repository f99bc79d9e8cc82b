"""The verb `plan`: what each stage needs, what a run would do, and with `--resolved` every value it would use."""

import argparse
import json

from tinygptv.cli.arrows import print_plan
from tinygptv.cli.options import AddVerb, add_run_options, journey_of
from tinygptv.definitions.hardware import Hardware
from tinygptv.errors import TinyGPTVError
from tinygptv.journey import Journey
from tinygptv.runs.plan import plan
from tinygptv.runs.resolved import resolved, resolved_yaml


def add_plan_verb(add: AddVerb) -> None:
    """Declare the verb."""
    about = "show what each stage needs, and what train-all would reuse, resume and run"
    parser = add("plan", about, "plan --recipe tinygptv --hardware rtx3090 --resolved", _plan)
    add_run_options(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON line per stage, and nothing else")
    form.add_argument(
        "--resolved",
        action="store_true",
        help="every value of the run as YAML, defaults included, each with the file and line it comes from, such as "
        "`rank: 64  # tinygptv/recipes/tinygptv.yaml:75`",
    )


def _plan(options: argparse.Namespace) -> int:
    """Needs neither weights nor data; a mixture that was checked gives the longest sequence.

    Raises DefinitionError, after printing, for a stage that does not fit.
    """
    journey = journey_of(options)
    if options.resolved:
        print(resolved_plan(journey, options.source), end="")
        return 0
    from tinygptv.train.planning.estimate import StageEstimator
    from tinygptv.train.planning.fitting import refuse_unfit, resolve_checkpointing
    from tinygptv.train.planning.table import record, table

    recipe, hardware = journey.run.recipe, journey.run.hardware
    estimators = [StageEstimator(recipe, stage.stage, journey.longest_sequence(stage.stage)) for stage in recipe.stages]
    profiles = [resolve_checkpointing(estimator, hardware) for estimator in estimators]
    records = [record(*each) for each in zip(estimators, profiles, strict=True)]
    lines = [json.dumps(one) for one in records] if options.json else table(records, hardware)
    print("\n".join(lines), flush=True)
    for estimator, profile in zip(estimators, profiles, strict=True):
        refuse_unfit(estimator, profile, journey.run.hardware_name)
    if not options.json:
        try:
            print_plan(plan(journey))
        except TinyGPTVError as error:
            print(f"not everything that training starts from is there yet: {error}")
    return 0


def resolved_plan(journey: Journey, source_reference: str) -> str:
    """The run as YAML with the origin of each value. Needs neither weights nor data."""
    return resolved_yaml(resolved(journey.run, source_reference, _profiles(journey)))


def _profiles(journey: Journey) -> dict[str, Hardware]:
    """The hardware profile of each stage, with gradient checkpointing resolved; only `if_needed` needs torch."""
    recipe, hardware = journey.run.recipe, journey.run.hardware
    if hardware.gradient_checkpointing != "if_needed":
        return {stage.stage: hardware for stage in recipe.stages}
    from tinygptv.train.planning.estimate import StageEstimator
    from tinygptv.train.planning.fitting import resolve_checkpointing

    return {
        stage.stage: resolve_checkpointing(
            StageEstimator(recipe, stage.stage, journey.longest_sequence(stage.stage)), hardware
        )
        for stage in recipe.stages
    }
