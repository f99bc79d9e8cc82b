"""Recognises a pretrained part by the names of its tensors."""

from typing import Any

from tinygptv.definitions.model import Model
from tinygptv.models.kinds import (
    ConnectorPartKind,
    DecoderKind,
    VisionEncoderKind,
    connector_part_kind,
    decoder_kind,
    vision_encoder_kind,
)
from tinygptv.models.stored import Table
from tinygptv.models.translation import Translation
from tinygptv.models.weights.reference import is_reference


def pretrained_part(table: Table, definition: Model) -> Translation | None:
    """The published part of the model that the tensors are, under our names; None if they are something else."""
    if is_reference(table):
        return None
    kinds: list[VisionEncoderKind[Any] | ConnectorPartKind[Any] | DecoderKind[Any]] = [
        vision_encoder_kind(definition.vision_encoder),
        *(connector_part_kind(part, position) for position, part in enumerate(definition.connector)),
        decoder_kind(definition.language_model),
    ]
    for kind in kinds:
        if any(name.startswith(kind.definition.published_prefixes) for name in table):
            return kind.read(table)
    return None
