"""What PEFT makes of an `adapter_config.json`: which linear maps of the decoder it changes, and by how much.

PEFT itself resolves names, patterns, layers and scales, on a decoder without memory. What remains here is to know every
field of its LoraConfig, because an ignored field would silently change numbers: a test compares the
three groups below with the installed PEFT.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from torch import nn

from tinygptv.definitions.parts import Decoder
from tinygptv.errors import HandoffError
from tinygptv.models.kinds import decoder_kind
from tinygptv.models.lora import LoraConfig, LoraLayer, SavedModule, inject_adapter_in_model

COMPUTED = {
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "bias",
}
"""Fields that decide what is computed, and are followed."""

WITHOUT_EFFECT = {
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "lora_dropout",
    # PEFT ignores it for nn.Linear, and our decoders have no other maps.
    "fan_in_fan_out",
    # Settings of an initialization or a kind of adapter, each switched on by another field.
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "qalora_group_size",
    "megatron_core",
    "runtime_config",
}
"""Fields that a trained adapter's output does not depend on."""

REFUSED = {
    "init_lora_weights": "this initialization changes the base weights; save the adapter with PEFT's "
    "path_initial_model_for_weight_conversion, which makes it an ordinary one",
    "lora_bias": "biases on lora_B",
    "megatron_config": "maps of Megatron",
    "trainable_token_indices": "single rows of the embedding",
    "velora_config": "another backward pass",
    "alora_invocation_tokens": "adapters that act from a token on",
    "use_qalora": "pooled inputs of quantized maps",
    "monteclora_config": "sampled adapters",
    "layer_replication": "layers that are repeated",
    "target_parameters": "parameters outside of linear maps",
    "use_bdlora": "block-diagonal factors",
    "arrow_config": "routing between adapters",
    "kasa_config": "truncated base weights",
    "ensure_weight_tying": "tied weights",
}
"""Fields that are refused, unless they are off, and why."""

EMBEDDINGS = frozenset({"model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"})
"""Of embedding and head, which PEFT saves whole where one of them is adapted or the vocabulary was resized."""

HARMLESS_INITIALIZATIONS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base weights alone."""


@dataclass(frozen=True)
class AdaptedMap:
    """How a linear map W (D_out, D_in) is changed: W + scale * B A, where A is (rank, D_in) and B (D_out, rank).

    With `dora` the rows of the sum are then given the lengths of a trained vector (D_out,). Source: DoRA, arXiv
    2402.09353.
    """

    rank: int
    scale: float
    dora: bool


@dataclass(frozen=True)
class AdapterConfig:
    """`maps`: adapted maps by their name in the decoder. `whole`: tensors that the adapter replaces.

    `rank` and `alpha` are the defaults, from which patterns may deviate.
    """

    rank: int
    alpha: float
    maps: Mapping[str, AdaptedMap]
    whole: frozenset[str]


def read_config(path: Path, definition: Decoder, fused: bool) -> AdapterConfig:
    """Resolve the configuration at `path` on a decoder, which has queries, keys and values in one map if `fused`.

    Raises HandoffError, naming the field, for everything that is not in `COMPUTED` and changes numbers.
    """
    content = _read(path)
    _refuse_other_kinds(path, content)
    decoder = _empty_decoder(definition, fused)
    biases = [name for name, _ in decoder.named_parameters() if name.endswith(".bias")]
    try:
        config: Any = LoraConfig(**{field: content[field] for field in COMPUTED if field in content})
        with warnings.catch_warnings(action="ignore"), init_empty_weights():
            inject_adapter_in_model(config, decoder, low_cpu_mem_usage=True)
    except (TypeError, ValueError) as error:
        raise HandoffError(f"{path}: PEFT does not accept it for this decoder ({error})") from error
    layers = {name: module for name, module in decoder.named_modules() if isinstance(module, LoraLayer)}
    if others := sorted(name for name, layer in layers.items() if not isinstance(layer.get_base_layer(), nn.Linear)):
        raise HandoffError(f"{path}: target_modules names '{others[0]}', which is no linear map; merge it with PEFT")
    saved = {name: module for name, module in decoder.named_modules() if isinstance(module, SavedModule)}
    whole = {f"{name}.{inner}" for name, module in saved.items() for inner in module.original_module.state_dict()}
    if config.bias == "all":
        whole |= set(biases)
    elif config.bias == "lora_only":
        whole |= set(biases) & {f"{name}.bias" for name in layers}
    maps = {
        name: AdaptedMap(layer.r["default"], float(layer.scaling["default"]), config.use_dora)
        for name, layer in layers.items()
    }
    return AdapterConfig(config.r, config.lora_alpha, maps, EMBEDDINGS | whole)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise HandoffError(f"{path}: not JSON ({error}); download the folder again") from error
    if not isinstance(content, dict):
        raise HandoffError(
            f"{path}: a {type(content).__name__}, not an object with settings; download the folder again"
        )
    return content


def _refuse_other_kinds(path: Path, content: Mapping[str, Any]) -> None:
    if (kind := content.get("peft_type")) != "LORA":
        raise HandoffError(f"{path}: peft_type: {kind} adapters are not supported, only LORA; merge them with PEFT")
    for field, value in content.items():
        if field in COMPUTED or field in WITHOUT_EFFECT:
            continue
        if value in HARMLESS_INITIALIZATIONS if field == "init_lora_weights" else not value:
            continue
        why = REFUSED.get(field, "the installed PEFT does not know this field")
        raise HandoffError(f"{path}: {field}: {value!r} is not supported: {why}")


def _empty_decoder(definition: Decoder, fused: bool) -> nn.Module:
    kind = decoder_kind(definition)
    with init_empty_weights():
        if definition.has_fused_qkv and not fused:
            return kind.stock_class(kind.stock_config())
        return kind.build()
