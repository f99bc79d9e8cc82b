"""Ablation runs: the full recipe and variants that differ from it only in training.

    whole · without_lora · without_input_norm · without_rms_norm · without_qk_norm · shuffled_tower

Each variant is a run of its own, from the source to the scores of the last stage. Artifacts are named after their
inputs, so everything before training is made once and shared, and finished trainings are reused. A training that halts
or is stopped by a gate is a valid result. `runs/comparison.py` compares the variants.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tinygptv.catalog import resolve_run
from tinygptv.definitions.ablations import ABLATIONS, ablate, shortened
from tinygptv.definitions.recipe import Recipe
from tinygptv.errors import DefinitionError, GateError, LaunchError, did_you_mean
from tinygptv.journey import Arrow, Journey
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name
from tinygptv.store.locations import local_path
from tinygptv.train.events import read_events
from tinygptv.train.job import JOB, METRICS
from tinygptv.train.lineage import content_hash

logger = logging.getLogger(__name__)

WHOLE, SHUFFLED_TOWER = "whole", "shuffled_tower"
PAPER = tuple(switch.removeprefix("without_") for switch in ABLATIONS)
"""What the paper leaves out, one at a time (tables 4 and 6)."""

_SHUFFLED = "vision_encoder.safetensors"
_TROUBLES = ("loss_not_finite", "loss_spike", "gradients_exploded", "dead_data")
_AFTERMATH = ("rank_failed",)


@dataclass(frozen=True)
class Variant:
    """One of the runs to compare."""

    name: str
    journey: Journey

    def arrows(self) -> list[Arrow]:
        """The arrows of its run: nothing is exported, and only the last stage is scored."""
        last = self.journey.run.recipe.stages[-1].stage
        scores = [Arrow("evaluate", last, benchmark) for benchmark in self.journey.run.recipe.benchmarks]
        return [*self.journey.arrows("download", "score", "filter", "mix", "encode", "train", "gate"), *scores]


@dataclass
class Trained:
    """The outcome of a variant: completed stages and scores by name, and the path of each stage's metrics.

    If training ended early, `message` says why, and `metrics` includes the stage that halted.
    """

    variant: Variant
    outcome: Literal["trained", "halted", "stopped at a gate"] = "trained"
    message: str = ""
    stages: dict[str, Manifest] = field(default_factory=dict)
    scores: dict[str, Manifest] = field(default_factory=dict)
    metrics: dict[str, Path] = field(default_factory=dict)


def variants(
    run: str,
    recipe: str,
    source: str,
    hardware: str,
    workdir: str,
    *,
    without: Sequence[str] = PAPER,
    shuffled_tower: bool = False,
    steps_scale: float = 1.0,
) -> list[Variant]:
    """The full recipe, one variant without each of `without`, and optionally one with shuffled vision encoder weights.

    At full length, the full recipe is the run called `run` itself. Raises DefinitionError, before any work starts, for
    something that cannot be left out.
    """
    for name in without:
        if name not in PAPER:
            raise DefinitionError(f"without '{name}': not one of the ablations. {did_you_mean(name, PAPER)}")
    resolved = resolve_run(recipe, source, hardware)
    whole = shortened(resolved.recipe, steps_scale)
    recipes = {WHOLE: whole} | {f"without_{name}": ablate(whole, [f"without_{name}"]) for name in without}
    store = Store(workdir)
    if shuffled_tower:
        recipes[SHUFFLED_TOWER] = with_shuffled_tower(store, whole)
    prefix = run if steps_scale == 1 else f"{run}-x{steps_scale:g}"
    return [
        Variant(
            name,
            Journey(
                store,
                replace(resolved, recipe_name=recipe if name == WHOLE else f"{recipe}:{name}", recipe=changed),
                prefix if name == WHOLE else f"{prefix}-{name}",
            ),
        )
        for name, changed in recipes.items()
    ]


def follow(variant: Variant, make: Callable[[Journey, Arrow], Manifest]) -> Trained:
    """Call `make` for every arrow of a variant, until training halts or a gate stops it.

    Any other error is raised: it says nothing about the recipe.
    """
    journey, result = variant.journey, Trained(variant)
    for arrow in variant.arrows():
        try:
            manifest = make(journey, arrow)
        except GateError as error:
            result.outcome, result.message = "stopped at a gate", str(error)
            return result
        except LaunchError:
            draft = _draft(journey, arrow.subject)
            trouble = _trouble(draft) if arrow.verb == "train" and draft else None
            if draft is None or trouble is None:
                raise
            result.outcome, result.message = "halted", f"{arrow.subject}, step {trouble['step']}: {trouble['told']}"
            result.metrics[arrow.subject] = draft / METRICS
            return result
        if arrow.verb == "train":
            result.stages[arrow.subject] = manifest
            result.metrics[arrow.subject] = journey.store.folder(manifest.artifact) / METRICS
        elif arrow.verb == "evaluate":
            result.scores[arrow.benchmark] = manifest
    return result


def with_shuffled_tower(store: Store, recipe: Recipe) -> Recipe:
    """The recipe with the values of every vision encoder tensor shuffled: same statistics, nothing learned.

    The trained parts then see a random projection of the image. The scores show what the language model achieves with
    little more than image statistics.
    """
    tower = recipe.model.vision_encoder
    original = local_path(tower.weights)
    definition = {"weights": content_hash(original), "seed": recipe.seed}

    def build(draft: Path) -> Outcome:
        import torch
        from safetensors.torch import save_file

        from tinygptv.models.stored import read_all
        from tinygptv.models.weights.files import open_weights

        generator = torch.Generator().manual_seed(recipe.seed)
        shuffled = {
            name: tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].reshape(tensor.shape)
            for name, tensor in sorted(read_all(open_weights(original)).items())
        }
        save_file(shuffled, draft / _SHUFFLED)
        return Outcome(details={"tensors": len(shuffled)})

    made = store.make(artifact_name("ablations/shuffled_tower", definition, []), "shuffle", definition, [], build)
    shuffled_tower = tower.model_copy(update={"weights": str(store.folder(made.artifact) / _SHUFFLED)})
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"vision_encoder": shuffled_tower})})


def _draft(journey: Journey, stage: str) -> Path | None:
    """The folder of the latest unfinished attempt at a stage."""
    begun = journey.store.draft(f"runs/{journey.name}").glob(f"{stage}@*/{JOB}")
    last = max(begun, key=lambda job: job.stat().st_mtime, default=None)
    return None if last is None else last.parent


def _trouble(draft: Path) -> dict[str, str] | None:
    """The event that halted the attempt, or None if it ended for another reason."""
    events = [event for event in read_events(draft) if event["event"] not in _AFTERMATH]
    return events[-1] if events and events[-1]["event"] in _TROUBLES else None
