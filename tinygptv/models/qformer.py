"""image_features -> query outputs: BLIP-2's Q-Former, and the text side that its pretraining and scoring need."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel
from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings

from tinygptv.errors import HandoffError
from tinygptv.models.stored import load_strictly

# Additive, not boolean: under eager attention the library adds a boolean mask to the scores, silently wrong.
BLOCKED = torch.finfo(torch.float32).min


class QFormer(nn.Module):
    """A fixed number of learned queries that read the picture: (B, N, D_vision) -> (B, queries, D).

    Only the query path exists here: no word embeddings, no text feed-forward layers.
    """

    reads_text = False

    def __init__(self, config: Blip2QFormerConfig, query_tokens: int) -> None:
        super().__init__()
        config.use_qformer_text_input = self.reads_text
        self.config = config
        # The library leaves queries at zero, all alike; BLIP-2 draws them.
        self.query_tokens = nn.Parameter(torch.randn(1, query_tokens, config.hidden_size) * config.initializer_range)
        self.model = Blip2QFormerModel(config)

    def forward(self, image_features: Tensor) -> Tensor:
        """What each query found: (B, N, D_vision) -> (B, queries, D)."""
        queries = self.query_tokens.expand(len(image_features), -1, -1)
        return self.model(query_embeds=queries, encoder_hidden_states=image_features).last_hidden_state

    @classmethod
    def from_pretrained(cls, folder: Path) -> "QFormer":
        """Load `qformer.json` and `qformer.safetensors`, in float32; raises HandoffError if they do not fit."""
        qformer = cls(**_configuration(folder))
        path = folder / "qformer.safetensors"
        load_strictly(qformer, {name: tensor.float() for name, tensor in load_file(path).items()}, path)
        return qformer


class WordHead(nn.Sequential):
    """BERT's head over the vocabulary: (…, D) -> (…, vocabulary)."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.activation = nn.GELU()
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.words = nn.Linear(width, vocabulary)


