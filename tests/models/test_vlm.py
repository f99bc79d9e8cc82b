"""The whole model: images fill their slots, losses count labels alone, and generation does not depend on the batch."""

import pytest
import torch
from torch import Tensor, nn

from tinygptv.definitions.decoders.llama import Llama
from tinygptv.definitions.model import Model
from tinygptv.errors import ShapeError
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.sample import IGNORE_INDEX, IMAGE_SLOT

LLAMA = Llama(
    architecture="llama",
    width=32,
    depth=2,
    heads=4,
    key_value_heads=2,
    mlp_width=64,
    vocabulary=50,
    max_positions=64,
    rms_norm_eps=1e-5,
    qk_norm=True,
    attention_norm=True,
    weights="./unused",
    tokenizer="./unused",
)


@pytest.fixture(params=["phi", "llama"])
def model(request: pytest.FixtureRequest, definition: Model) -> VisionLanguageModel:
    """One of every decoder: what is said here holds for all."""
    torch.manual_seed(0)
    decoder = LLAMA if request.param == "llama" else definition.language_model
    return VisionLanguageModel(definition.model_copy(update={"language_model": decoder}), image_size=48).eval()


def test_images_fill_the_slots_in_reading_order(model: VisionLanguageModel, batch: dict[str, Tensor]) -> None:
    with torch.no_grad():
        embeds = model.inputs_embeds(batch["pixel_values"], batch["input_ids"])
        images = model.image_embeds(batch["pixel_values"])
        words = model.language_model.get_input_embeddings()(batch["input_ids"][2])
    torch.testing.assert_close(embeds[0, 1:4], images[0])
    torch.testing.assert_close(embeds[1, 1:4], images[1])
    torch.testing.assert_close(embeds[2], words)


def test_slots_and_images_that_do_not_match_are_refused_with_both_counts(
    model: VisionLanguageModel, batch: dict[str, Tensor]
) -> None:
    with pytest.raises(ShapeError, match="6 image slots but 1 images fill 3"):
        model.inputs_embeds(batch["pixel_values"][:1], batch["input_ids"])


def test_several_images_in_one_prompt(model: VisionLanguageModel) -> None:
    input_ids = torch.tensor([[5, *[IMAGE_SLOT] * 6, 7]])
    pixel_values = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        embeds = model.inputs_embeds(pixel_values, input_ids)
        torch.testing.assert_close(embeds[0, 4:7], model.image_embeds(pixel_values[1:])[0])


