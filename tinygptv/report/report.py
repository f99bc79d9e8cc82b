"""A run → one self-contained HTML page, from manifests and artifact files alone: no script, no address, any browser."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tinygptv import pages
from tinygptv.catalog import ResolvedRun
from tinygptv.data.versions.versions import number_of
from tinygptv.release.card import ancestors
from tinygptv.report.curation import Funnel, Shown, funnel, gallery
from tinygptv.report.results import (
    PredictionGroup,
    ScoreTable,
    Variant,
    Verdict,
    megabytes,
    predictions,
    score_table,
    variants,
    verdict,
)
from tinygptv.report.run_artifacts import RunArtifacts, sort_artifacts
from tinygptv.report.training import StageMixture, TrainedStage, stage_mixtures, trained_stages
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name, fingerprint

REPORT = "report.html"
_PACKAGE, _TEMPLATE = "tinygptv.report", "report.html.j2"
_PACKAGES = ("torch", "transformers", "deepspeed", "peft", "img2dataset", "webdataset", "duckdb", "prefect")


@dataclass(frozen=True)
class Named:
    """A fact in a line of facts."""

    name: str
    value: str


@dataclass(frozen=True)
class Step:
    """One stop of the journey."""

    what: str
    figure: str
    aside: str


@dataclass(frozen=True)
class LineageRow:
    """One artifact and what it was made from."""

    artifact: str
    parents: list[str]
    rows: int
    size: str
    seconds: str
    finished: str


@dataclass(frozen=True)
class View:
    """All that the page shows; None or empty parts are left out of it."""

    run_name: str
    about: str
    licence: str
    chips: list[Named]
    verdict: Verdict
    journey: list[Step]
    scores: ScoreTable
    predictions: list[PredictionGroup]
    funnel: Funnel | None
    kept: list[Shown]
    dropped: list[Shown]
    mixtures: list[StageMixture]
    stages: list[TrainedStage]
    variants: list[Variant]
    lineage: list[LineageRow]
    evaluations: str
    environment: list[Named]


def report(store: Store, run: ResolvedRun, run_name: str, manifests: Sequence[Manifest]) -> Manifest:
    """Write `report.html` about the artifacts of a run; what is not among `manifests` is left out of the page."""
    definition = {
        "recipe": run.recipe_name,
        "source": run.source_name,
        "gates": [gate.model_dump() for stage in run.recipe.stages for gate in stage.gates],
        "page": fingerprint(pages.template_text(_PACKAGE, _TEMPLATE)),
    }
    parents = sorted({manifest.artifact for manifest in manifests})

    def build(draft: Path) -> Outcome:
        page = render(gather(store, run, run_name, manifests))
        (draft / REPORT).write_text(page, encoding="utf-8")
        return Outcome(details={"bytes": len(page.encode())})

    artifact = artifact_name(f"runs/{run_name}/report", definition, parents)
    return store.make(artifact, "report", definition, parents, build)


def render(view: View) -> str:
    """The page as text."""
    return pages.render(_PACKAGE, _TEMPLATE, view=view)


def gather(store: Store, run: ResolvedRun, run_name: str, manifests: Sequence[Manifest]) -> View:
    """Everything the page says, from manifests and the files beside them."""
    artifacts = sort_artifacts(run.recipe, manifests)
    kept, dropped = gallery(store, artifacts)
    return View(
        run_name=run_name,
        about=run.recipe.about.strip(),
        licence=run.source.licence,
        chips=_chips(store, run, artifacts, manifests),
        verdict=verdict(run, artifacts),
        journey=_journey(run, artifacts),
        scores=score_table(run, artifacts),
        predictions=predictions(store, artifacts),
        funnel=funnel(artifacts),
        kept=kept,
        dropped=dropped,
        mixtures=stage_mixtures(run, artifacts),
        stages=trained_stages(store, run, artifacts),
        variants=variants(artifacts),
        lineage=_lineage(store, artifacts, manifests),
        evaluations=_evaluations(artifacts),
        environment=_environment(),
    )


def _chips(store: Store, run: ResolvedRun, artifacts: RunArtifacts, manifests: Sequence[Manifest]) -> list[Named]:
    finished = max((manifest.created for manifest in manifests), default="")
    number = number_of(store, artifacts.filtered.artifact) if artifacts.filtered else None
    return [
        Named("recipe", run.recipe_name),
        Named("source", f"{run.source_name}, version {number}" if number else run.source_name),
        Named("hardware", run.hardware_name),
        Named("finished", finished.replace("T", " ").replace("+00:00", " UTC")),
        Named("work", f"{sum(manifest.seconds for manifest in manifests) / 60:.1f} min"),
    ]


def _journey(run: ResolvedRun, artifacts: RunArtifacts) -> list[Step]:
    steps = []
    if artifacts.raw:
        steps.append(Step("in the tables", f"{artifacts.raw.rows_in:,}", "rows"))
        steps.append(Step("downloaded", f"{artifacts.raw.rows_out:,}", "images with captions"))
    if artifacts.filtered:
        steps.append(Step("kept by the filter", f"{artifacts.filtered.rows_out:,}", "pairs"))
    if artifacts.mixtures:
        rows = sum(manifest.rows_out for manifest in artifacts.mixtures.values())
        steps.append(Step("mixed", f"{rows:,}", f"samples in {len(artifacts.mixtures)} mixtures"))
    for stage in run.recipe.stages:
        if manifest := artifacts.stages.get(stage.stage):
            steps.append(Step(stage.stage, f"{manifest.details['last_loss']:.2f}", "loss at its end"))
    if artifacts.export:
        steps.append(Step("exported", megabytes(artifacts.export.details.get("weight_bytes")), "on disk"))
    if artifacts.quantized:
        steps.append(Step("int8", megabytes(artifacts.quantized.details.get("weight_bytes")), "on disk"))
    return steps


def _lineage(store: Store, artifacts: RunArtifacts, manifests: Sequence[Manifest]) -> list[LineageRow]:
    scores = {score.artifact for score in (*artifacts.scores, *artifacts.gates)}
    made = [manifest for manifest in manifests if manifest.artifact not in scores]
    known = {manifest.artifact for manifest in made}
    before = [one for one in ancestors(store, [p for m in made for p in m.parents]) if one.artifact not in known]
    return [
        LineageRow(
            artifact=one.artifact,
            parents=one.parents,
            rows=one.rows_out,
            size=megabytes(sum(entry.bytes for entry in one.files.values())),
            seconds=f"{one.seconds:,.1f}",
            finished=one.created[11:19],
        )
        for one in [*before, *made]
    ]


def _evaluations(artifacts: RunArtifacts) -> str:
    if not artifacts.scores:
        return ""
    answers, seconds = sum(s.rows_out for s in artifacts.scores), sum(s.seconds for s in artifacts.scores)
    return f"Beside these, {len(artifacts.scores)} evaluations: {answers:,} answers in {seconds:,.0f} s."


def _environment() -> list[Named]:
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(Named(package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            versions.append(Named(package, "not installed"))
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return [Named("python", platform.python_version()), *versions, Named("machine", machine)]
