"""What a stage may name in `trains`, and which pieces of a model each name means. Pure, without torch.

    vision_encoder              the whole tower
    connector.<part>            every connector part of that kind: connector.qformer, connector.linear
    connector.projections       every part that is a projection
    language_model.<piece>      see LANGUAGE_MODEL

Connector parts and the vision encoder are trained whole, so their names follow from the model: a new kind of part can
be trained without being listed here.
"""

import re
from collections.abc import Iterable

from tinygptv.definitions.kinds import kind_of
from tinygptv.definitions.model import Model
from tinygptv.definitions.parts import ConnectorPart

LANGUAGE_MODEL: dict[str, re.Pattern[str]] = {
    # The weights of the norms alone: the published run left every bias as it was in Phi-2.
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
"""Pieces of a decoder, by parameter name. `added_norms`: QK-norm and the attention branch's RMSNorm; `input_norms`:
those before attention and feed-forward, two in a Llama; `norms`: all of the decoder's."""

DECODER = "language_model.all"
"""The only name that trains the decoder's linear maps."""

PROJECTIONS = "connector.projections"

_VISION_ENCODER = "vision_encoder"
_NOTHING = re.compile(r"(?!)")


def trainable(model: Model) -> list[str]:
    """All names that a stage of this model may write in `trains`."""
    parts = dict.fromkeys(name for part in model.connector for name in _names(part))
    return [_VISION_ENCODER, *parts, *LANGUAGE_MODEL]


def matcher(model: Model, name: str) -> re.Pattern[str]:
    """What matches the names of all parameters that one of those names means."""
    if name in LANGUAGE_MODEL:
        return LANGUAGE_MODEL[name]
    parts = _parts(model, name)
    return re.compile(rf"({'|'.join(map(re.escape, parts))}).+") if parts else _NOTHING


def frozen_prefix(model: Model, trains: Iterable[str]) -> tuple[str, ...]:
    """The vision encoder and the connector parts after it, up to the first of which `trains` names something.

    They are given as their parameters' names begin: `("vision_encoder.", "connector.0.")`; none if the vision encoder
    itself is trained. What they make of an image is the same in every step, so it can be computed once.
    """
    trained = {part for name in trains for part in _parts(model, name)}
    parts = ["vision_encoder.", *(f"connector.{position}." for position in range(len(model.connector)))]
    first = next((number for number, part in enumerate(parts) if part in trained), len(parts))
    return tuple(parts[:first])


def _parts(model: Model, name: str) -> list[str]:
    """The vision encoder or the connector parts that a name means, as their parameters' names begin."""
    if name == _VISION_ENCODER:
        return ["vision_encoder."]
    return [f"connector.{position}." for position, part in enumerate(model.connector) if name in _names(part)]


def _names(part: ConnectorPart) -> list[str]:
    return [f"connector.{kind_of(part)}", *([PROJECTIONS] if part.is_projection else [])]
