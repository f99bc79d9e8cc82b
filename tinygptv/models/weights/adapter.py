"""Trained tensors ↔ an adapter folder of PEFT, which goes on top of transformers' stock language model.

    adapter_config.json, adapter_model.safetensors   the LoRA weights, on q_proj, k_proj, v_proj and dense in Phi
    norms.safetensors                                trained norms under the stock model's names, and TinyGPT-V's own
    connector.safetensors                            everything else that was trained, under our names
    README.md                                        how to load them

PEFT reads the first two.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tinygptv.definitions.model import LanguageModel, Phi
from tinygptv.definitions.recipe import Lora
from tinygptv.errors import HandoffError
from tinygptv.models.adapter_library import LoraConfig
from tinygptv.models.weights.anew import LORA
from tinygptv.models.weights.files import open_weights
from tinygptv.models.weights.published import Translation, fuse_stock
from tinygptv.models.weights.stock import FUSED, SPLIT, to_stock
from tinygptv.models.weights.stored import Table

CONFIG, ADAPTER, NORMS, CONNECTOR = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "norms.safetensors",
    "connector.safetensors",
)
_README = """A low-rank adapter, and what was trained beside it. PEFT cannot carry norms, which are not low-rank:

    decoder = PhiForCausalLM.from_pretrained(..., qk_layernorm=True)
    decoder.load_state_dict(load_file("norms.safetensors"), strict=False)
    decoder = PeftModel.from_pretrained(decoder, ".")

`attention_norm` in norms.safetensors is an RMSNorm on the attention branch, which transformers' Phi has not; without it
the decoder computes something else. connector.safetensors holds the image's way into the decoder.
"""
_PREFIX, _OURS = "base_model.model.", "language_model."


def write_adapter(folder: Path, tensors: Mapping[str, Tensor], definition: LanguageModel, lora: Lora) -> None:
    """Write what a stage trained as an adapter folder. Raises HandoffError if there are no adapters among it."""
    language = {name.removeprefix(_OURS): tensor for name, tensor in tensors.items() if name.startswith(_OURS)}
    stock = to_stock(language, definition)
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
    (folder / "README.md").write_text(_README)


def is_adapter(path: Path) -> bool:
    """Whether `path` is an adapter folder."""
    return (path / CONFIG).is_file()


def read_adapter(folder: Path, definition: LanguageModel, lora: Lora | None) -> Translation:
    """An adapter folder under our names, fused again where our model is.

    Raises HandoffError if the queries', keys' and values' `lora_A` differ, as they do once trained apart, or if rank or
    alpha are not those of `lora`, where it is given.
    """
    if lora is not None:
        _check_config(folder / CONFIG, lora)
    language = {name.removeprefix(_PREFIX): stored for name, stored in open_weights(folder / ADAPTER).items()}
    if (folder / NORMS).is_file():
        language |= open_weights(folder / NORMS)
    if isinstance(definition, Phi):
        language = _fused(language, definition.heads, folder)
    tensors = {f"{_OURS}{name}": stored for name, stored in language.items()}
    if (folder / CONNECTOR).is_file():
        tensors |= open_weights(folder / CONNECTOR)
    return Translation("an adapter of PEFT", tensors, {})


def _fused(table: Table, heads: int, folder: Path) -> Table:
    fused: Table = {}
    for name in [name for name in table if ".lora_A." in name and any(part in name for part in SPLIT)]:
        stored = table.pop(name)
        whole = re.sub(r"\.[qkv]_proj\.", FUSED, name)
        if not torch.equal(fused.setdefault(whole, stored).read(), stored.read()):
            raise HandoffError(
                f"{folder / ADAPTER}: the lora_A of queries, keys and values differ ('{name}'), so these adapters were "
                "trained apart and cannot be fused exactly; merge them into the decoder's weights with peft, and name "
                "the result as language_model.weights"
            )
    return fuse_stock(table, heads) | fused


def _check_config(path: Path, lora: Lora) -> None:
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise HandoffError(f"{path}: not JSON ({error}); download the folder again") from error
    wanted = {"r": lora.rank, "lora_alpha": lora.alpha}
    found = {field: config.get(field) for field in wanted}
    if differing := [
        f"{field} {found[field]} (recipe: {wanted[field]})" for field in wanted if found[field] != wanted[field]
    ]:
        raise HandoffError(
            f"{path}: another adapter than the stage's: {', '.join(differing)}; it would act with another strength. "
            "Write its rank and alpha under `lora`"
        )
    if config.get("use_rslora") or config.get("use_dora") or config.get("bias", "none") != "none":
        raise HandoffError(
            f"{path}: use_rslora, use_dora or a trained bias: such adapters are of another kind than ours"
        )
