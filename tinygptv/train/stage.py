"""One stage as a plan (what it starts from, trains, reads and leaves), and the function that carries it out."""

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygptv.catalog import ResolvedRun
from tinygptv.data.forget.tombstones import tombstones
from tinygptv.data.mixtures.sampling_order import order_seed
from tinygptv.data.mixtures.shares import check_max_epochs, drawn_samples
from tinygptv.data.shards.remote import open_shards
from tinygptv.data.shards.shards import SIDECAR
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.mixture import Mixture
from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import BACKBONES, Recipe, Stage
from tinygptv.errors import HandoffError
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name
from tinygptv.store.locations import local_path
from tinygptv.train.encoding.features import plan_features, refuse_other_features
from tinygptv.train.events import read_events
from tinygptv.train.job import CHECKPOINTS, JOB, LOG, METRICS, TRAINED, Job, read_metrics
from tinygptv.train.launch.heartbeat import RANKS
from tinygptv.train.launch.torchrun import DeepSpeedLauncher, Launcher
from tinygptv.train.lineage import adapters, content_hash, differences, inherited, lineage
from tinygptv.train.retention import remove_passing
from tinygptv.train.schedule import total_steps

if TYPE_CHECKING:
    from tinygptv.train.planning.estimate import StageEstimator

logger = getLogger(__name__)


@dataclass(frozen=True)
class StagePlan:
    """What will be made and from what. Hardware is not part of it, because it must not change what is learned."""

    artifact: str
    definition: dict[str, Any]
    parents: list[str]


def plan_stage(recipe: Recipe, run_name: str, stage_name: str, mixture: str, previous: str | None) -> StagePlan:
    """Name the artifact of a stage from its definition and its parents' names.

    Raises HandoffError if `previous` is not the artifact of the stage it starts from.
    """
    stage = recipe.stage(stage_name)
    starts_inside = bool(lineage(recipe, stage))
    if starts_inside != (previous is not None) or (previous and f"/{stage.starts_from}@" not in previous):
        raise HandoffError(f"{stage_name} starts from {stage.starts_from} but was handed {previous or 'nothing'}")
    definition = {
        # Policies, checkpoints to keep and gates do not affect what is learned: changing them retrains nothing.
        "stage": stage.model_dump(mode="json", exclude={"watch", "keep", "gates"}),
        "model": recipe.model.model_dump(mode="json"),
        "seed": recipe.seed,
        "weights": {} if starts_inside else _weight_hashes(recipe.model, stage),
    }
    parents = [mixture] + ([previous] if previous else [])
    return StagePlan(artifact_name(f"runs/{run_name}/{stage_name}", definition, parents), definition, parents)


def train_stage(
    store: Store,
    run: ResolvedRun,
    run_name: str,
    stage_name: str,
    mixture: Manifest,
    previous: Manifest | None,
    launcher: Launcher | None = None,
    on_line: Callable[[str], None] | None = None,
    features: Manifest | None = None,
    check: Callable[[], Manifest] | None = None,
) -> Manifest:
    """Train one stage, or find it trained; an interrupted one resumes from its last good checkpoint.

    `features` is what `encode` made for the stage, if the hardware profile says `features: cached`. `check` finds out,
    before anything is trained, which samples the stage can learn from (see `data.usable`). `on_line` gets every line
    the training writes. Raises DefinitionError if the stage does not fit the machine or would repeat samples more often
    than its mixture allows, SetupError if the machine lacks what the profile needs, LaunchError if a rank fails,
    HandoffError if the previous stage's weights, or the features, do not fit.
    """
    stage = run.recipe.stage(stage_name)
    plan = plan_stage(run.recipe, run_name, stage_name, mixture.artifact, previous.artifact if previous else None)
    launch = launcher or DeepSpeedLauncher()
    if run.hardware.features == "cached":
        refuse_other_features(features, plan_features(store, run, stage_name, mixture, previous))

    def build(draft: Path) -> Outcome:
        _refuse_missing_library(run.hardware)
        usable = check() if check else None
        estimator, hardware = _fit(run, stage_name, usable)
        _refuse_repetition(run, stage, mixture, usable)
        if store.is_remote:
            _fetch(store, mixture)
        job = _job(store, run, stage, mixture, previous, hardware, estimator).model_copy(
            update={"features": features and features.artifact, "usable": usable and usable.artifact}
        )
        _refuse_other_attempts(draft, stage_name, job)
        (draft / JOB).write_text(job.model_dump_json(indent=2))
        launch.run(draft / JOB, hardware, draft / LOG, on_line or (lambda line: logger.info("%s", line)))
        remove_passing(draft / CHECKPOINTS, stage.keep)
        shutil.rmtree(draft / RANKS, ignore_errors=True)
        return _outcome(draft, stage, run, usable)

    return store.make(plan.artifact, f"train {stage_name}", plan.definition, plan.parents, build)


def _refuse_missing_library(hardware: Hardware) -> None:
    from tinygptv.models.nf4 import refuse_without_library

    if hardware.quantize_base == "nf4":
        refuse_without_library()


