"""A step's tensors all lie on the device: model, batch, losses, what is generated, and the published loop."""

import copy
from pathlib import Path

import pytest
import torch

from benchmarks.reference_loop import ReferenceLoop
from tests.pretended_gpu import PretendedGpu
from tests.train.small import small_recipe, write_backbones
from tinygptv.data.batches.batching import Batch, load_tokenizer
from tinygptv.data.batches.packing import pack
from tinygptv.data.prompting.sequences import Sequences
from tinygptv.definitions.recipe import Recipe
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.sample import Turn
from tinygptv.train.assemble import set_up
from tinygptv.train.lineage import adapters
from tinygptv.train.metrics import Losses
from tinygptv.train.objectives.next_token import OBJECTIVE, PART

CAPTIONS = ("a red picture", "blue", "green and white", "red")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("gpu")
    recipe = small_recipe(folder)
    write_backbones(folder, recipe)
    return recipe


@pytest.fixture
def model(recipe: Recipe) -> VisionLanguageModel:
    stage = recipe.stage("stage2")
    torch.manual_seed(0)
    model = VisionLanguageModel(recipe.model, stage.inputs.image_size, adapters(recipe, stage))
    return set_up(model, recipe.model, stage, gradient_checkpointing=False)


def batch(recipe: Recipe, model: VisionLanguageModel, packing: bool) -> Batch:
    inputs = recipe.stage("stage2").inputs
    tokenizer = load_tokenizer(Path(recipe.model.language_model.tokenizer))
    texts = Sequences(tokenizer, inputs, model.num_image_tokens).training(
        [(Turn("<ImageHere>", caption),) for caption in CAPTIONS]
    )
    packed = pack(texts) if packing else None
    side = inputs.image_size
    return Batch(
        torch.randint(0, 256, (len(CAPTIONS), 3, side, side), dtype=torch.uint8),
        *(packed.texts if packed else texts),
        keys=CAPTIONS,
        sources=("words",) * len(CAPTIONS),
        position_ids=packed.position_ids if packed else None,
    )


@pytest.mark.parametrize("packing", [False, True])
def test_a_step_and_its_losses_stay_on_the_device(recipe: Recipe, model: VisionLanguageModel, packing: bool) -> None:
    made = batch(recipe, model, packing)
    assert (made.position_ids is not None) == packing
    texts = (made.input_ids, made.attention_mask, made.labels, made.position_ids)
    expected, _ = copy.deepcopy(model)(made.images(), *texts)
    with PretendedGpu() as gpu:
        there = model.to("cuda")
        device = next(there.parameters()).device
        loss, logits = there(made.images(device), *(None if one is None else one.to(device) for one in texts))
        loss.backward()
        losses = Losses(OBJECTIVE.parts, ["words"], device)
        losses.add(PART, loss.detach(), logits.detach(), OBJECTIVE.terms(made)[PART], made.sources)
        trained = [parameter for parameter in there.parameters() if parameter.requires_grad]
        assert all(parameter.grad is not None and gpu.holds(parameter.grad) for parameter in trained)
        assert gpu.holds(losses.sums)
        assert losses.by_source()["words"] == pytest.approx(loss.item(), abs=1e-5)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_words_alone_stay_on_the_device(recipe: Recipe, model: VisionLanguageModel) -> None:
    with PretendedGpu() as gpu:
        there = model.to("cuda")
        ids = torch.ones(2, 5, dtype=torch.int64, device="cuda")
        side = recipe.stage("stage2").inputs.image_size
        loss, _ = there(torch.zeros(0, 3, side, side, device="cuda"), ids, torch.ones_like(ids), ids)
        loss.backward()
        assert gpu.holds(loss)


def test_an_answer_is_generated_on_the_device(recipe: Recipe, model: VisionLanguageModel) -> None:
    made = batch(recipe, model, packing=False)
    with PretendedGpu() as gpu:
        there = model.eval().to("cuda")
        answer = there.generate(
            made.images("cuda"), made.input_ids.to("cuda"), made.attention_mask.to("cuda"), 4, [(3,), (1, 2)]
        )
        assert gpu.holds(answer)


def test_the_published_loop_stays_on_the_device(recipe: Recipe, model: VisionLanguageModel) -> None:
    made, inputs = batch(recipe, model, packing=False), recipe.stage("stage2").inputs
    loop = ReferenceLoop(model, load_tokenizer(Path(recipe.model.language_model.tokenizer)), inputs)
    with PretendedGpu() as gpu:
        loop.to("cuda")
        loss = loop(made.images("cuda"), ["<ImageHere>"] * len(CAPTIONS), CAPTIONS)
        loss.backward()
        assert gpu.holds(loss)
