"""The report's account of training: what each stage was shown, and how its loss fell."""

from dataclasses import dataclass

from tinygptv.catalog import ResolvedRun
from tinygptv.data.mixtures.sampling_order import order_seed
from tinygptv.data.mixtures.shares import drawn_samples
from tinygptv.definitions.mixture import RUN_SOURCE
from tinygptv.definitions.recipe import Stage
from tinygptv.evaluate.gates import Verdict, verdict
from tinygptv.report.figures import read_curve, stage_svg
from tinygptv.report.run_artifacts import RunArtifacts
from tinygptv.store.artifacts import Store
from tinygptv.train.job import METRICS
from tinygptv.train.schedule import total_steps


@dataclass(frozen=True)
class ComponentRow:
    """One component of a mixture as a stage drew from it; shares in percent, `epochs` how often each sample came."""

    source: str
    task: str
    samples: int
    declared: float
    drawn: float
    epochs: float


@dataclass(frozen=True)
class StageMixture:
    """A stage's mixture."""

    stage: str
    name: str
    rows: list[ComponentRow]


@dataclass(frozen=True)
class TrainedStage:
    """A stage's curve, one line of facts, and what its gates said."""

    svg: str
    facts: str
    gates: list[Verdict]


def stage_mixtures(run: ResolvedRun, artifacts: RunArtifacts) -> list[StageMixture]:
    """Declared shares beside those of the samples that the stage's steps really drew."""
    shown = []
    for stage in run.recipe.stages:
        manifest = artifacts.mixtures.get(stage.mixture)
        if manifest is None:
            continue
        steps, batch = total_steps(stage.schedule), stage.global_batch_size
        seed = order_seed(run.recipe.seed, stage.stage)
        drawn = drawn_samples(run.mixtures[stage.mixture], seed, steps, batch)
        rows = [
            ComponentRow(
                source=run.source_name if component["source"] == RUN_SOURCE else component["source"],
                task=component["task"].replace("_", " "),
                samples=component["samples"],
                declared=round(100 * component["declared_share"], 1),
                drawn=round(100 * count / sum(drawn), 1),
                epochs=round(count / max(component["samples"], 1), 1),
            )
            for component, count in zip(manifest.details["components"], drawn, strict=True)
        ]
        shown.append(StageMixture(stage.stage, stage.mixture, rows))
    return shown


def trained_stages(store: Store, run: ResolvedRun, artifacts: RunArtifacts) -> list[TrainedStage]:
    """A picture per finished stage, in running order."""
    shown = []
    for stage in run.recipe.stages:
        if manifest := artifacts.stages.get(stage.stage):
            curve = read_curve(stage.stage, store.folder(manifest.artifact) / METRICS)
            facts = _facts(stage, manifest.details, manifest.seconds)
            shown.append(TrainedStage(stage_svg(curve), facts, _verdicts(stage, artifacts)))
    return shown


def _verdicts(stage: Stage, artifacts: RunArtifacts) -> list[Verdict]:
    asked = {one.details["benchmark"]: one for one in artifacts.gates if one.details["model"] == stage.stage}
    return [verdict(gate, asked[gate.benchmark]) for gate in stage.gates if gate.benchmark in asked]


def _facts(stage: Stage, details: dict[str, float], seconds: float) -> str:
    trains = ", ".join(part.rpartition(".")[2] for part in stage.trains)
    speed = f" · {details['samples_per_second']:,.0f} samples/s" if "samples_per_second" in details else ""
    return (
        f"trains {trains} · {total_steps(stage.schedule):,} steps of {stage.global_batch_size} · "
        f"{stage.inputs.image_size} px{speed} · {seconds:,.0f} s"
    )
