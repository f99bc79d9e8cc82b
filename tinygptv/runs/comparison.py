"""Runs that differ in one thing → one folder: a page with a table and curves, and the same figures as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygptv import pages
from tinygptv.report.figures import compared_svg, read_curve
from tinygptv.runs.ablation import Trained
from tinygptv.store.artifacts import Manifest, Outcome, artifact_name, fingerprint

PAGE, FIGURES, CURVES = "ablations.html", "ablations.json", "losses.svg"
COLOURS = ("#3b82f6", "#d97706", "#0d9488", "#db2777", "#7c3aed", "#7d8590")
_PACKAGE, _TEMPLATE = "tinygptv.runs", "comparison.html.j2"
_HEAT_PERCENT = 55
_SHOWN = ("value", "low", "high", "chance", "n")


@dataclass(frozen=True)
class Cell:
    """A score, how far it is from the whole recipe's, and how dark the cell is, percent. `worse`: its 95 % interval
    lies below the whole one's."""

    value: str
    change: str
    share: int
    worse: bool


@dataclass(frozen=True)
class Row:
    """One variant; cells and losses in the order of the benchmarks and stages, empty where it did not get."""

    name: str
    colour: str
    outcome: str
    told: str
    cells: list[Cell | None]
    losses: list[str]


@dataclass(frozen=True)
class View:
    """All that the page shows. `chances` are the scores of an answer that ignores the picture."""

    recipe: str
    source: str
    hardware: str
    length: str
    lines: list[str]
    benchmarks: list[str]
    chances: list[str]
    stages: list[str]
    rows: list[Row]
    svg: str


def compare(run_name: str, results: Sequence[Trained], steps_scale: float) -> Manifest:
    """Set variants side by side, the whole recipe first. The artifact is made anew if any of them changed."""
    whole = results[0].variant.journey
    definition = {
        "recipe": whole.run.recipe_name,
        "steps_scale": steps_scale,
        "outcomes": {one.variant.name: [one.outcome, one.told] for one in results},
        "page": fingerprint(pages.template_text(_PACKAGE, _TEMPLATE)),
    }
    made = [manifest for one in results for manifest in (*one.stages.values(), *one.scores.values())]
    parents = sorted({manifest.artifact for manifest in made})

    def build(draft: Path) -> Outcome:
        view = gather(results, steps_scale)
        (draft / CURVES).write_text(view.svg, encoding="utf-8")
        (draft / FIGURES).write_text(json.dumps(figures(results, steps_scale), indent=2) + "\n")
        (draft / PAGE).write_text(pages.render(_PACKAGE, _TEMPLATE, view=view), encoding="utf-8")
        return Outcome(rows_in=len(results), rows_out=len(results))

    artifact = artifact_name(f"ablations/{run_name}", definition, parents)
    return whole.store.make(artifact, "ablate", definition, parents, build)


def told(result: Trained) -> str:
    """One line about a variant, for people."""
    if result.outcome != "trained":
        return f"{result.variant.name}: {result.outcome}: {result.told}"
    scores = ", ".join(f"{name} {score.details['value']:.3f}" for name, score in result.scores.items())
    return f"{result.variant.name}: {scores}"


def figures(results: Sequence[Trained], steps_scale: float) -> dict[str, Any]:
    """The comparison as JSON: per variant its outcome, last losses (nats per token) and scores (0..1)."""
    run = results[0].variant.journey.run
    compared = [
        {
            "name": one.variant.name,
            "run": one.variant.journey.name,
            "outcome": one.outcome,
            "told": one.told,
            "last_loss": {stage: manifest.details["last_loss"] for stage, manifest in one.stages.items()},
            "scores": {name: {key: score.details[key] for key in _SHOWN} for name, score in one.scores.items()},
            "artifacts": [manifest.artifact for manifest in (*one.stages.values(), *one.scores.values())],
        }
        for one in results
    ]
    about = {"recipe": run.recipe_name, "source": run.source_name, "hardware": run.hardware_name}
    return about | {"steps_scale": steps_scale, "variants": compared}


def table(results: Sequence[Trained]) -> list[dict[str, str]]:
    """The comparison as rows of text, one per variant."""
    return [
        {"variant": one.variant.name, "outcome": one.outcome}
        | {stage: f"loss {manifest.details['last_loss']:.3f}" for stage, manifest in one.stages.items()}
        | {name: f"{score.details['value']:.3f}" for name, score in one.scores.items()}
        for one in results
    ]


def gather(results: Sequence[Trained], steps_scale: float) -> View:
    """Everything the page says."""
    whole, run = results[0], results[0].variant.journey.run
    benchmarks, stages = run.recipe.benchmarks, [stage.stage for stage in run.recipe.stages]
    colours = {one.variant.name: COLOURS[place % len(COLOURS)] for place, one in enumerate(results)}
    curves = {
        stage: [read_curve(one.variant.name, one.metrics[stage]) for one in results if stage in one.metrics]
        for stage in stages
    }
    rows = [
        Row(
            name=_readable(one.variant.name),
            colour=colours[one.variant.name],
            outcome=one.outcome,
            told=one.told,
            cells=[_cell(one.scores.get(name), whole.scores.get(name)) for name in benchmarks],
            losses=[f"{one.stages[s].details['last_loss']:.2f}" if s in one.stages else "" for s in stages],
        )
        for one in results
    ]
    known = {name: score for one in reversed(results) for name, score in one.scores.items()}
    return View(
        recipe=run.recipe_name,
        source=run.source_name,
        hardware=run.hardware_name,
        length="whole" if steps_scale == 1 else f"{steps_scale:g} of the recipe's steps",
        lines=[_line(row, benchmarks) for row in rows[1:]],
        benchmarks=[_readable(name) for name in benchmarks],
        chances=[f"{known[name].details['chance']:.2f}" if name in known else "" for name in benchmarks],
        stages=stages,
        rows=rows,
        svg=compared_svg(curves, colours),
    )


def _cell(score: Manifest | None, whole: Manifest | None) -> Cell | None:
    if score is None:
        return None
    value, high, chance = (float(score.details[key]) for key in ("value", "high", "chance"))
    share = round(_HEAT_PERCENT * max(value - chance, 0.0) / max(1 - chance, 1e-9))
    if whole is None or whole is score:
        return Cell(f"{value:.2f}", "", share, False)
    change = f"{value - whole.details['value']:+.2f}".replace("-", "−")
    return Cell(f"{value:.2f}", change, share, high < whole.details["low"])


def _line(row: Row, benchmarks: Sequence[str]) -> str:
    if row.outcome != "trained":
        return f"{row.name}: {row.outcome}."
    worse = [name for name, cell in zip(benchmarks, row.cells, strict=True) if cell and cell.worse]
    on = f" ({', '.join(_readable(name) for name in worse)})" if worse else ""
    return f"{row.name}: measurably worse on {len(worse)} of {len(benchmarks)}{on}."


def _readable(name: str) -> str:
    return name.replace("_", " ")
