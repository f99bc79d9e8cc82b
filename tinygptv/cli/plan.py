"""`plan --resolved`: every value that the stages of a run will use."""

import argparse

from tinygptv.definitions.hardware import Hardware
from tinygptv.journey import Journey
from tinygptv.runs.resolved import resolved, resolved_yaml


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Add the output formats of a plan."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON line per stage, and nothing else")
    form.add_argument(
        "--resolved",
        action="store_true",
        help="every value of the run as YAML, defaults included, each with the file and line it comes from, such as "
        "`rank: 64  # tinygptv/recipes/tinygptv.yaml:75`",
    )


def resolved_plan(journey: Journey, source_reference: str) -> str:
    """The run as YAML with the origin of each value. Needs neither weights nor data."""
    return resolved_yaml(resolved(journey.run, source_reference, _profiles(journey)))


def _profiles(journey: Journey) -> dict[str, Hardware]:
    """The hardware profile of each stage, with gradient checkpointing resolved; only `if_needed` needs torch."""
    recipe, hardware = journey.run.recipe, journey.run.hardware
    if hardware.gradient_checkpointing != "if_needed":
        return {stage.stage: hardware for stage in recipe.stages}
    from tinygptv.train.planning.estimate import StageEstimator
    from tinygptv.train.planning.fitting import settle

    return {
        stage.stage: settle(StageEstimator(recipe, stage.stage, journey.longest_sequence(stage.stage)), hardware)
        for stage in recipe.stages
    }
