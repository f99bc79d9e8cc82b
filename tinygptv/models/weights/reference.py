"""Our names → the checkpoint that the published code saves and loads."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from tinygptv.definitions.model import Linear, Model, QFormer
from tinygptv.errors import HandoffError
from tinygptv.models.weights.anew import LORA
from tinygptv.models.weights.published import REFERENCE_PROJECTIONS

BERT_POSITIONS = 512
"""Length of the one buffer of its Q-Former that the published code saves along."""


def to_reference(tensors: Mapping[str, Tensor], definition: Model) -> dict[str, Tensor]:
    """Trained tensors under the published names, as `{"model": …}` of a `.pth` holds them; nothing is computed.

    With adapters the language model stands behind their library's prefix and `.default` is spelled out, without it does
    not: the published code drops what is named the other way. Raises HandoffError for what its checkpoints never hold.
    """
    adapted = any(LORA.search(name) for name in tensors)
    parts = dict(enumerate(definition.connector))
    linears = [position for position, part in parts.items() if isinstance(part, Linear)]
    qformers = [position for position, part in parts.items() if isinstance(part, QFormer)]
    projections = {f"connector.{n}": old for n, old in zip(linears, REFERENCE_PROJECTIONS, strict=False)}
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        number, _, inner = rest.partition(".")
        if part == "language_model":
            named[_language_name(rest, adapted)] = tensor
        elif f"{part}.{number}" in projections:
            named[f"{projections[f'{part}.{number}']}.{inner}"] = tensor
        elif part == "connector" and int(number) in qformers:
            named[_qformer_name(inner)] = tensor
        else:
            raise HandoffError(f"'{name}' has no place in a checkpoint of the published code, which never trains it")
    if qformers:
        named["Qformer.bert.embeddings.position_ids"] = torch.arange(BERT_POSITIONS)[None]
    return named


def _language_name(name: str, adapted: bool) -> str:
    name = name.replace(".attention_norm.", ".post_layernorm.")
    name = re.sub(r"\.(lora_[AB])\.weight$", r".\1.default.weight", name)
    return f"llama_model.base_model.model.{name}" if adapted else f"llama_model.{name}"


def _qformer_name(name: str) -> str:
    if name == "query_tokens":
        return name
    name = name.removeprefix("model.").replace("attention.attention.", "attention.self.")
    return "Qformer.bert." + re.sub(r"^layernorm\.", "embeddings.LayerNorm.", name)