def test_the_loss_is_the_mean_over_labelled_tokens(model: VisionLanguageModel, batch: dict[str, Tensor]) -> None:
    with torch.no_grad():
        loss, logits = model(**batch)
        everywhere = model.logits(batch["pixel_values"], batch["input_ids"], batch["attention_mask"])
    expected = nn.functional.cross_entropy(
        everywhere[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE_INDEX
    )
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert len(logits) == (batch["labels"][:, 1:] != IGNORE_INDEX).sum()


def test_a_batch_without_labels_has_no_loss(model: VisionLanguageModel, batch: dict[str, Tensor]) -> None:
    loss, logits = model(**batch | {"labels": torch.full_like(batch["labels"], IGNORE_INDEX)})
    assert loss.item() == 0.0
    assert len(logits) == 0


def test_a_batch_of_text_alone_still_reaches_the_projections(
    model: VisionLanguageModel, batch: dict[str, Tensor]
) -> None:
    text = {name: tensor[2:] for name, tensor in batch.items() if name != "pixel_values"}
    loss, _ = model(pixel_values=torch.empty(0, 3, 48, 48), **text)
    loss.backward()
    gradient = model.connector[1].weight.grad
    assert gradient is not None
    assert not gradient.any()


def test_frozen_parts_stay_in_eval_mode(model: VisionLanguageModel) -> None:
    model.requires_grad_(False)
    model.connector[1].requires_grad_(True)
    model.train()
    assert model.language_model.training
    assert not any(module.training for module in model.vision_encoder.modules())
    assert not any(module.training for module in model.connector[0].modules())
    model.connector[0].requires_grad_(True)
    assert model.train().connector[0].training


def greedy(model: VisionLanguageModel, pixel_values: Tensor, input_ids: Tensor, steps: int) -> list[int]:
    """The obvious way: the whole sequence again for every token, one sample, no cache, no padding."""
    produced: list[int] = []
    for _ in range(steps):
        following = int(model.logits(pixel_values, input_ids, torch.ones_like(input_ids))[0, -1].argmax())
        produced.append(following)
        input_ids = torch.cat([input_ids, torch.tensor([[following]])], dim=1)
    return produced


def prompts() -> tuple[Tensor, Tensor, Tensor]:
    short = [IMAGE_SLOT] * 3 + [9, 8]
    long = [4] + [IMAGE_SLOT] * 3 + [7, 6, 5, 3]
    input_ids = torch.tensor([[0] * 3 + short, long])
    attention_mask = torch.tensor([[0] * 3 + [1] * 5, [1] * 8])
    torch.manual_seed(3)
    return torch.randn(2, 3, 48, 48), input_ids, attention_mask


def test_generation_in_a_padded_batch_is_that_of_each_prompt_alone(model: VisionLanguageModel) -> None:
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        pixel_values, input_ids, attention_mask = prompts()
        found = model.generate(pixel_values, input_ids, attention_mask, 6, stops=[[1]])
        for row in range(2):
            own = input_ids[row : row + 1, attention_mask[row].bool()]
            expected = greedy(model, pixel_values[row : row + 1], own, 6)
            expected = expected[: expected.index(1) + 1] if 1 in expected else expected
            assert found[row, : len(expected)].tolist() == expected


def test_each_sample_ends_with_its_own_stop(model: VisionLanguageModel) -> None:
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    pixel_values, input_ids, attention_mask = prompts()
    free = model.generate(pixel_values, input_ids, attention_mask, 5, stops=[[1]])
    stop = int(free[0, 0])
    stopped = model.generate(pixel_values, input_ids, attention_mask, 5, stops=[[stop]])
    assert stopped[0].tolist() == [stop] * stopped.shape[1]
    first = free[1].tolist().index(stop) + 1 if stop in free[1] else 5
    assert stopped[1, :first].tolist() == free[1, :first].tolist()


def test_a_stop_of_several_tokens_needs_all_of_them_in_a_row(model: VisionLanguageModel) -> None:
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    pixel_values, input_ids, attention_mask = prompts()
    free = model.generate(pixel_values, input_ids, attention_mask, 6, stops=[])
    run = free[0, 2:4].tolist()
    first_alone = [run[0], 49 if run[1] != 49 else 48]
    assert torch.equal(model.generate(pixel_values, input_ids, attention_mask, 6, stops=[first_alone])[0], free[0])
    stopped = model.generate(pixel_values, input_ids, attention_mask, 6, stops=[run, [first_alone[1], 0, 0]])
    end = next(n for n in range(2, 5) if free[0, n - 2 : n].tolist() == run)
    assert stopped[0, :end].tolist() == free[0, :end].tolist()
    assert (stopped[0, end:] == run[1]).all()


def test_no_sequence_runs_past_the_positions(model: VisionLanguageModel) -> None:
    model.max_positions = 7
    pixel_values, whole = torch.randn(1, 3, 48, 48), torch.tensor([[5, *[IMAGE_SLOT] * 3, 7, 8, 9, 6]])
    calls = [
        (7, lambda ids: model.logits(pixel_values, ids, torch.ones_like(ids))),
        (7, lambda ids: model(pixel_values, ids, torch.ones_like(ids), ids.clamp(min=0))),
        (6, lambda ids: model.generate(pixel_values, ids, torch.ones_like(ids), 3, stops=[])),  # and one to answer with
    ]
    for most, call in calls:
        call(whole[:, :most])
        with pytest.raises(ShapeError, match="a sequence of 8 tokens, and the decoder has 7 positions"):
            call(whole[:, : most + 1])


def test_an_answer_ends_where_its_own_positions_do(model: VisionLanguageModel) -> None:
    pixel_values = torch.randn(1, 3, 48, 48)
    image = [IMAGE_SLOT] * 3
    input_ids = torch.tensor([[0, 0, 0, 5, 6, 7], [5, *image, 6, 7]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1] * 6])
    free = model.generate(pixel_values, input_ids, mask, 8, stops=[])
    model.max_positions = 8
    cut = model.generate(pixel_values, input_ids, mask, 8, stops=[])
    assert torch.equal(cut[0, :5], free[0, :5])  # three tokens of a prompt, and five
    assert torch.equal(cut[1, :2], free[1, :2])
    assert cut.shape == (2, 5)
    assert (cut[1, 1:] == cut[1, 1]).all()