class ImageTextQFormer(QFormer):
    """The Q-Former with its text side, and the heads of BLIP-2's three objectives.

    Ids are those of the language model's tokenizer plus two rows at the end of the vocabulary: `cls_id` begins a text
    to be compared, `dec_id` one to be generated. Masks (rows are queries, then text) as in LAVIS:
    contrast  [[1, 0], [0, 1]]   matching  [[1, 1], [1, 1]]   generation  [[1, 0], [1, tril]]
    BLIP-2 itself reads BERT's vocabulary, whose own `[CLS]` begins a text to be compared, and writes through BERT's
    head. `writes_with` names the head: a file may also come without one.
    """

    reads_text = True

    def __init__(
        self,
        config: Blip2QFormerConfig,
        query_tokens: int,
        contrast_width: int = 256,
        writes_with: Literal["linear", "bert"] | None = "linear",
    ) -> None:
        super().__init__(config, query_tokens)
        self.cls_id, self.dec_id = config.vocab_size - 2, config.vocab_size - 1
        self.embeddings = Blip2TextEmbeddings(config)
        nn.init.normal_(self.embeddings.word_embeddings.weight, std=config.initializer_range)
        nn.init.normal_(self.embeddings.position_embeddings.weight, std=config.initializer_range)
        self.vision_projection = nn.Linear(config.hidden_size, contrast_width)
        self.text_projection = nn.Linear(config.hidden_size, contrast_width)
        self.itm_head = nn.Linear(config.hidden_size, 2)
        self.itg_head: nn.Module | None = None
        if writes_with is not None:
            build = nn.Linear if writes_with == "linear" else WordHead
            self.itg_head = build(config.hidden_size, config.vocab_size)
        self.temperature = nn.Parameter(torch.tensor(0.07))

    def image_embedding(self, query_outputs: Tensor) -> Tensor:
        """Query outputs as unit vectors for contrast: (B, Q, D) -> (B, Q, contrast width)."""
        return nn.functional.normalize(self.vision_projection(query_outputs), dim=-1)

    def text_embedding(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """One unit vector per text: (B, T) -> (B, contrast width). Texts begin with `cls_id`."""
        states = self.model(
            query_embeds=self.embeddings(input_ids=input_ids), query_length=0, attention_mask=attention_mask
        ).last_hidden_state
        return nn.functional.normalize(self.text_projection(states[:, 0]), dim=-1)

    def similarity(self, image_embedding: Tensor, text_embedding: Tensor) -> Tensor:
        """Cosine of the best query, for every picture with every text: (B, Q, W), (C, W) -> (B, C)."""
        return torch.einsum("bqw,cw->bcq", image_embedding, text_embedding).amax(dim=-1)

    def matching_logits(self, image_features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Whether row b's text belongs to row b's picture: (B, 2), the mean over queries; texts begin with `cls_id`."""
        queries = self.query_tokens.shape[1]
        visible = nn.functional.pad(attention_mask, (queries, 0), value=1)
        states = self._read(image_features, input_ids, visible)
        return self.itm_head(states[:, :queries]).mean(dim=1)

    def generation_logits(self, image_features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Next-token logits given the picture: (B, T, vocabulary). Texts begin with `dec_id`.

        Raises HandoffError if the weights came without the head for it.
        """
        if self.itg_head is None:
            raise HandoffError("this Q-Former's weights hold no head to write captions with; use LAVIS's first stage")
        queries, length = self.query_tokens.shape[1], input_ids.shape[1]
        seen = torch.zeros(queries + length, queries + length, dtype=torch.bool, device=input_ids.device)
        seen[:, :queries] = True
        seen[queries:, queries:] = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).tril()
        padding = nn.functional.pad(attention_mask.bool(), (queries, 0), value=True)
        allowed = seen[None, None] & padding[:, None, None, :]
        mask = torch.zeros(allowed.shape, device=input_ids.device).masked_fill(~allowed, BLOCKED)
        states = self._read(image_features, input_ids, mask)
        return self.itg_head(states[:, queries:])

    def query_path(self) -> dict[str, Tensor]:
        """The tensors of a plain QFormer, by its names."""
        return {name: tensor for name, tensor in self.state_dict().items() if _on_query_path(name)}

    def text_side(self) -> dict[str, Tensor]:
        """All other tensors: the text feed-forward layers, embeddings and heads."""
        return {name: tensor for name, tensor in self.state_dict().items() if not _on_query_path(name)}

    @classmethod
    def from_pretrained(cls, folder: Path) -> "ImageTextQFormer":
        """Load `qformer.json`, `qformer.safetensors` and `qformer_text.safetensors`, in float32."""
        path = folder / "qformer_text.safetensors"
        tensors = load_file(folder / "qformer.safetensors") | load_file(path)
        qformer = cls(**_configuration(folder), contrast_width=len(tensors["text_projection.bias"]))
        load_strictly(qformer, {name: tensor.float() for name, tensor in tensors.items()}, path)
        return qformer

    def _read(self, image_features: Tensor, input_ids: Tensor, mask: Tensor) -> Tensor:
        queries = self.query_tokens.expand(len(input_ids), -1, -1)
        return self.model(
            query_embeds=self.embeddings(input_ids=input_ids, query_embeds=queries),
            query_length=queries.shape[1],
            attention_mask=mask,
            encoder_hidden_states=image_features,
        ).last_hidden_state


def _on_query_path(name: str) -> bool:
    if name == "query_tokens":
        return True
    return name.startswith("model.") and ".intermediate." not in name and not _is_text_output(name)


def _is_text_output(name: str) -> bool:
    # Attention blocks have an `output` of their own; the text feed-forward's hangs directly under its layer.
    parts = name.split(".")
    return parts[:3] == ["model", "encoder", "layer"] and parts[4] == "output"


def _configuration(folder: Path) -> dict[str, Any]:
    fields = json.loads((folder / "qformer.json").read_text())
    query_tokens = fields.pop("query_tokens")
    return {"config": Blip2QFormerConfig(**fields), "query_tokens": query_tokens}
