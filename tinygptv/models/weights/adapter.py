"""Trained tensors ↔ an adapter folder of PEFT, which goes on top of transformers' stock language model.

    adapter_config.json, adapter_model.safetensors   the LoRA weights, on the maps of the stock model
    norms.safetensors                                trained norms under the stock model's names, and TinyGPT-V's own
    connector.safetensors                            everything else that was trained, under our names
    README.md                                        how to load them

PEFT reads the first two.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tinygptv.definitions.parts import Decoder
from tinygptv.definitions.recipe import Lora
from tinygptv.errors import HandoffError
from tinygptv.models.fused_qkv import FUSED, SPLIT, fuse_stock, split_stock, trio
from tinygptv.models.kinds import decoder_kind
from tinygptv.models.lora import LoraConfig
from tinygptv.models.stored import Stored, Table, derived
from tinygptv.models.translation import Translation
from tinygptv.models.weights.adapter_config import AdapterConfig, read_config
from tinygptv.models.weights.anew import LORA
from tinygptv.models.weights.files import open_weights

CONFIG, ADAPTER, NORMS, CONNECTOR = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "norms.safetensors",
    "connector.safetensors",
)
_README = """A low-rank adapter, and what was trained besides. PEFT cannot carry norms, which are not low-rank:

    decoder = {stock}.from_pretrained(...{qk_norm})
    decoder.load_state_dict(load_file("norms.safetensors"), strict=False)
    decoder = PeftModel.from_pretrained(decoder, ".")

`attention_norm` in norms.safetensors is an RMSNorm on the attention branch, which the decoder of transformers has not;
without it the decoder computes something else. connector.safetensors holds the trained parts between image and decoder.
"""
_OLD_ADAPTER = "adapter_model.bin"
_PREFIX, _OURS = "base_model.model.", "language_model."
_PART = re.compile(r"(?P<map>.+)\.(lora_(?P<factor>[AB])\.weight|lora_magnitude_vector(\.weight)?)")
_MERGE = (
    "`tinygptv convert … --to merged` computes them exactly: let the stage start from that folder with `lora: {init: "
    "fresh}`"
)


def write_adapter(folder: Path, tensors: Mapping[str, Tensor], definition: Decoder, lora: Lora) -> None:
    """Write what a stage trained as an adapter folder. Raises HandoffError if there are no adapters among it."""
    language = {name.removeprefix(_OURS): tensor for name, tensor in tensors.items() if name.startswith(_OURS)}
    kind = decoder_kind(definition)
    stock = kind.to_stock(language)
    adapters = {f"{_PREFIX}{name}": tensor for name, tensor in stock.tensors.items() if LORA.search(name)}
    if not adapters:
        raise HandoffError("there are no LoRA weights to write as an adapter; choose another format")
    norms = {name: tensor for name, tensor in stock.tensors.items() if not LORA.search(name)} | stock.others
    connector = {name: tensor for name, tensor in tensors.items() if not name.startswith(_OURS)}
    targets = sorted({name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapters})
    settings: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    LoraConfig(task_type="CAUSAL_LM", target_modules=targets, **settings).save_pretrained(str(folder))
    for file, content in ((ADAPTER, adapters), (NORMS, norms), (CONNECTOR, connector)):
        if content:
            save_file({name: tensor.contiguous() for name, tensor in content.items()}, folder / file)
    (folder / "README.md").write_text(
        _README.format(
            stock=kind.stock_class.__name__, qk_norm=", qk_layernorm=True" if definition.stock_has_qk_norm else ""
        )
    )


def is_adapter(path: Path) -> bool:
    """Whether `path` is an adapter folder."""
    return (path / CONFIG).is_file()


def read_adapter(folder: Path, definition: Decoder, lora: Lora | None) -> Translation:
    """An adapter folder under our names, fused again where our model is; for a model with the adapters `lora`.

    If `alpha_pattern` or `use_rslora` gives a map another scale than `lora`, its `lora_B` is multiplied by the ratio,
    so that the function is PEFT's. Raises HandoffError if such a model has no place for what the folder holds: another
    rank or alpha, DoRA, adapters on queries, keys and values that were trained apart. `merge_adapter` takes them all.
    """
    adapter = _open(folder, definition)
    wanted = lora or Lora(rank=adapter.config.rank, alpha=adapter.config.alpha, dropout=0.0, init="inherit")
    _refuse_other_strength(folder / CONFIG, adapter.config, wanted)
    language = dict(adapter.whole)
    for name, adapted in adapter.config.maps.items():
        parts, scale = adapter.parts[name], wanted.alpha / wanted.rank
        same = adapted.scale == scale
        up = parts["B"] if same else derived(partial(_scaled, adapted.scale / scale), [parts["B"]])
        language |= {f"{name}.lora_A.weight": parts["A"], f"{name}.lora_B.weight": up}
    if definition.has_fused_qkv:
        language = _fused(language, definition.heads, folder)
    return _translation(folder, "an adapter of PEFT", language)


def merge_adapter(folder: Path, definition: Decoder, base: Table) -> Translation:
    """An adapter folder as whole maps of a decoder without adapters: those of `base`, changed as PEFT changes them.

    `base` has the decoder's tensors under our names. Sums are computed in float32.
    """
    adapter = _open(folder, definition)
    decoder = {name.removeprefix(_OURS): stored for name, stored in base.items() if name.startswith(_OURS)}
    heads = definition.heads if definition.has_fused_qkv else None
    if heads is not None and not adapter.is_fused:
        decoder = split_stock(decoder, heads)
    changed = dict(adapter.whole)
    for name, adapted in adapter.config.maps.items():
        parts, weight = adapter.parts[name], f"{name}.weight"
        if weight not in decoder:
            raise HandoffError(f"{folder / ADAPTER}: adapts '{name}', which the decoder's weights do not hold")
        factors = [parts[part] for part in ("A", "B", "magnitude") if part in parts]
        base_weight = adapter.whole.get(weight, decoder[weight])
        changed[weight] = derived(partial(_merged, adapted.scale), [base_weight, *factors])
    if heads is not None:
        # The unchanged pieces of a map that is fused again come from the base.
        trios = {part: decoder[part] for name in changed for part in trio(name) if part in decoder}
        changed = fuse_stock(trios | changed, heads)
    return _translation(folder, "an adapter of PEFT, merged", changed)


@dataclass(frozen=True)
class _Adapter:
    """`parts`: of every adapted map, its A, B and perhaps magnitude. `whole`: tensors that replace the decoder's."""

    config: AdapterConfig
    parts: dict[str, dict[str, Stored]]
    whole: Table
    is_fused: bool


