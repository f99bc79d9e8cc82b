"""Initial values of parameters that no file holds: the identity for added norms, the usual ones for other parts."""

import math
import re
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tinygptv.definitions.model import Model
from tinygptv.models.kinds import decoder_kind, vision_encoder_kind

ADDED_NORMS = re.compile(
    r"language_model\.model\.layers\.\d+\.(self_attn\.[qk]_layernorm|attention_norm)\.(weight|bias)"
)
"""TinyGPT-V's own norms: a stock decoder does not have them."""
LORA = re.compile(r"\.lora_[AB]\.")
IDENTITY = "norms as the identity"
LEARNED_VECTORS_STD = 0.02


def rules(definition: Model) -> dict[re.Pattern[str], str]:
    """Which parameters need no file (a pattern of their names), and how they begin."""
    anew = {ADDED_NORMS: IDENTITY, LORA: "adapters, which change nothing at first"}
    for position, part in enumerate(definition.connector):
        if part.initialization is not None:
            anew[re.compile(rf"connector\.{position}\.")] = part.initialization
    output_norm_is_read = any(part.holds_output_norm for part in definition.connector)
    anew |= vision_encoder_kind(definition.vision_encoder).initializations(output_norm_is_read)
    return anew | decoder_kind(definition.language_model).initializations()


def initial(name: str, parameters: Mapping[str, Tensor], seed: int) -> Tensor:
    """The first value of a parameter, float32: a function of its name, its shape and `seed` alone.

    Norms are the identity; a linear map and `lora_A` begin as torch's `nn.Linear` does, `lora_B` at zero (as in peft);
    what is neither weight nor bias, such as learned queries, is drawn as transformers usually do.
    """
    shape = parameters[name].shape
    generator = torch.Generator().manual_seed((seed * 1_000_003 + zlib.crc32(name.encode())) % 2**63)
    if ".lora_B." in name:
        return torch.zeros(shape)
    if "norm" in name:
        return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
    if name.endswith("weight"):
        return nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)
    if name.endswith("bias"):
        bound = 1 / math.sqrt(parameters[name.removesuffix("bias") + "weight"].shape[1])
        return nn.init.uniform_(torch.empty(shape), -bound, bound, generator=generator)
    return nn.init.normal_(torch.empty(shape), std=LEARNED_VECTORS_STD, generator=generator)
