"""A finished run that never ran: every artifact the report reads, with plausible figures, in a second."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tinygptv.catalog import ResolvedRun, resolve_run
from tinygptv.definitions.recipe import Gate
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name
from tinygptv.train.schedule import learning_rate, total_steps

RUN = "first"
SCRIPT = "<script>alert('caption')</script>"
_COLOURS = ("red", "blue", "green", "gold", "purple", "teal")


def resolved() -> ResolvedRun:
    """The recipe and source that `train-all` uses by default, with gates behind two of its stages."""
    run = resolve_run("tinygptv_tiny", "shapes", "cpu")
    gates = [Gate(benchmark="shapes_statements", at_least=0.6, then="warn")]
    stages = [
        stage.model_copy(update={"gates": gates}) if stage.stage in ("stage2", "stage4") else stage
        for stage in run.recipe.stages
    ]
    return replace(run, recipe=run.recipe.model_copy(update={"stages": stages}))


def finished_run(store: Store, run: ResolvedRun, images: Path) -> list[Manifest]:
    """All manifests of a run but the report's; `images` gets the pictures that benchmarks ask about."""
    rng = random.Random(7)
    draw_pictures(images)
    made = [_raw(store)]
    made.append(_filtered(store, rng, made[0]))
    mixtures = {name: _mixture(store, run, name, made[1]) for name in run.mixtures}
    made += mixtures.values()
    previous: list[str] = []
    for stage in run.recipe.stages:
        made.append(_stage(store, run, stage.stage, [mixtures[stage.mixture].artifact, *previous], rng))
        previous = [made[-1].artifact]
    for name, size, peak, speed in (("export", 7_930_000, 911e6, 412.0), ("int8", 2_460_000, 898e6, 377.0)):
        details = {"weight_bytes": size, "cost": {"before_loading_bytes": 846_000_000, "peak_bytes": int(peak)}}
        details["cost"] |= {"load_seconds": 0.2, "tokens_per_second": speed}
        made.append(_make(store, f"runs/{RUN}/{name}", name, previous, Outcome(details=details)))
        previous = [made[-1].artifact]
    models = [*(stage.stage for stage in run.recipe.stages), "export", "int8"]
    for model in models:
        made += [_scores(store, run, model, models.index(model), name, images, rng) for name in run.benchmarks]
    made += [_scores(store, run, "export", 4, name, images, rng, noise=True) for name in run.benchmarks]
    made += [_gate(store, stage.stage, gate) for stage in run.recipe.stages for gate in stage.gates]
    return made


