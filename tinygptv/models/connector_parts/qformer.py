"""BLIP-2's Q-Former as a part of a connector."""

import re
from typing import Any

import torch
from torch import Tensor
from transformers import Blip2QFormerConfig

from tinygptv.definitions.connector_parts import qformer
from tinygptv.errors import HandoffError
from tinygptv.models.blip2 import LAVIS_QFORMER, OUTPUT_NORM, UNUSED_QFORMER
from tinygptv.models.kinds import ConnectorPartKind
from tinygptv.models.qformer import QFormer
from tinygptv.models.stored import Table
from tinygptv.models.translation import COMPUTED, Rules, Translation, drop_unused, rename

_BERT_POSITIONS = 512
"""Length of the one buffer of its Q-Former that the published code saves along."""


def qformer_config(part: qformer.QFormer, encoder_width: int, **fields: Any) -> Blip2QFormerConfig:
    """The library's configuration of a Q-Former that reads features of `encoder_width`; `fields` are for its texts."""
    return Blip2QFormerConfig(
        hidden_size=part.width,
        num_hidden_layers=part.depth,
        num_attention_heads=part.heads,
        intermediate_size=part.mlp_width,
        cross_attention_frequency=part.cross_attention_every,
        encoder_hidden_size=encoder_width,
        **fields,
    )


class QFormerKind(ConnectorPartKind[qformer.QFormer]):
    """A Q-Former, from a BLIP-2 or from our own layout."""

    def build(self, width: int) -> QFormer:
        """(I, N, width) -> (I, queries, its width)."""
        return QFormer(qformer_config(self.definition, width), self.definition.queries)

    def read(self, table: Table) -> Translation:
        """A BLIP-2 of LAVIS or of Hugging Face, which also hold the vision encoder's output norm, or our own layout.

        Raises HandoffError if BLIP-2 was trained with another language model than the definition says.
        """
        if any(name.startswith("Qformer.") for name in table):
            _refuse_other_blip2(table, self.definition)
            kept, left_out = drop_unused(table, [COMPUTED, *UNUSED_QFORMER])
            rules = [(r"^ln_vision\.", OUTPUT_NORM), *self._lavis_rules()]
            return Translation("BLIP-2 as LAVIS names it", rename(kept, rules), left_out)
        if any(name.startswith("qformer.") for name in table):
            kept, left_out = drop_unused(table, UNUSED_QFORMER)
            rules = [
                (r"^vision_model\.", "vision_encoder.model."),
                (r"^qformer\.", f"{self.prefix}model."),
                (r"^query_tokens$", f"{self.prefix}query_tokens"),
            ]
            return Translation("BLIP-2 of Hugging Face", rename(kept, rules), left_out)
        return super().read(table)

    def from_reference(self, projections: int) -> Rules:
        """As in a BLIP-2 of LAVIS."""
        return self._lavis_rules()

    def to_reference(self, name: str, projections: int) -> str:
        """As in a BLIP-2 of LAVIS."""
        if name == "query_tokens":
            return name
        name = name.removeprefix("model.").replace("attention.attention.", "attention.self.")
        return "Qformer.bert." + re.sub(r"^layernorm\.", "embeddings.LayerNorm.", name)

    def reference_buffers(self) -> dict[str, Tensor]:
        """The positions of its texts."""
        return {"Qformer.bert.embeddings.position_ids": torch.arange(_BERT_POSITIONS)[None]}

    def _lavis_rules(self) -> list[tuple[str, str]]:
        # What begins with `model.` by now came from the Q-Former: other parts still have their prefix.
        return [*LAVIS_QFORMER, (r"^(?=query_tokens$|model\.)", self.prefix)]


def _refuse_other_blip2(table: Table, definition: qformer.QFormer) -> None:
    kinds = {
        "t5": (("t5_proj.", "t5_model."), "trained with FLAN-T5", "blip2_pretrained_flant5xxl.pth"),
        "opt": (("opt_proj.", "opt_model."), "trained with OPT", "blip2_pretrained_opt2.7b.pth"),
        "none": (("itm_head.", "Qformer.cls."), "of the first stage, before any language model", ""),
    }
    wanted = definition.pretrained_with
    if wanted is None or any(name.startswith(kinds[wanted][0]) for name in table):
        return
    for prefixes, trained, _ in kinds.values():
        if found := next((name for name in table if name.startswith(prefixes)), None):
            raise HandoffError(
                f"{definition.weights}: a BLIP-2 {trained} (it holds '{found}'), but the recipe says pretrained_with: "
                f"{wanted}; the outputs of its queries are meant for another decoder. Use {kinds[wanted][2]}"
            )
