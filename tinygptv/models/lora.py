"""Low-rank adapters on a language model: attach them, merge them, and names that do not depend on them.

Everything of peft that is used anywhere is imported here, without bitsandbytes. Where that is installed, peft imports
it for the first adapter: two seconds and 60 MB in every process, also in those that keep no map in 4 bits. Ours need no
special adapters (see `nf4`), so peft is made to believe that it is not there: it asks once and remembers the answer.
"""

import sys
from typing import Any

from torch import nn

from tinygptv.definitions.recipe import Lora

_HIDDEN = "bitsandbytes"

sys.modules.setdefault(_HIDDEN, None)  # type: ignore[arg-type]
try:
    from peft import LoraConfig, inject_adapter_in_model
    from peft.import_utils import is_bnb_available
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import ModulesToSaveWrapper as SavedModule

    is_bnb_available()
finally:
    if sys.modules[_HIDDEN] is None:
        del sys.modules[_HIDDEN]

__all__ = [
    "LoraConfig",
    "LoraLayer",
    "SavedModule",
    "attach_lora",
    "inject_adapter_in_model",
    "merge_lora",
    "plain_name",
]


def attach_lora(language_model: nn.Module, lora: Lora) -> None:
    """Attach an adapter to every target of `language_model`, in place. At first it changes nothing.

    A map (D_in -> D_out) gets rank * (D_in + D_out) parameters.
    """
    settings: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    inject_adapter_in_model(LoraConfig(target_modules=lora.targets, **settings), language_model)


def merge_lora(language_model: nn.Module) -> None:
    """Add every adapter to its map and remove it: the same function in the plain layout."""
    adapted = [(name, module) for name, module in language_model.named_modules() if isinstance(module, LoraLayer)]
    for name, module in adapted:
        module.merge()
        language_model.set_submodule(name, module.get_base_layer())


def plain_name(name: str) -> str:
    """The name of a tensor without what the adapter library adds.

    `…dense.base_layer.weight` → `…dense.weight`, `…dense.lora_A.default.weight` → `…dense.lora_A.weight`.
    """
    return name.replace(".base_layer.", ".").replace(".default.", ".")