def draw_pictures(folder: Path) -> None:
    """Twelve little scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(12):
        image = Image.new("RGB", (64, 64), (236, 236, 228))
        pen = ImageDraw.Draw(image)
        pen.ellipse((6 + 2 * number, 8, 24 + 2 * number, 26), fill=_COLOURS[number % 6])
        pen.rectangle((34, 36, 52, 54), fill=_COLOURS[(number + 2) % 6])
        image.save(folder / f"{number}.png")


def _raw(store: Store) -> Manifest:
    drops = {"http_404": 41, "duplicate_url": 38, "not_image": 17, "timeout": 9, "empty_caption": 6}
    return _make(store, "raw/shapes", "download", [], Outcome(rows_in=4000, rows_out=3889, drops=drops))


def _filtered(store: Store, rng: random.Random, raw: Manifest) -> Manifest:
    rules = [
        ("min_side", "rule", 60, "smaller pictures are icons and tracking pixels, not what the caption names"),
        ("aspect_ratio", "rule", 71, "banners and strips become smears once made square"),
        ("caption_words", "rule", 104, "one or two words say too little to align an image with language"),
        ("boilerplate", "rule", 33, "text that pages put under any picture says nothing about this one"),
        ("duplicate_image", "duplicates", 92, "the same bytes under several addresses are one picture"),
    ]
    funnel = [
        {"rule": rule, "why": why, "kind": kind, "dropped_first": n, "dropped_alone": n + 4, "dropped_only": n - 3}
        for rule, kind, n, why in rules
    ]
    drops = {rule: n for rule, _, n, _ in rules}

    def write(folder: Path) -> None:
        (folder / "gallery").mkdir(exist_ok=True)
        index = []
        for number in range(36):
            side = "kept" if number >= 18 else "dropped"
            size = (120, 40) if number % 5 == 1 else (64, 64)
            image = Image.new("RGB", size, _COLOURS[rng.randrange(6)])
            ImageDraw.Draw(image).ellipse((10, 8, 34, 32), fill="white")
            file = f"{side}-{number:02d}.jpg"
            image.save(folder / "gallery" / file)
            reason = rules[number % 5][0] if side == "dropped" else None
            caption = SCRIPT if number in (0, 18) else "a small red circle at the top left, a blue star in the center"
            index.append({"file": file, "reason": reason, "caption": caption, "key": str(number)})
        (folder / "gallery" / "index.json").write_text(json.dumps(index))

    kept = 3889 - sum(drops.values())
    outcome = Outcome(rows_in=3889, rows_out=kept, drops=drops, details={"funnel": funnel, "tables": {}})
    return _make(store, "filtered/shapes-web_pairs", "filter", [raw.artifact], outcome, write)


def _mixture(store: Store, run: ResolvedRun, name: str, pairs: Manifest) -> Manifest:
    components = run.mixtures[name].components
    total = sum(component.weight for component in components)
    details = [
        {
            "source": component.source,
            "task": component.task,
            "declared_share": component.weight / total,
            "samples": 600 + 150 * place,
        }
        for place, component in enumerate(components)
    ]
    rows = sum(entry["samples"] for entry in details)
    outcome = Outcome(rows_in=rows, rows_out=rows, details={"components": details})
    return _make(store, f"mixtures/{name}", "mix", [pairs.artifact], outcome)


def _stage(store: Store, run: ResolvedRun, name: str, parents: list[str], rng: random.Random) -> Manifest:
    stage = run.recipe.stage(name)
    steps = total_steps(stage.schedule)
    floor, height = {"stage1": (1.4, 3.6), "stage2": (1.05, 0.5), "stage3": (0.8, 1.6)}.get(name, (0.35, 1.3))
    rows = []
    for step in range(steps):
        loss = floor + height * math.exp(-5 * step / steps) + rng.gauss(0, 0.06)
        rows.append({"step": step + 1, "loss": loss, "lr": learning_rate(stage.schedule, step), "seconds": 0.1})

    def write(folder: Path) -> None:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    details = {"steps": steps, "first_loss": rows[0]["loss"], "last_loss": floor, "samples_per_second": 310.5}
    samples = steps * stage.global_batch_size
    outcome = Outcome(rows_in=samples, rows_out=samples, details=details)
    return _make(store, f"runs/{RUN}/{name}", f"train {name}", parents, outcome, write)


_LAST = {"statements": 0.93, "vqa": 0.84, "counting": 0.78, "spatial": 0.61, "position": 0.44, "refer": 0.22}
_CHANCE = {"statements": 0.5, "vqa": 0.18, "counting": 0.21, "spatial": 0.5, "position": 0.11, "refer": 0.04}


def _scores(
    store: Store,
    run: ResolvedRun,
    model: str,
    place: int,
    name: str,
    images: Path,
    rng: random.Random,
    noise: bool = False,
) -> Manifest:
    short = name.removeprefix("shapes_")
    low, high = _CHANCE.get(short, 0.24), _LAST.get(short, 0.47)
    value = low + (high - low) * (0, 0.05, 0.3, 1, 1, 0.99)[place] if not noise else low - 0.01
    box = [0.1, 0.12, 0.37, 0.4] if short == "refer" else None
    records = [
        {
            "key": str(number),
            "question": "the red circle" if box else ("" if short == "caption" else "what color is the circle?"),
            "answer": "{<12><10><35><45>}" if box else ("red" if number % 3 else SCRIPT),
            "truth": "{<10><12><37><40>}" if box else "red",
            "correct": float(number % 3 > 0),
            "lenient": 1.0,
            "parsed": True,
            "image": f"{number}.png",
            "box": box,
        }
        for number in range(12)
    ]
    details: dict[str, Any] = {
        "model": model,
        "benchmark": name,
        "noise": noise,
        "metric": run.benchmarks[name].metric,
        "task": run.benchmarks[name].task,
        "value": value,
        "low": max(value - 0.03, 0),
        "high": min(value + 0.03, 1),
        "lenient": None if short == "caption" else min(value + 0.02, 1),
        "n": 600,
        "unparsed": rng.randrange(20),
        "chance": low,
        "extra": {"mean_iou": 0.31} if box else {},
    }

    def write(folder: Path) -> None:
        (folder / "answers.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    source = {"images": str(images)}
    suffix = "-noise" if noise else ""
    outcome = Outcome(rows_in=600, rows_out=600, details=details)
    return _make(store, f"runs/{RUN}/scores-{model}-{name}{suffix}", "evaluate", [], outcome, write, source)


def _gate(store: Store, stage: str, gate: Gate) -> Manifest:
    """Answers of a stage to a few items, which reach every gate but the last stage's."""
    value = gate.at_least + (0.05 if stage != "stage4" else -0.05)
    details = {"model": stage, "benchmark": gate.benchmark, "noise": False, "value": value, "n": gate.items}
    return _make(store, f"runs/{RUN}/gate-{stage}-{gate.benchmark}", "evaluate", [], Outcome(details=details))


def _make(
    store: Store,
    place: str,
    verb: str,
    parents: list[str],
    outcome: Outcome,
    write: Callable[[Path], None] | None = None,
    source: dict[str, str] | None = None,
) -> Manifest:
    definition: dict[str, Any] = {"source": source} if source else {}

    def build(folder: Path) -> Outcome:
        if write:
            write(folder)
        return outcome

    return store.make(artifact_name(place, definition, parents), verb, definition, parents, build)