def _fit(run: ResolvedRun, stage_name: str, usable: Manifest | None) -> "tuple[StageEstimator, Hardware]":
    """The plan of a stage and its profile, decided; raises if the stage cannot run on this machine.

    What brings torch is imported here: planning which arrows would run can go without.
    """
    from tinygptv.train.disk import refuse_unfit_disk
    from tinygptv.train.planning.estimate import StageEstimator
    from tinygptv.train.planning.fitting import refuse_unfit, resolve_checkpointing

    estimator = StageEstimator(run.recipe, stage_name, usable.details["longest_sequence"] if usable else 0)
    hardware = resolve_checkpointing(estimator, run.hardware)
    refuse_unfit(estimator, hardware, run.hardware_name)
    if hardware.offload_folder:
        refuse_unfit_disk(hardware, run.hardware_name, estimator.on_disk(hardware), estimator.locked(hardware))
    return estimator, hardware


def _job(
    store: Store,
    run: ResolvedRun,
    stage: Stage,
    mixture: Manifest,
    previous: Manifest | None,
    hardware: Hardware,
    estimator: "StageEstimator",
) -> Job:
    """What the ranks are to do; without features, and with all samples."""
    per_sample, per_token = estimator.flops(hardware) if hardware.tflops else (None, None)
    return Job(
        stage=stage,
        model=run.recipe.model,
        lora=adapters(run.recipe, stage),
        seed=run.recipe.seed,
        hardware=hardware,
        workdir=store.workdir,
        mixture=mixture.artifact,
        previous=_previous_weights(store, stage, previous),
        inherits=inherited(run.recipe, stage),
        tombstones=len(tombstones(store)),
        flops_per_sample=per_sample,
        flops_per_token=per_token,
    )


def _fetch(store: Store, mixture: Manifest) -> None:
    """Download what ranks read as a whole, once, before they all would at the same time; shards stay remote."""
    for artifact in [mixture.artifact, *mixture.parents]:
        made = store.find(artifact)
        if made is None or SIDECAR not in made.files:
            store.folder(artifact)
        elif (place := store.place(artifact)) != str(store.local_root / artifact):
            open_shards(place)


def _refuse_other_attempts(draft: Path, stage_name: str, job: Job) -> None:
    """Raise HandoffError if this stage has checkpoints under the same run name with other settings.

    A changed recipe has its own folder, so the steps already taken would be lost silently.
    """
    for other in sorted(draft.parent.glob(f"{stage_name}@*/{CHECKPOINTS}/step*")):
        begun = other.parents[1]
        if begun != draft:
            before = Job.model_validate_json((begun / JOB).read_text())
            changes = differences(before.lineage(), job.lineage()) or ["the content of its weight files"]
            raise HandoffError(
                f"{begun} holds {stage_name} up to {other.name}, begun with other settings: {'; '.join(changes)}. "
                "Undo these changes to resume it, choose another run name, or remove that folder to start over"
            )


def _previous_weights(store: Store, stage: Stage, previous: Manifest | None) -> str | None:
    if previous is not None:
        return str(store.folder(previous.artifact) / TRAINED)
    return None if stage.starts_from == BACKBONES else str(local_path(stage.starts_from))


def _weight_hashes(model: Model, stage: Stage) -> dict[str, str]:
    files = model.weight_files()
    if stage.starts_from != BACKBONES:
        files.append(stage.starts_from)
    return {location: content_hash(local_path(location)) for location in files}


def _refuse_repetition(run: ResolvedRun, stage: Stage, mixture: Manifest, usable: Manifest | None) -> None:
    mixed = [component["samples"] for component in mixture.details["components"]]
    sizes = usable.details["samples"] if usable else mixed
    check_max_epochs(stage.mixture, sizes, *_what_draws(run, stage))


def _what_draws(run: ResolvedRun, stage: Stage) -> tuple[Mixture, int, int, int]:
    """Mixture, order seed, steps and global batch size."""
    seed, steps = order_seed(run.recipe.seed, stage.stage), total_steps(stage.schedule)
    return run.mixtures[stage.mixture], seed, steps, stage.global_batch_size


def _outcome(draft: Path, stage: Stage, run: ResolvedRun, usable: Manifest | None) -> Outcome:
    rows = read_metrics(draft / METRICS)
    if not (draft / TRAINED).is_file() or len(rows) != total_steps(stage.schedule):
        raise HandoffError(f"{draft}: the training ended without all of its steps and {TRAINED}; see {LOG}")
    samples = sum(drawn_samples(*_what_draws(run, stage)))
    last = rows[-max(1, len(rows) // 20) :]
    details = {
        "steps": len(rows),
        "first_loss": rows[0]["loss"],
        "last_loss": round(sum(row["loss"] for row in last) / len(last), 4),
        "samples_per_second": round(samples / sum(row["seconds"] for row in rows), 2),
        "peak_memory_bytes": max(row["peak_memory_bytes"] for row in rows),
        "hardware": run.hardware_name,
        "quantize_base": run.hardware.quantize_base,
        "samples_replaced": _replaced(draft),
    }
    if usable:
        details |= {"usable": usable.artifact, "samples_left_out": usable.drops}
    return Outcome(rows_in=samples, rows_out=samples, details=details)


def _replaced(draft: Path) -> dict[str, int]:
    """How many samples were replaced, by source. Steps repeated after a restart replace the same ones."""
    events = [event for event in read_events(draft) if event["event"] == "sample_replaced"]
    replaced = {(event["source"], event["batch"], event["key"], event["stand_in"]) for event in events}
    return dict(Counter(source for source, *_ in replaced))
