"""Phase 3: a small standard Phi learns the language of the shapes world, and to answer questions about a given scene.

In every eighth batch the scene is given in words. In the others each object is one vector, a linear map of its
attributes that is discarded later, placed among the slots where the image will be: Phi-2 has seen enough data to read
such soft prompts, but a model of this size must be trained on them.

Two additions make training feasible within an hour. Auxiliary heads predict, at every word of a question that narrows
its subject, how many objects still fit and which (see `mentions`). And in every second batch the norms that TinyGPT-V
will insert are already present, so that inserting them later changes little.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from tinygptv.models.decoder import ATTENTION_NORM_EPS, QK_NORM_EPS
from tinygptv.shapes.bootstrap.corpus import (
    BOX_CODE,
    ObjectHead,
    batch_of_scenes,
    box_code,
    object_targets,
    pad,
    rng_of,
)
from tinygptv.shapes.bootstrap.loop import Step
from tinygptv.shapes.bootstrap.mentions import mentions
from tinygptv.shapes.bootstrap.settings import Settings
from tinygptv.shapes.bootstrap.texts import TEMPLATE, Exchange, Turn, lesson
from tinygptv.shapes.scenes import COLOURS, GRID, KINDS, MAX_OBJECTS, SIZES, Scene, SceneObject

_PARTS = (len(KINDS), len(COLOURS), len(SIZES), GRID, GRID)
_OBJECT = 1 + sum(_PARTS) + BOX_CODE


def phi_config(settings: Settings) -> PhiConfig:
    """A small Phi-2: parallel blocks, partial rotary embeddings, biases everywhere, only its own norms."""
    return PhiConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.width,
        intermediate_size=4 * settings.width,
        num_hidden_layers=settings.language_layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
        tie_word_embeddings=False,
        hidden_act="gelu_pytorch_tanh",  # Phi's gelu_new, fused
    )


@dataclass(frozen=True)
class Row:
    """Token ids, the loss weight of each, the start of the description, and the objects mentioned at each token."""

    ids: list[int]
    weights: list[float]
    start: int
    mentions: list[tuple[int, tuple[SceneObject, ...]]]


class LanguagePretraining(nn.Module):
    """Phi, a stand-in for image embeddings, and auxiliary heads for mentions; only Phi is kept."""

    def __init__(self, settings: Settings, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.settings, self.tokenizer = settings, tokenizer
        self.phi = PhiForCausalLM(phi_config(settings))
        self.stand_in = nn.Linear(_OBJECT, settings.width)
        self.norms = Norms(self.phi)
        self.objects, self.number = ObjectHead(settings.width), nn.Linear(settings.width, MAX_OBJECTS + 1)

    def step(self, number: int) -> Step:
        """The loss of one step on new scenes and wordings."""
        rng = rng_of("language", number)
        self.norms.inserted = number % 2 == 1
        scenes = batch_of_scenes("pretrain", number, self.settings.language.batch)
        return self.measure(scenes, rng, in_words=number % 8 == 0)

    def measure(self, scenes: list[Scene], rng: random.Random, in_words: bool) -> Step:
        """Loss and share of correct answer tokens, with the scenes given in words or as vectors."""
        rows = [self._row(picture, lesson(picture, rng), in_words) for picture in scenes]
        input_ids, weights = pad([row.ids for row in rows], 0), pad([row.weights for row in rows], 0.0)
        present = pad([[1] * len(row.ids) for row in rows], 0).bool()
        slots = None if in_words else self.slots(scenes, rng)
        middle, hidden = self.hidden(input_ids, [row.start for row in rows], slots)
        strain = self.norms.strain(present)
        spoken_of, accuracy = self._spoken_of(middle, rows)
        learned = weights[:, 1:] > 0
        logits = self.phi.lm_head(hidden[:, :-1][learned])
        targets, weights = input_ids[:, 1:][learned], weights[:, 1:][learned]
        losses = nn.functional.cross_entropy(logits, targets, reduction="none")
        figures = {
            "answer_loss": losses.detach().mean().item(),
            "answer_tokens": (logits.detach().argmax(dim=-1) == targets).float().mean().item(),
            "strain": strain.item(),
            **accuracy,
        }
        loss = (losses * weights).sum() / weights.sum()
        return Step(loss + self.settings.norm_penalty * strain + self.settings.mention_weight * spoken_of, figures)

    def hidden(self, input_ids: Tensor, starts: list[int], slots: Tensor | None) -> tuple[Tensor, Tensor]:
        """Hidden states after the mention layer, and final ones: (B, T) -> twice (B, T, D).

        From each row's start, embeddings of the `slots` replace those of the ids.
        """
        embeds = self.phi.get_input_embeddings()(input_ids)
        if slots is not None:
            stand_in = self.stand_in(slots)
            places = torch.tensor(starts)[:, None] + torch.arange(self.settings.query_tokens)
            embeds = embeds.scatter(1, places[..., None].expand_as(stand_in), stand_in)
        # Causal and right-padded: no mask needed.
        self.norms.clear()
        states = self.phi.model(inputs_embeds=embeds, use_cache=False, output_hidden_states=True)
        return states.hidden_states[self.settings.mention_layer], states.last_hidden_state

    def _spoken_of(self, middle: Tensor, rows: list[Row]) -> tuple[Tensor, dict[str, float]]:
        """Loss of the auxiliary heads: at every mention, how many objects fit, and which, if it is one."""
        spots = torch.tensor([(row, place) for row, one in enumerate(rows) for place, _ in one.mentions])
        fitting = [objects for one in rows for _, objects in one.mentions]
        if not fitting:
            return middle.new_zeros(()), {}
        hidden = middle[spots[:, 0], spots[:, 1]]
        loss, figures = self.objects(hidden[None], object_targets([[f[0] if len(f) == 1 else None for f in fitting]]))
        numbers = torch.tensor([len(f) for f in fitting])
        logits = self.number(hidden)
        right = (logits.detach().argmax(dim=-1) == numbers).float().mean().item()
        figures = {f"mention_{part}": figures[part] for part in ("kind", "row", "column", "box_error")}
        # The number counts double: it is learned last, since it depends on all objects.
        return loss + 2 * nn.functional.cross_entropy(logits, numbers), {"mention_number": right, **figures}

    def _row(self, picture: Scene, one: Exchange, in_words: bool) -> Row:
        ids = [0, *self._encode(one.opening())]
        start = len(ids)
        ids += self._encode(one.description + " ") if in_words else [0] * self.settings.query_tokens
        weights = [0.0] * len(ids)
        spoken_of: list[tuple[int, tuple[SceneObject, ...]]] = []
        for text, learned in one.segments():
            piece = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
            if not learned:
                place_of = {end: place for place, (_, end) in enumerate(piece.offsets, len(ids))}
                spoken_of += [(place_of[said.end], said.objects) for said in mentions(text, picture)]
            ids += piece.ids
            # Long answers weigh more than short ones, but less than proportionally: one word can be just as hard.
            weights += [len(piece) ** -0.5 if learned else 0.0] * len(piece)
            if learned:  # end of an answer: the next turn begins like a new text
                ids.append(0)
                weights.append(0.0)
        longest = self.settings.language_tokens
        return Row(ids[:longest], weights[:longest], start, [said for said in spoken_of if said[0] < longest])

    def answers(self, scenes: list[Scene], turns: list[Turn], rng: random.Random, longest: int) -> list[str]:
        """Greedy answers about scenes given as vectors."""
        exchanges = [Exchange("", (replace(turn, answer=""),), TEMPLATE) for turn in turns]
        asked = [(one.opening(), next(text for text, _ in one.segments())) for one in exchanges]
        starts = [1 + len(self._encode(opening)) for opening, _ in asked]
        blank = [0] * self.settings.query_tokens
        rows = [[0, *self._encode(opening), *blank, *self._encode(text)] for opening, text in asked]
        lengths, slots = [len(row) for row in rows], self.slots(scenes, rng)
        for _ in range(longest):
            _, hidden = self.hidden(pad(rows, 0), starts, slots)
            last = hidden[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
            for row, word in zip(rows, self.phi.lm_head(last).argmax(dim=-1).tolist(), strict=True):
                row.append(word)
        said = self.tokenizer.batch_decode([row[length:] for row, length in zip(rows, lengths, strict=True)])
        return [text.split(TEMPLATE[2])[0] for text in said]

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def slots(self, scenes: list[Scene], rng: random.Random) -> Tensor:
        """The objects' attributes of each scene, placed among the slots of an image: (B, slots, attributes)."""
        return torch.stack([self._slots(picture, rng) for picture in scenes])

    def _slots(self, picture: Scene, rng: random.Random) -> Tensor:
        noise = torch.Generator().manual_seed(rng.getrandbits(32))
        slots = self.settings.slot_noise * torch.randn(self.settings.query_tokens, _OBJECT, generator=noise)
        places = rng.sample(range(len(slots)), len(picture.objects))
        for place, thing in zip(places, picture.objects, strict=True):
            slots[place] += torch.tensor(_attributes(thing))
        return slots


