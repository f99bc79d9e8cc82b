"""What a stage builds on: earlier stages, what they trained, and the content of weight files. Needs no torch."""

import functools
from pathlib import Path
from typing import Any

from tinygptv.definitions.base import LOCATION_PREFIXES
from tinygptv.definitions.recipe import BACKBONES, Lora, Recipe, Stage
from tinygptv.definitions.trainable import frozen_prefix
from tinygptv.errors import DefinitionError
from tinygptv.store.artifacts import sha256_of


def lineage(recipe: Recipe, stage: Stage) -> list[Stage]:
    """The stages of this recipe that `stage` builds on, first to last."""
    if stage.starts_from == BACKBONES or stage.starts_from.startswith(LOCATION_PREFIXES):
        return []
    before = recipe.stage(stage.starts_from)
    return [*lineage(recipe, before), before]


def inherited(recipe: Recipe, stage: Stage) -> list[str]:
    """What the stages before `stage` trained. Raises DefinitionError if its adapters contradict theirs."""
    parts = list(dict.fromkeys(part for before in lineage(recipe, stage) for part in before.trains))
    if stage.lora is not None and lineage(recipe, stage):
        has_lora = "language_model.lora" in parts
        if stage.lora.init == "fresh" and has_lora:
            raise DefinitionError(
                f"{stage.stage}, lora.init: fresh adapters would replace those of {stage.starts_from}; write inherit"
            )
        if stage.lora.init == "inherit" and not has_lora:
            raise DefinitionError(
                f"{stage.stage}, lora.init: {stage.starts_from} holds no LoRA weights to inherit; write fresh instead"
            )
    return parts


def prefix_was_trained(recipe: Recipe, stage: Stage) -> bool:
    """Whether earlier stages trained some of the stage's frozen prefix, so that its features depend on them."""
    before = frozen_prefix(recipe.model, inherited(recipe, stage))
    return len(before) < len(stage.frozen_prefix(recipe.model))


def adapters(recipe: Recipe, stage: Stage) -> Lora | None:
    """The adapters the model carries in `stage`, trained there or earlier."""
    return next((s.lora for s in [stage, *reversed(lineage(recipe, stage))] if s.lora is not None), None)


def differences(before: Any, after: Any, place: str = "") -> list[str]:
    """`schedule.peak_lr: 0.003 → 0.001` for every field in which two JSON-like values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        fields = dict.fromkeys([*before, *after])
        inner = [(f"{place}.{field}".lstrip("."), before.get(field), after.get(field)) for field in fields]
        return [line for name, old, new in inner for line in differences(old, new, name)]
    return [] if before == after else [f"{place}: {before} → {after}"]


def content_hash(path: Path) -> str:
    """The hash of a weight file, or of all weight files in a folder; cached in this process until a file changes."""
    shards = [path] if path.is_file() else [*sorted(path.glob("*.safetensors")), *sorted(path.glob("*.bin"))]
    states = [(shard, shard.stat()) for shard in shards]
    return " ".join(_hash_in_state(shard, state.st_size, state.st_mtime_ns) for shard, state in states)


@functools.lru_cache(maxsize=64)
def _hash_in_state(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)
