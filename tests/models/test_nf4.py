"""Maps in 4 bits: which, how near to the whole ones, how small; and that adapters learn beside them."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.models.test_sizes import full_size
from tinygptv import catalog
from tinygptv.data.batches.batching import load_tokenizer
from tinygptv.data.pictures.normalising import normalise
from tinygptv.data.prompting.sequences import Sequences, Texts
from tinygptv.models import nf4
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import empty_model, load_weights, parameters_by_name
from tinygptv.sample import Turn
from tinygptv.shapes.language import detailed_description
from tinygptv.shapes.scenes import draw, scene
from tinygptv.store.locations import local_path
from tinygptv.train.assemble import set_up
from tinygptv.train.engine import parameter_groups
from tinygptv.train.lineage import adapters

TINY = catalog.recipe("tinygptv_tiny")
STAGE = TINY.stage("stage2")
WIDTH, DEPTH = 2560, 32


class One(nn.Module):
    """A model of one map."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__()
        self.map = nn.Linear(incoming, outgoing)


@pytest.mark.parametrize(
    ("recipe", "weights"),
    [
        ("tinygptv", DEPTH * (3 + 1 + 4 + 4) * WIDTH**2),
        # 22 layers of queries and outputs, keys and values of 4 heads of 64, and three maps of the feed-forward.
        ("tinygptv_tinyllama", 22 * (2 * 2048**2 + 2 * 2048 * 256 + 3 * 2048 * 5632)),
    ],
)
def test_the_maps_are_those_of_attention_and_feed_forward_without_their_adapters(recipe: str, weights: int) -> None:
    found = nf4.map_weights(full_size(recipe, "stage2"))
    assert sum(found.values()) == weights
    assert not [name for name in found if "lora" in name or "norm" in name or "lm_head" in name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_and_its_gradient_are_those_of_the_rounded_map(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = One(128, 192).to(dtype)
    weight, bias = model.map.weight.detach(), model.map.bias
    nf4.use_nf4(model, "map", weight)
    assert model.map.bias is bias
    states = torch.randn(5, 128, dtype=dtype, requires_grad=True)
    # What it multiplies with, one row at a time; the bias taken off.
    rounded = (model.map(torch.eye(128, dtype=dtype)) - bias).detach().t()
    error = ((rounded - weight).norm() / weight.norm()).item()
    assert 0.05 < error < 0.12
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    found = model.train().map(states)
    torch.testing.assert_close(found, nn.functional.linear(states, rounded, bias), **close)
    (gradient,) = torch.autograd.grad(found.sum(), states)
    torch.testing.assert_close(gradient, rounded.sum(dim=0).expand_as(states), **close)


def test_a_map_weighs_what_is_planned() -> None:
    model = One(1024, 1024)
    nf4.use_nf4(model, "map", model.map.weight.detach().bfloat16())
    state = model.map.weight.quant_state
    held = [model.map.weight.data, state.absmax, state.state2.absmax]
    tables = [state.code, state.state2.code, state.offset]
    assert sum(tensor.nbytes for tensor in held) == pytest.approx(1024**2 * nf4.BYTES_PER_WEIGHT, rel=1e-4)
    assert sum(tensor.nbytes for tensor in tables) < 2_000


def tiny(in_nf4: bool) -> VisionLanguageModel:
    """The tiny recipe's second stage with its pretrained backbones, ready to be trained."""
    model = empty_model(TINY.model, STAGE.inputs.image_size, adapters(TINY, STAGE))
    maps = nf4.map_weights(parameters_by_name(model)) if in_nf4 else ()
    load_weights(model, TINY.model, in_nf4=maps)
    return set_up(model, TINY.model, STAGE, gradient_checkpointing=False)


def drawn(number: int) -> tuple[Tensor, Texts]:
    """Pixels and texts of eight scenes and their descriptions."""
    scenes, rng = [scene("train", 8 * number + place) for place in range(8)], random.Random(number)
    pictures = [np.asarray(draw(one, STAGE.inputs.image_size).convert("RGB")) for one in scenes]
    pixels = normalise(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))
    tokenizer = load_tokenizer(local_path(TINY.model.language_model.tokenizer))
    turns = [(Turn("<Img><ImageHere></Img>", detailed_description(one, rng)),) for one in scenes]
    bare = TINY.stage("stage1").inputs  # pictures and descriptions alone
    sequences = Sequences(tokenizer, bare, TINY.model.num_image_tokens(STAGE.inputs.image_size))
    return pixels, sequences.training(turns)


def learn(model: VisionLanguageModel, steps: int) -> list[float]:
    """The losses of some steps; dropout is the same in every call."""
    # Without a warm-up a higher rate makes the first steps a matter of luck.
    optimizer = torch.optim.AdamW(parameter_groups(model, STAGE.optimizer), lr=1e-3)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        pixels, texts = drawn(step)
        loss, _ = model(pixels, *texts)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_the_tiny_recipe_learns_beside_four_bits_nearly_as_beside_the_whole() -> None:
    whole, rounded = tiny(in_nf4=False), tiny(in_nf4=True)
    losses, expected = learn(rounded, 20), learn(whole, 20)
    assert losses[-1] < 0.3 * losses[0]
    assert losses == pytest.approx(expected, rel=0.1)
    assert sum(losses[-10:]) == pytest.approx(sum(expected[-10:]), rel=0.02)


def test_nothing_but_the_maps_is_rounded_and_all_is_in_training_mode() -> None:
    whole, rounded = parameters_by_name(tiny(in_nf4=False)), parameters_by_name(tiny(in_nf4=True))
    maps = nf4.map_weights(whole)
    assert len(maps) == 4 * TINY.model.language_model.depth
    assert whole.keys() == rounded.keys()
    for name, parameter in rounded.items():
        assert parameter.requires_grad == whole[name].requires_grad
        assert (parameter.dtype == torch.uint8) if name in maps else torch.equal(parameter, whole[name])
    assert all(module.training for module in tiny(in_nf4=True).language_model.modules())
