"""The whole model: splices image_embeds into the text embeddings; forward and generate."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tinygptv.definitions.model import Model
from tinygptv.definitions.parts import ConnectorPart
from tinygptv.definitions.recipe import Lora
from tinygptv.errors import ShapeError
from tinygptv.models import masks
from tinygptv.models.kinds import connector_part_kind, decoder_kind, vision_encoder_kind
from tinygptv.models.lora import attach_lora
from tinygptv.sample import IGNORE_INDEX, IMAGE_SLOT


def build_connector(parts: Sequence[ConnectorPart], features_width: int) -> nn.Sequential:
    """(I, N, `features_width`) -> (I, image tokens, width of the last part). Nothing stands between two parts."""
    modules: list[nn.Module] = []
    width = features_width
    for position, part in enumerate(parts):
        modules.append(connector_part_kind(part, position).build(width))
        width = part.output_width(width)
    return nn.Sequential(*modules)


class VisionLanguageModel(nn.Module):
    """A recipe's model for pictures of `image_size` px, with adapters if `lora` is given.

    Parts without trained parameters always stay in eval mode, so their dropouts never act, and record no graph, because
    nothing that enters them needs a gradient. `preprocessing` says how pictures become the pixel values it takes.
    """

    def __init__(self, model: Model, image_size: int, lora: Lora | None = None) -> None:
        super().__init__()
        self.image_size = image_size
        self.num_image_tokens = model.num_image_tokens(image_size)
        self.max_positions = model.language_model.max_positions
        self.preprocessing = model.vision_encoder.preprocessing
        self._attention = model.language_model.attention
        self.vision_encoder: nn.Module = vision_encoder_kind(model.vision_encoder).build(image_size)
        self.connector = build_connector(model.connector, model.vision_encoder.width)
        self.language_model = decoder_kind(model.language_model).build()
        if lora is not None:
            attach_lora(self.language_model, lora)

    def train(self, mode: bool = True) -> "VisionLanguageModel":
        """As in torch, but frozen parts stay in eval mode."""
        super().train(mode)
        for part in (self.vision_encoder, *self.connector):
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        return self

    def split_prefix(self, parts: int) -> nn.Sequential:
        """Take off the first `parts` parts, the vision encoder and then those of the connector, as one module:
        (I, 3, H, W) -> (I, tokens, width).

        What is left keeps its names, and takes the features of that module wherever it took pixel values.
        """
        prefix = nn.Sequential(self.vision_encoder, *list(self.connector)[: parts - 1])
        self.vision_encoder = nn.Identity()
        for position in range(parts - 1):
            self.connector[position] = nn.Identity()
        return prefix

    def image_embeds(self, pixel_values: Tensor) -> Tensor:
        """(I, 3, H, W) -> (I, image tokens, D)."""
        return self.connector(self.vision_encoder(pixel_values))

    def inputs_embeds(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        """Text embeddings with image embeddings in their slots: (I, 3, H, W), (B, T) -> (B, T, D).

        Raises ShapeError if the slots are not exactly as many as the images fill. A batch without images still runs
        a blank one, times zero, so that the projections have gradients on every rank in every step.
        """
        embeds = self.language_model.get_input_embeddings()(input_ids.clamp(min=0))
        slots = input_ids == IMAGE_SLOT
        images, wanted = len(pixel_values), int(slots.sum())
        if wanted != images * self.num_image_tokens:
            raise ShapeError(
                f"input_ids hold {wanted} image slots but {images} images fill {images * self.num_image_tokens} "
                f"({self.num_image_tokens} each); every image needs its run of slots, in reading order"
            )
        if images == 0:
            blank = pixel_values.new_zeros(1, *pixel_values.shape[1:])
            return embeds + 0.0 * self.image_embeds(blank).sum()
        return embeds.masked_scatter(slots[..., None], self.image_embeds(pixel_values).to(embeds.dtype))

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean next-token loss over the labelled positions (scalar), and the loss at each (labels,), both float32.

        Sequences may share a row if position_ids (B, T) count from 0 in each of them. The head, the widest product of
        the model, runs only where there is something to predict. Raises ShapeError for a sequence that is longer than
        the decoder has positions.
        """
        if position_ids is None:
            self._check_length(input_ids)
        embeds = self.inputs_embeds(pixel_values, input_ids)
        context = masks.before_first(labels != IGNORE_INDEX, position_ids) if self._attention == "prefix" else None
        mask = masks.attention_mask(self._attention, attention_mask, input_ids.shape[1], context, position_ids)
        options = {} if position_ids is None else {"position_ids": position_ids}
        states = self.language_model.hidden_states(embeds, mask, input_ids == IMAGE_SLOT, **options)
        targets = labels[:, 1:]
        labelled = targets != IGNORE_INDEX
        total, losses = self.language_model.lm_head(states[:, :-1][labelled], targets[labelled])
        return total / max(1, len(losses)), losses

    def logits(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Next-token logits at every position of prompts: (B, T) -> (B, T, V), float32. Raises as `forward`."""
        self._check_length(input_ids)
        embeds = self.inputs_embeds(pixel_values, input_ids)
        mask = masks.attention_mask(self._attention, attention_mask, input_ids.shape[1], attention_mask.bool())
        states = self.language_model.hidden_states(embeds, mask, input_ids == IMAGE_SLOT)
        return self.language_model.lm_head(states).float()

    @torch.no_grad()
    def generate(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        max_new_tokens: int,
        stops: Sequence[Sequence[int]],
    ) -> Tensor:
        """The most likely continuation of every left-padded prompt: (B, T) -> (B, at most `max_new_tokens`).

        A sample ends with the first of `stops`, runs of ids, that it produces, or where the decoder has no position
        left; the rest of its row repeats its last id. Raises ShapeError for a prompt that leaves no position at all.
        """
        self._check_length(input_ids, 1)
        endings = [torch.tensor(stop, device=input_ids.device) for stop in stops]
        finished = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        cache = DynamicCache(config=self.language_model.config)
        embeds, image_positions = self.inputs_embeds(pixel_values, input_ids), input_ids == IMAGE_SLOT
        context: Tensor | None = attention_mask.bool()  # the prompt, and nothing of the answer
        answer: list[Tensor] = []
        for _ in range(max_new_tokens):
            tokens = embeds.shape[1]
            mask = masks.attention_mask(self._attention, attention_mask, tokens, context)
            positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -tokens:]
            options: dict[str, Any] = {"position_ids": positions, "cache": cache, "use_cache": True}
            states = self.language_model.hidden_states(embeds, mask, image_positions, **options)
            following = self.language_model.lm_head(states[:, -1]).argmax(dim=-1)
            answer.append(torch.where(finished, answer[-1], following) if answer else following)
            for ending in endings:
                if len(ending) <= len(answer):
                    finished |= (torch.stack(answer[-len(ending) :], dim=1) == ending).all(dim=1)
            finished |= attention_mask.sum(dim=1) + 1 >= self.max_positions
            if bool(finished.all()):
                break
            embeds, context = self.language_model.get_input_embeddings()(answer[-1][:, None]), None
            image_positions = torch.zeros_like(answer[-1][:, None], dtype=torch.bool)
            attention_mask = nn.functional.pad(attention_mask, (0, 1), value=1)
        return torch.stack(answer, dim=1)

    def _check_length(self, input_ids: Tensor, more: int = 0) -> None:
        if (length := input_ids.shape[1] + more) > self.max_positions:
            raise ShapeError(f"a sequence of {length} tokens, and the decoder has {self.max_positions} positions")