def _open(folder: Path, definition: Decoder) -> _Adapter:
    """Raises HandoffError unless configuration and tensors name the same maps and ranks."""
    file = next((folder / name for name in (ADAPTER, _OLD_ADAPTER) if (folder / name).is_file()), folder / ADAPTER)
    found = {name.removeprefix(_PREFIX): stored for name, stored in open_weights(file).items()}
    is_fused = any(FUSED in name for name in found)
    config = read_config(folder / CONFIG, definition, is_fused)
    parts: dict[str, dict[str, Stored]] = {name: {} for name in config.maps}
    whole: Table = {}
    for name, stored in found.items():
        if (match := _PART.fullmatch(name)) and match["map"] in parts:
            parts[match["map"]][match["factor"] or "magnitude"] = stored
        elif (plain := name.replace(".base_layer.", ".")) in config.whole:
            whole[plain] = stored
        else:
            raise HandoffError(
                f"{file}: '{name}' is nothing that {CONFIG} adapts or saves in this decoder; PEFT would "
                "ignore it. Put back the configuration it was saved with"
            )
    for name, adapted in config.maps.items():
        wanted = {"A", "B", "magnitude"} if adapted.dora else {"A", "B"}
        if parts[name].keys() != wanted:
            missing = ", ".join(sorted(wanted ^ parts[name].keys()))
            raise HandoffError(
                f"{file}: {CONFIG} adapts '{name}' (use_dora: {str(adapted.dora).lower()}), and its "
                f"{missing} is missing or left over; the two files do not belong together"
            )
        if (rank := parts[name]["A"].shape[0]) != adapted.rank:
            raise HandoffError(
                f"{file}: '{name}' has rank {rank}, and {CONFIG} says {adapted.rank}; the two files do not "
                "belong together"
            )
    norms = open_weights(folder / NORMS) if (folder / NORMS).is_file() else {}
    return _Adapter(config, parts, whole | norms, is_fused)


def _translation(folder: Path, layout: str, language: Table) -> Translation:
    tensors = {f"{_OURS}{name}": stored for name, stored in language.items()}
    if (folder / CONNECTOR).is_file():
        tensors |= open_weights(folder / CONNECTOR)
    return Translation(layout, tensors, {})


def _scaled(factor: float, up: Tensor) -> Tensor:
    return factor * up.float()


def _merged(scale: float, base: Tensor, down: Tensor, up: Tensor, magnitude: Tensor | None = None) -> Tensor:
    """The map (D_out, D_in) that PEFT's `merge_and_unload` leaves."""
    changed = base.float() + scale * (up.float() @ down.float())
    if magnitude is None:
        return changed
    return changed * (magnitude.float() / torch.linalg.norm(changed, dim=1))[:, None]


def _fused(table: Table, heads: int, folder: Path) -> Table:
    fused: Table = {}
    for name in [name for name in table if ".lora_A." in name and any(part in name for part in SPLIT)]:
        whole = re.sub(r"\.[qkv]_proj\.", FUSED, name)
        if missing := [part for part in trio(name) if part not in table and part not in fused]:
            raise HandoffError(
                f"{folder / ADAPTER}: adapts some of queries, keys and values and has no '{missing[0]}', but the stage "
                f"adapts them as one map; {_MERGE}"
            )
        stored = table[name]
        if not torch.equal(fused.setdefault(whole, stored).read(), stored.read()):
            raise HandoffError(
                f"{folder / ADAPTER}: the lora_A of queries, keys and values differ ('{name}'), so these adapters were "
                f"trained apart and cannot be fused exactly; {_MERGE}"
            )
    rest = {name: stored for name, stored in table.items() if not (".lora_A." in name and trio(name))}
    return fuse_stock(rest, heads) | fused


def _refuse_other_strength(path: Path, found: AdapterConfig, wanted: Lora) -> None:
    settings = {"r": (found.rank, wanted.rank), "lora_alpha": (found.alpha, wanted.alpha)}
    if differing := [f"{field} {one} (recipe: {other})" for field, (one, other) in settings.items() if one != other]:
        raise HandoffError(
            f"{path}: another adapter than the stage's: {', '.join(differing)}; it would act with another strength. "
            "Write its rank and alpha under `lora`"
        )
    for name, adapted in found.maps.items():
        if adapted.dora:
            raise HandoffError(f"{path}: use_dora: true is not supported by a stage's adapters; {_MERGE}")
        if adapted.rank != wanted.rank:
            raise HandoffError(
                f"{path}: rank_pattern gives '{name}' rank {adapted.rank}, and all adapters of a stage have one rank "
                f"(recipe: {wanted.rank}); {_MERGE}"
            )
