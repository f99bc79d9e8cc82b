"""Checkpoints of the published code, of TinyGPT-V, MiniGPT-4 and MiniGPT-v2: read, and written."""

import re
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Lora
from tinygptv.errors import HandoffError
from tinygptv.models.kinds import ConnectorPartKind, connector_part_kind, vision_encoder_kind
from tinygptv.models.stored import Table
from tinygptv.models.translation import COMPUTED, Rules, Translation, drop_unused, rename
from tinygptv.models.weights.anew import LORA

_LANGUAGE = [
    (r"^llama_model\.(base_model\.model\.)?", "language_model."),
    (r"\.post_layernorm\.", ".attention_norm."),
    (r"\.base_layer\.", "."),
    (r"\.default\.", "."),
]


def is_reference(table: Table) -> bool:
    """Whether the names are those of the published code's checkpoints."""
    return any(name.startswith(("llama_model.", "llama_proj")) for name in table)


def reference_file(table: Table, definition: Model) -> Translation:
    """A checkpoint of the published code, `model` of its `.pth`: what it trained, under our names.

    With or without adapters, of either adapter library; of TinyGPT-V, MiniGPT-4 and MiniGPT-v2; with a Q-Former if it
    was trained.
    """
    kept, left_out = drop_unused(table, [COMPUTED])
    visual = {name: kept.pop(name) for name in list(kept) if name.startswith("visual_encoder.")}
    vision = vision_encoder_kind(definition.vision_encoder)
    encoder = vision.read(visual) if visual else Translation("", {}, {})
    parts: Rules = [rule for kind, number in _parts(definition) for rule in kind.from_reference(number)]
    tensors = rename(kept, [*vision.reference_rules, *parts, *_LANGUAGE])
    return Translation("a checkpoint of the published code", encoder.tensors | tensors, encoder.left_out | left_out)


def to_reference(tensors: Mapping[str, Tensor], definition: Model) -> dict[str, Tensor]:
    """Trained tensors under the published names, as `{"model": …}` of a `.pth` holds them; nothing is computed.

    With adapters, names of the language model have the adapter library's prefix and `.default`; without, they do not:
    the published code silently drops what is named the other way. Raises HandoffError for what its checkpoints never
    hold.
    """
    adapted = any(LORA.search(name) for name in tensors)
    parts = _parts(definition)
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith("language_model."):
            theirs: str | None = _language_name(name.removeprefix("language_model."), adapted)
        else:
            found = ((kind, number) for kind, number in parts if name.startswith(kind.prefix))
            theirs = next((kind.to_reference(name.removeprefix(kind.prefix), number) for kind, number in found), None)
        if theirs is None:
            raise HandoffError(f"'{name}' has no place in a checkpoint of the published code, which never trains it")
        named[theirs] = tensor
    for kind, _ in parts:
        named |= kind.reference_buffers()
    return named


def save_reference(tensors: Mapping[str, Tensor], path: Path, definition: Model, lora: Lora | None = None) -> None:
    """Write trained tensors as the `.pth` that the published code loads, without optimizer state.

    Its `config` says how strongly the adapters `lora` act, under the published code's names.
    """
    config = {"model": {"lora_r": lora.rank, "lora_alpha": lora.alpha}} if lora else {}
    torch.save({"model": to_reference(tensors, definition), "config": config}, path)


def _parts(definition: Model) -> list[tuple[ConnectorPartKind[Any], int]]:
    """The connector's parts, each with the number of projections before it."""
    before = accumulate((part.is_projection for part in definition.connector), initial=0)
    kinds = (connector_part_kind(part, position) for position, part in enumerate(definition.connector))
    return list(zip(kinds, before, strict=False))


def _language_name(name: str, adapted: bool) -> str:
    name = name.replace(".attention_norm.", ".post_layernorm.")
    name = re.sub(r"\.(lora_[AB])\.weight$", r".\1.default.weight", name)
    return f"llama_model.base_model.model.{name}" if adapted else f"llama_model.{name}"
