"""`trains:` names → the set of trainable parameters. Pure."""

import re
from collections.abc import Collection, Iterable, Sequence

from tinygptv.definitions.recipe import Trainable
from tinygptv.errors import DefinitionError

PATTERNS: dict[Trainable, re.Pattern[str]] = {
    "connector.qformer": re.compile(r"connector\.\d+\.(query_tokens|model\..+)"),
    "connector.projections": re.compile(r"connector\.\d+\.(weight|bias)"),
    # The weights of the norms alone: the published run left every bias where Phi-2 had it.
    "language_model.added_norms": re.compile(
        r"language_model\.model\.layers\.\d+\.(self_attn\.[qk]_layernorm|attention_norm)\.weight"
    ),
    "language_model.input_norms": re.compile(
        r"language_model\.model\.layers\.\d+\.(input_layernorm|post_attention_layernorm)\.weight"
    ),
    "language_model.final_norm": re.compile(r"language_model\.model\.(final_layernorm|norm)\.weight"),
    "language_model.norms": re.compile(r"language_model\.model\..*norm\.weight"),
    "language_model.lora": re.compile(r"language_model\..+\.lora_[AB]\.weight"),
    "language_model.all": re.compile(r"language_model\..+"),
}
"""What each name means, by parameter name. In Llama two norms stand in front of something: attention, feed-forward."""


def trainable_names(names: Collection[str], trains: Sequence[Trainable]) -> set[str]:
    """Those of a model's parameter names (plain, see `lora.plain_name`) that `trains` speaks of.

    Raises DefinitionError for a name that matches nothing, because a stage would silently train less than it says.
    """
    chosen: set[str] = set()
    for position, part in enumerate(trains):
        matched = {name for name in names if PATTERNS[part].fullmatch(name)}
        if not matched:
            raise DefinitionError(
                f"trains[{position}]: '{part}' matches no parameter of this model; remove it, or add that part"
            )
        chosen |= matched
    return chosen


def decays(name: str, shape: Iterable[int]) -> bool:
    """Whether weight decay pulls on a parameter: on matrices, never on biases, norms and other vectors."""
    return len(tuple(shape)) >= 2 and not name.endswith("bias")
