"""Phase 3: a small stock Phi learns the language of the shapes world, and to answer about a scene it is told of.

In every eighth batch the scene is told in words. In the others each object is one vector, a throw-away linear map of
its attributes, somewhere among the slots where an image will be: Phi-2 has seen so much that it can read such soft
prompts, a model of this size has to be shown that they exist.
"""

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from tinygptv.bootstrap.corpus import BOX_CODE, batch_of_scenes, box_code, pad, rng_of
from tinygptv.bootstrap.loop import Step
from tinygptv.bootstrap.settings import Settings
from tinygptv.bootstrap.texts import Exchange, lesson
from tinygptv.data.shapes.scenes import COLOURS, GRID, KINDS, SIZES, Scene, SceneObject

_PARTS = (len(KINDS), len(COLOURS), len(SIZES), GRID, GRID)
_OBJECT = 1 + sum(_PARTS) + BOX_CODE
_CONTEXT_WEIGHT = 0.02  # descriptions and questions are random: all their loss can teach is wording


def phi_config(settings: Settings) -> PhiConfig:
    """A Phi-2 in small: parallel blocks, partial rotary embeddings, biases everywhere, no norm but its own."""
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
        hidden_act="gelu_pytorch_tanh",  # Phi's gelu_new, in one kernel
    )


class LanguagePretraining(nn.Module):
    """Phi, what stands in for image embeddings, and a penalty that keeps activations as TinyGPT-V's norms make them."""

    def __init__(self, settings: Settings, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.settings, self.tokenizer = settings, tokenizer
        self.phi = PhiForCausalLM(phi_config(settings))
        self.stand_in = nn.Linear(_OBJECT, settings.width)
        self.strain = NormStrain(self.phi)

    def step(self, number: int) -> Step:
        """The loss of one step on scenes and wordings never seen before."""
        rng = rng_of("language", number)
        scenes = batch_of_scenes("pretrain", number, self.settings.language.batch)
        return self.measure(scenes, rng, in_words=number % 8 == 0)

    def measure(self, scenes: list[Scene], rng: random.Random, in_words: bool) -> Step:
        """Loss, and how many answer tokens are right, with all scenes told in words or all in vectors."""
        said = [lesson(picture, rng) for picture in scenes]
        rows = [self._row(one, in_words) for one in said]
        input_ids, weights = pad([ids for ids, _, _ in rows], 0), pad([weights for _, weights, _ in rows], 0.0)
        present = pad([[1] * len(ids) for ids, _, _ in rows], 0).bool()
        embeds = self.phi.get_input_embeddings()(input_ids)
        if not in_words:
            slots = self.stand_in(torch.stack([self._slots(picture, rng) for picture in scenes]))
            starts = torch.tensor([start for _, _, start in rows])[:, None] + torch.arange(self.settings.query_tokens)
            embeds = embeds.scatter(1, starts[..., None].expand_as(slots), slots)
        logits = self.phi(inputs_embeds=embeds).logits[:, :-1]  # causal and padded on the right: no mask needed
        strain = self.strain.collect(present)
        targets = input_ids[:, 1:]
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        weights = weights[:, 1:]
        answers = weights > _CONTEXT_WEIGHT
        figures = {
            "answer_loss": losses.detach()[answers].mean().item(),
            "answer_tokens": (logits.detach().argmax(dim=-1) == targets)[answers].float().mean().item(),
            "strain": strain.item(),
        }
        loss = (losses * weights).sum() / weights.sum()
        return Step(loss + self.settings.norm_penalty * strain, figures)

    def _row(self, one: Exchange, in_words: bool) -> tuple[list[int], list[float], int]:
        """Token ids, the weight of each as a target, and where the description begins."""
        ids = [0, *self._encode(one.opening())]
        start = len(ids)
        ids += self._encode(one.description + " ") if in_words else [0] * self.settings.query_tokens
        weights = [_CONTEXT_WEIGHT] * start + [_CONTEXT_WEIGHT if in_words else 0.0] * (len(ids) - start)
        for text, learned in one.segments():
            piece = self._encode(text)
            ids += piece
            # A long answer counts for more than a short one, but not in proportion: one word can need as much insight.
            weights += [len(piece) ** -0.5 if learned else _CONTEXT_WEIGHT] * len(piece)
            if learned:  # an answer is over: the next turn begins like a new text
                ids.append(0)
                weights.append(_CONTEXT_WEIGHT)
        longest = self.settings.language_tokens
        return ids[:longest], weights[:longest], start

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _slots(self, picture: Scene, rng: random.Random) -> Tensor:
        slots = torch.zeros(self.settings.query_tokens, _OBJECT)
        places = rng.sample(range(len(slots)), len(picture.objects))
        for place, thing in zip(places, picture.objects, strict=True):
            slots[place] = torch.tensor(_attributes(thing))
        return slots


class NormStrain:
    """How far queries, keys and attention outputs are from zero mean and unit variance.

    TinyGPT-V later puts norms exactly there. Where activations already look normalised, inserting them changes little
    and stage 1 has little to repair.
    """

    def __init__(self, phi: PhiForCausalLM) -> None:
        self._seen: list[Tensor] = []
        for layer in phi.model.layers:
            attention = layer.self_attn
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.dense):
                nn.init.normal_(projection.weight, std=phi.config.hidden_size**-0.5)
            attention.q_proj.register_forward_hook(self._per_head(attention.head_dim))
            attention.k_proj.register_forward_hook(self._per_head(attention.head_dim))
            attention.dense.register_forward_hook(self._whole)

    def collect(self, present: Tensor) -> Tensor:
        """The mean strain of the last forward pass over tokens that are present (B, T)."""
        strain = torch.stack([seen[present].mean() for seen in self._seen]).mean()
        self._seen.clear()
        return strain

    def _per_head(self, head_dim: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            heads = output.unflatten(-1, (-1, head_dim))
            mean = heads.mean(dim=-1, keepdim=True)
            spread = (heads - mean).square().mean(dim=-1).add(1e-6).sqrt()
            self._seen.append(((spread - 1).square() + mean.squeeze(-1).square()).mean(dim=-1))

        return hook

    def _whole(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._seen.append((output.square().mean(dim=-1).add(1e-6).sqrt() - 1).square())


def _attributes(thing: SceneObject) -> list[float]:
    values = [1.0]
    words = (KINDS.index(thing.kind), COLOURS.index(thing.colour), SIZES.index(thing.size), thing.row, thing.column)
    for word, choices in zip(words, _PARTS, strict=True):
        values += [float(word == choice) for choice in range(choices)]
    return values + box_code(thing.box)
