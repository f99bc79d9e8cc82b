"""Batches: labels on answers alone, masks from lengths, and what the published implementation feeds its model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from tinygptv.artifacts import Manifest, Store
from tinygptv.data.batching import Batch, Collator, Loader, load_tokenizer
from tinygptv.data.mixing import mix
from tinygptv.data.prompts import render
from tinygptv.data.shapes.scenes import draw, scene
from tinygptv.data.shapes.tables import jpeg
from tinygptv.definitions.recipe import Inputs
from tinygptv.errors import DataError, DefinitionError
from tinygptv.sample import IGNORE_INDEX, IMAGE_SLOT, ImageReference, Sample, Turn

HUMAN = "###Human: {} ###Assistant: "
SLOTS = 8


def inputs(template: str | None = HUMAN, end_symbol: str = "###", most: int = 160) -> Inputs:
    return Inputs(image_size=16, max_text_tokens=most, template=template, end_symbol=end_symbol)


@pytest.fixture
def image(tmp_path: Path) -> ImageReference:
    path = tmp_path / "picture.jpg"
    path.write_bytes(jpeg(draw(scene("train", 0), 32)))
    return ImageReference(str(path))


def collated(collator: Collator, image: ImageReference | None, *conversations: Sequence[tuple[str, str]]) -> Batch:
    samples = [
        Sample(str(number), image, tuple(Turn(*turn) for turn in turns)) for number, turns in enumerate(conversations)
    ]
    template = collator.inputs.template
    return collator.training(samples, [render(sample, "conversation", template) for sample in samples])


def learned(batch: Batch, row: int, tokenizer: PreTrainedTokenizerFast) -> str:
    labels = batch.labels[row]
    return str(tokenizer.decode(labels[labels != IGNORE_INDEX].tolist()))


# Against the published implementation


def golden(shared: Path, stage: int, name: str = "io") -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    folder = shared / "golden" / "tinygptv" / f"stage{stage}"
    return json.loads((folder / "case.json").read_text()), load_file(folder / f"{name}.safetensors")


def without_padding(recorded: torch.Tensor, padding: int, batch: Batch) -> torch.Tensor:
    """It pads to the longest prompt plus the longest answer, even if they are of two samples; we to the longest."""
    length = batch.input_ids.shape[1]
    assert (recorded[:, length:] == padding).all()
    return recorded[:, :length]


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_labels_and_mask_are_those_of_the_published_implementation(
    shared: Path, image: ImageReference, stage: int
) -> None:
    case, expected = golden(shared, stage)
    tokenizer = load_tokenizer(shared / "golden" / "tinygptv" / "tokenizer")
    instructions = [
        text.removeprefix("###Human: ").removesuffix(" ###Assistant: ").removeprefix("<Img><ImageHere></Img> ")
        for text in case.get("instructions", ["", ""])
    ]
    settings = inputs(None, "\n") if stage < 3 else inputs()
    collator = Collator(tokenizer, settings, num_image_tokens=expected["image_embeds"].shape[1])
    batch = collated(collator, image, *([turn] for turn in zip(instructions, case["answers"], strict=True)))
    assert torch.equal(batch.labels, without_padding(expected["labels"], IGNORE_INDEX, batch))
    assert torch.equal(batch.attention_mask, without_padding(expected["attention_mask"], 0, batch))


def test_a_conversation_is_the_published_one_but_for_its_masked_bos(shared: Path, image: ImageReference) -> None:
    case, expected = golden(shared, 4, "conversation_io")
    tokenizer = load_tokenizer(shared / "golden" / "tinygptv" / "tokenizer")
    questions, answers = ([text.split("!@#") for text in case["conversation"][side]] for side in ("conv_q", "conv_a"))
    conversations = [
        [(q.removeprefix("<Img><ImageHere></Img> "), a) for q, a in zip(asked, answered, strict=True)]
        for asked, answered in zip(questions, answers, strict=True)
    ]
    batch = collated(Collator(tokenizer, inputs(), num_image_tokens=SLOTS), image, *conversations)
    assert torch.equal(batch.labels, without_padding(expected["labels"], IGNORE_INDEX, batch))
    inner_bos = (batch.input_ids == tokenizer.bos_token_id) & (batch.attention_mask == 1)
    inner_bos[:, 0] = False
    published = without_padding(expected["attention_mask"], 0, batch)
    assert torch.equal(batch.attention_mask - inner_bos.long(), published)
    assert inner_bos.sum() == 2


def test_token_ids_meet_the_embeddings_that_the_published_implementation_used(
    shared: Path, image: ImageReference
) -> None:
    """Equal ids have equal rows in its recorded inputs, so our ids are its ids wherever text stands."""
    case, expected = golden(shared, 3)
    tokenizer = load_tokenizer(shared / "golden" / "tinygptv" / "tokenizer")
    table = load_file(shared / "golden" / "tinygptv" / "backbones" / "phi-2" / "model.safetensors")
    embeddings = next(tensor for name, tensor in table.items() if name.endswith("embed_tokens.weight"))
    collator = Collator(tokenizer, inputs(), num_image_tokens=SLOTS)
    instructions = [text.split("</Img> ")[1].removesuffix(" ###Assistant: ") for text in case["instructions"]]
    batch = collated(collator, image, *([turn] for turn in zip(instructions, case["answers"], strict=True)))
    text = (batch.input_ids != IMAGE_SLOT) & (batch.attention_mask == 1)
    assert torch.allclose(embeddings[batch.input_ids[text]], expected["inputs_embeds"][text], atol=1e-6)
    assert torch.allclose(expected["image_embeds"].flatten(0, 1), expected["inputs_embeds"][batch.input_ids == -1])


# By hand


def test_only_answers_and_end_symbols_are_learned(
    byte_tokenizer: PreTrainedTokenizerFast, image: ImageReference
) -> None:
    collator = Collator(byte_tokenizer, inputs(), SLOTS)
    batch = collated(collator, image, [("who?", "a cat."), ("where?", "here")], [("what?", "a dog")])
    assert learned(batch, 0, byte_tokenizer) == "a cat.###here###"
    assert learned(batch, 1, byte_tokenizer) == "a dog###"
    told = batch.labels != IGNORE_INDEX
    assert torch.equal(batch.labels[told], batch.input_ids[told])
    assert (batch.input_ids == IMAGE_SLOT).sum(dim=1).tolist() == [SLOTS, SLOTS]
    assert batch.pixel_values.shape == (2, 3, 16, 16)
    assert batch.attention_mask.sum(dim=1).tolist() == [
        1 + len("###Human: <Img>") + SLOTS + len("</Img> who? ###Assistant: a cat.###")
        + 1 + len("###Human: where? ###Assistant: here###"),
        1 + len("###Human: <Img>") + SLOTS + len("</Img> what? ###Assistant: a dog###"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["x" * 50], "x" * 17 + "###"),
        (["x" * 17], "x" * 17 + "###"),
        (["x" * 16], "x" * 16 + "###"),
        (["", "y"], "###"),
        (["x" * 17, "no room"], "x" * 17 + "###"),
    ],
)
def test_an_answer_that_is_too_long_loses_its_tail_and_never_its_end_symbol(
    byte_tokenizer: PreTrainedTokenizerFast, image: ImageReference, answers: list[str], expected: str
) -> None:
    collator = Collator(byte_tokenizer, inputs(most=20), SLOTS)
    batch = collated(collator, image, [("q", answer) for answer in answers])
    assert learned(batch, 0, byte_tokenizer) == expected


def test_later_turns_share_the_budget_and_the_last_one_is_cut(
    byte_tokenizer: PreTrainedTokenizerFast, image: ImageReference
) -> None:
    second_prompt = 1 + len("###Human: b ###Assistant: ")
    collator = Collator(byte_tokenizer, inputs(most=7 + second_prompt + 5), SLOTS)
    batch = collated(collator, image, [("a", "four"), ("b", "123456")])
    assert learned(batch, 0, byte_tokenizer) == "four###12###"


def test_text_only_samples_have_no_image_slots_and_no_pixels(
    byte_tokenizer: PreTrainedTokenizerFast, image: ImageReference
) -> None:
    collator = Collator(byte_tokenizer, inputs(), SLOTS)
    samples = [Sample("a", None, (Turn("who?", "she"),)), Sample("b", image, (Turn("what?", "cat"),))]
    batch = collator.training(samples, [render(sample, "conversation", HUMAN) for sample in samples])
    assert (batch.input_ids == IMAGE_SLOT).sum(dim=1).tolist() == [0, SLOTS]
    assert batch.pixel_values.shape == (1, 3, 16, 16)
    alone = collated(collator, None, [("who?", "she")])
    assert alone.pixel_values.shape == (0, 3, 16, 16)


def test_several_images_in_one_prompt_each_get_their_slots(
    byte_tokenizer: PreTrainedTokenizerFast, image: ImageReference
) -> None:
    collator = Collator(byte_tokenizer, inputs(), SLOTS)
    prompt = "compare <ImageHere> with <ImageHere>: "
    batch = collator.training([Sample("a", image, (Turn("", ""),))], [(Turn(prompt, "same"),)])
    assert (batch.input_ids == IMAGE_SLOT).sum() == 2 * SLOTS
    assert batch.pixel_values.shape[0] == 2


def test_prompts_for_generation_end_where_the_answer_begins(
    byte_tokenizer: PreTrainedTokenizerFast, image: ImageReference
) -> None:
    collator = Collator(byte_tokenizer, inputs(), SLOTS)
    samples = [Sample(str(n), image, (Turn("is it red?"[: 5 * n + 5], "yes"),)) for n in range(2)]
    batch = collator.prompts(samples, "vqa")
    ends = [byte_tokenizer.decode(row[-14:].tolist()) for row in batch.input_ids]
    assert ends == [" ###Assistant:"[-13:] + " "] * 2
    assert batch.attention_mask[:, -1].tolist() == [1, 1]
    assert batch.attention_mask[0].tolist() == sorted(batch.attention_mask[0].tolist())
    assert (batch.labels == IGNORE_INDEX).all()
    assert byte_tokenizer.decode(collator.end_ids) == "###"


def test_a_prompt_that_shows_an_image_its_sample_lacks_is_named(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    collator = Collator(byte_tokenizer, inputs(), SLOTS)
    with pytest.raises(DataError, match="made_up, key7: its prompt shows an image"):
        collator.training([Sample("key7", None, (Turn("", ""),), source="made_up")], [(Turn("<ImageHere>", "a"),)])


@pytest.mark.parametrize(("end_symbol", "most"), [("", 20), ("###", 3), ("###", 2)])
def test_an_end_symbol_that_leaves_no_room_is_refused(
    byte_tokenizer: PreTrainedTokenizerFast, end_symbol: str, most: int
) -> None:
    with pytest.raises(DefinitionError, match="end_symbol"):
        Collator(byte_tokenizer, inputs(end_symbol=end_symbol, most=most), SLOTS)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"no tokenizer.json"):
        load_tokenizer(tmp_path)


def test_a_saved_tokenizer_is_loaded(byte_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    byte_tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).encode("a cat") == byte_tokenizer.encode("a cat")


# The loader


@pytest.fixture
def loader(store: Store, pairs: Manifest, byte_tokenizer: PreTrainedTokenizerFast) -> Loader:
    artifact = mix(store, "tiny_pairs", pairs).artifact
    return Loader(
        store, artifact, inputs(None, "\n"), byte_tokenizer, num_image_tokens=SLOTS, global_batch_size=8, seed=5
    )


def test_equal_arguments_give_equal_bytes_in_any_order_of_asking(loader: Loader) -> None:
    first = [loader.batch(step) for step in range(6)]
    for step in (5, 0, 3):
        again = loader.batch(step)
        assert again.keys == first[step].keys
        for name in ("pixel_values", "input_ids", "attention_mask", "labels"):
            assert torch.equal(getattr(again, name), getattr(first[step], name))


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("micro", [1, 3, 8])
def test_any_number_of_ranks_and_pieces_sees_the_same_samples(loader: Loader, ranks: int, micro: int) -> None:
    whole = loader.batch(4)
    pieces = [piece for rank in range(ranks) for piece in loader.micro_batches(4, rank, ranks, micro)]
    assert tuple(key for piece in pieces for key in piece.keys) == whole.keys
    assert torch.equal(torch.cat([piece.pixel_values for piece in pieces]), whole.pixel_values)
    assert sum(int((piece.labels != IGNORE_INDEX).sum()) for piece in pieces) == int(
        (whole.labels != IGNORE_INDEX).sum()
    )


def test_ranks_that_do_not_divide_the_batch_are_refused(loader: Loader) -> None:
    with pytest.raises(DefinitionError, match="3 ranks cannot share a global batch of 8"):
        loader.batch(0, rank=0, ranks=3)


@pytest.mark.usefixtures("small_corpus")
def test_a_multitask_batch_mixes_tasks_and_learns_only_answers(
    store: Store, pairs: Manifest, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    artifact = mix(store, "tiny_multitask", pairs).artifact
    loader = Loader(store, artifact, inputs(), byte_tokenizer, num_image_tokens=SLOTS, global_batch_size=64, seed=1)
    batch = loader.batch(0)
    assert len(set(batch.sources)) > 5
    assert batch.pixel_values.shape == (64, 3, 16, 16)
    for row, source in enumerate(batch.sources):
        text = learned(batch, row, byte_tokenizer)
        assert text.endswith("###")
        if source == "shapes_statements":
            assert text in ("true###", "false###")
        if source == "shapes_refer":
            assert text.startswith("{<")
            assert text.endswith(">}###")
