"""Conflicts between definitions of one run that are each valid alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tinygptv.definitions.benchmark import Benchmark
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.mixture import Mixture
from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Stage
from tinygptv.definitions.trainable import DECODER
from tinygptv.loading.mistakes import FieldPath, field_name

_FOLDERS = {"recipe": "tinygptv/recipes", "hardware": "infra/hardware", "mixture": "datasets/mixtures"}


@dataclass(frozen=True)
class Conflict:
    """Two definitions do not fit together; `kind`, `name` and `path` locate the value to change."""

    kind: str
    name: str
    path: FieldPath
    text: str

    def __str__(self) -> str:
        return f"{_FOLDERS[self.kind]}/{self.name}.yaml, {field_name(self.path)}: {self.text}"


def batch_conflicts(stage: Stage, profile: Hardware, hardware_name: str) -> Iterator[Conflict]:
    """A profile whose ranks cannot share a stage's global batch evenly."""
    if stage.global_batch_size % profile.world_size:
        text = (
            f"{profile.world_size} ranks cannot share the global batch of {stage.stage}, {stage.global_batch_size}, "
            "evenly; choose a number of ranks that divides it"
        )
        yield Conflict("hardware", hardware_name, ("ranks",), text)


def component_conflicts(stage: Stage, blend: Mixture, profile: Hardware, hardware_name: str) -> Iterator[Conflict]:
    """Batch sizes of a mixture's components that the stage or the ranks cannot hold."""
    for position, component in enumerate(blend.components):
        path, size = ("components", position, "batch_size"), component.batch_size
        if size is not None and size > stage.global_batch_size:
            text = (
                f"{component.source} puts {size} samples into a step, and {stage.stage} plans for "
                f"{stage.global_batch_size}; raise its global_batch_size to the largest of its mixture"
            )
            yield Conflict("mixture", stage.mixture, path, text)
        elif size is not None and size % profile.world_size:
            text = (
                f"infra/hardware/{hardware_name}.yaml has {profile.world_size} ranks, which cannot share the {size} "
                f"samples of {component.source} evenly; choose a number of ranks that divides them"
            )
            yield Conflict("mixture", stage.mixture, path, text)


def feature_conflicts(model: Model, stage: Stage, profile: Hardware, hardware_name: str) -> Iterator[Conflict]:
    """Features computed before a stage that trains the vision encoder."""
    if profile.features == "cached" and not stage.frozen_prefix(model):
        text = (
            f"{stage.stage} trains the vision encoder, so the features of an image change with every step and "
            "cannot be computed before training; write live"
        )
        yield Conflict("hardware", hardware_name, ("features",), text)


def quantization_conflicts(stage: Stage, profile: Hardware, hardware_name: str) -> Iterator[Conflict]:
    """Weights that are rounded to 4 bits and trained."""
    if profile.quantize_base != "none" and DECODER in stage.trains:
        text = (
            f"{stage.stage} trains {DECODER}, and weights rounded to 4 bits cannot learn; write none, or let the stage "
            "train language_model.lora"
        )
        yield Conflict("hardware", hardware_name, ("quantize_base",), text)


def gate_conflicts(
    recipe_name: str, position: int, stage: Stage, benchmarks: Mapping[str, Benchmark]
) -> Iterator[Conflict]:
    """Gates that ask for a score which their benchmark does not have. `position`: the stage's, in its recipe."""
    for place, gate in enumerate(stage.gates):
        benchmark = benchmarks[gate.benchmark]
        if gate.metric == "lenient" and not benchmark.has_lenient_score:
            text = (
                f"{gate.benchmark} is scored by {benchmark.metric}, for which the reference has no lenient rule; "
                "write score"
            )
            yield Conflict("recipe", recipe_name, ("stages", position, "gates", place, "metric"), text)