class Norms:
    """The norms that TinyGPT-V puts on queries, keys and attention outputs, and a penalty for needing them.

    If activations already have zero mean and unit variance, inserting the norms changes little and stage 1 has little
    to repair. The strain is a loss that measures the deviation; `inserted` activates the norms.
    """

    def __init__(self, phi: PhiForCausalLM) -> None:
        self.inserted = False
        self._seen: list[Tensor] = []
        for layer in phi.model.layers:
            attention = layer.self_attn
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.dense):
                nn.init.normal_(projection.weight, std=phi.config.hidden_size**-0.5)
            attention.q_proj.register_forward_hook(self._per_head(attention.head_dim))
            attention.k_proj.register_forward_hook(self._per_head(attention.head_dim))
            attention.dense.register_forward_hook(self._whole)

    def strain(self, present: Tensor) -> Tensor:
        """Mean strain of the last forward pass over the tokens that are present (B, T)."""
        return torch.stack([seen[present].mean() for seen in self._seen]).mean()

    def clear(self) -> None:
        """Discard the last forward pass."""
        self._seen.clear()

    def _per_head(self, head_dim: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            heads = output.unflatten(-1, (-1, head_dim))
            mean = heads.mean(dim=-1, keepdim=True)
            spread = (heads - mean).square().mean(dim=-1, keepdim=True).add(QK_NORM_EPS).sqrt()
            self._seen.append(((spread - 1).square() + mean.square()).squeeze(-1).mean(dim=-1))
            return ((heads - mean) / spread).flatten(-2) if self.inserted else output

        return hook

    def _whole(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        size = output.square().mean(dim=-1, keepdim=True).add(ATTENTION_NORM_EPS).sqrt()
        self._seen.append((size.squeeze(-1) - 1).square())
        return output / size if self.inserted else output


def _attributes(thing: SceneObject) -> list[float]:
    values = [1.0]
    words = (KINDS.index(thing.kind), COLOURS.index(thing.colour), SIZES.index(thing.size), thing.row, thing.column)
    for word, choices in zip(words, _PARTS, strict=True):
        values += [float(word == choice) for choice in range(choices)]
    return values + box_code(thing.box)
