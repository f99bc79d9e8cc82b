"""image_features -> a caption, token by token: the Q-Former's generation with cached keys and values."""

from typing import Any

import torch
from torch import Tensor, nn

from tinygptv.errors import HandoffError
from tinygptv.models.qformer import ImageTextQFormer


class Writing:
    """Captions of B pictures while they are generated: `logits` takes the last token of each and predicts the next.

    Equal to `generation_logits` on the whole text, but each step costs one token, not all: queries never attend to the
    text, so their keys and values stay the same. Raises HandoffError if the weights came without the head for it.
    """

    def __init__(self, qformer: ImageTextQFormer, image_features: Tensor) -> None:
        if qformer.itg_head is None:
            raise HandoffError("this Q-Former's weights hold no head to write captions with; use LAVIS's first stage")
        self._qformer, self._head = qformer, qformer.itg_head
        self._layers: Any = qformer.model.encoder.layer
        self._length = 0
        queries = qformer.query_tokens.expand(len(image_features), -1, -1)
        states = qformer.model(
            query_embeds=queries, encoder_hidden_states=image_features, output_hidden_states=True
        ).hidden_states
        self._read = [_keys_and_values(layer, seen) for layer, seen in zip(self._layers, states, strict=False)]

    def logits(self, input_ids: Tensor) -> Tensor:
        """(B,) -> (B, vocabulary). The first token is `dec_id`."""
        place = torch.full((1, 1), self._length, device=input_ids.device)
        self._length += 1
        embeds = self._qformer.embeddings(input_ids=input_ids[:, None], position_ids=place)
        states = self._qformer.model.layernorm(embeds)
        for number, layer in enumerate(self._layers):
            before, new = self._read[number], _keys_and_values(layer, states)
            keys, values = (torch.cat(pair, dim=2) for pair in zip(before, new, strict=True))
            self._read[number] = keys, values
            attention = layer.attention.attention
            found = nn.functional.scaled_dot_product_attention(_heads(layer, attention.query(states)), keys, values)
            attended = layer.attention.output(found.transpose(1, 2).flatten(2), states)
            states = layer.feed_forward_chunk(attended)
        return self._head(states[:, 0])


def _keys_and_values(layer: Any, states: Tensor) -> tuple[Tensor, Tensor]:
    attention = layer.attention.attention
    return _heads(layer, attention.key(states)), _heads(layer, attention.value(states))


def _heads(layer: Any, projected: Tensor) -> Tensor:
    """(B, T, D) -> (B, heads, T, D / heads)."""
    return projected.unflatten(2, (layer.attention.attention.num_attention_heads, -1)).transpose(1, 2)
