"""Batches: texts with the pictures they show, and any step, any rank's share, at any time."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tinygptv.data.batches.batching import STAND_INS, Batch, Collator, Loader, load_tokenizer
from tinygptv.data.batches.packing import FULL
from tinygptv.data.mixtures.mixing import mix
from tinygptv.data.prompting.prompts import WORDINGS, render
from tinygptv.definitions.recipe import Inputs, Oddity
from tinygptv.errors import DataError, DefinitionError
from tinygptv.sample import IGNORE_INDEX, IMAGE_SLOT, ImageReference, Sample, Turn
from tinygptv.shapes.scenes import draw, scene
from tinygptv.shapes.tables import jpeg
from tinygptv.store.artifacts import Manifest, Store

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
    shown = () if image is None else (image,)
    samples = [
        Sample(str(number), shown, tuple(Turn(*turn) for turn in turns)) for number, turns in enumerate(conversations)
    ]
    return collator.training(samples, [render(sample, "conversation", collator.inputs) for sample in samples])


def learned(batch: Batch, row: int, tokenizer: PreTrainedTokenizerFast) -> str:
    labels = batch.labels[row]
    return str(tokenizer.decode(labels[labels != IGNORE_INDEX].tolist()))


def test_text_only_samples_have_no_image_slots_and_no_pixels(
    byte_tokenizer: PreTrainedTokenizerFast, image: ImageReference
) -> None:
    collator = Collator(byte_tokenizer, inputs(), SLOTS)
    samples = [Sample("a", (), (Turn("who?", "she"),)), Sample("b", (image,), (Turn("what?", "cat"),))]
    batch = collator.training(samples, [render(sample, "conversation", inputs()) for sample in samples])
    assert (batch.input_ids == IMAGE_SLOT).sum(dim=1).tolist() == [0, SLOTS]
    assert batch.pixels.shape == (1, 3, 16, 16)
    alone = collated(collator, None, [("who?", "she")])
    assert alone.pixels.shape == (0, 3, 16, 16)


def test_several_images_in_one_prompt_each_get_their_slots(
    byte_tokenizer: PreTrainedTokenizerFast, image: ImageReference
) -> None:
    collator = Collator(byte_tokenizer, inputs(), SLOTS)
    prompt = "compare <ImageHere> with <ImageHere>: "
    batch = collator.training([Sample("a", (image, image), (Turn("", ""),))], [(Turn(prompt, "same"),)])
    assert (batch.input_ids == IMAGE_SLOT).sum() == 2 * SLOTS
    assert batch.pixels.shape[0] == 2


def test_prompts_for_generation_end_where_the_answer_begins(
    byte_tokenizer: PreTrainedTokenizerFast, image: ImageReference
) -> None:
    collator = Collator(byte_tokenizer, inputs(), SLOTS)
    samples = [Sample(str(n), (image,), (Turn("is it red?"[: 5 * n + 5], "yes"),)) for n in range(2)]
    batch = collator.prompts(samples, "vqa")
    ends = [byte_tokenizer.decode(row[-14:].tolist()) for row in batch.input_ids]
    assert ends == [" ###Assistant:"[-13:] + " "] * 2
    assert batch.attention_mask[:, -1].tolist() == [1, 1]
    assert batch.attention_mask[0].tolist() == sorted(batch.attention_mask[0].tolist())
    assert (batch.labels == IGNORE_INDEX).all()


def test_a_prompt_that_shows_an_image_its_sample_lacks_is_named(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    collator = Collator(byte_tokenizer, inputs(), SLOTS)
    with pytest.raises(DataError, match="made_up, key7: its prompt shows 1 images, the sample has 0"):
        collator.training([Sample("key7", (), (Turn("", ""),), source="made_up")], [(Turn("<ImageHere>", "a"),)])


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"no tokenizer.json"):
        load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_named(byte_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    byte_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((tmp_path / "tokenizer.json").read_bytes()[:500])
    with pytest.raises(DefinitionError, match=r"tokenizer.json: not a tokenizer"):
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
        for name in ("pixels", "input_ids", "attention_mask", "labels"):
            assert torch.equal(getattr(again, name), getattr(first[step], name))


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("micro", [1, 3, 8])
def test_any_number_of_ranks_and_pieces_sees_the_same_samples(loader: Loader, ranks: int, micro: int) -> None:
    whole = loader.batch(4)
    pieces = [piece for rank in range(ranks) for piece in loader.micro_batches(4, rank, ranks, micro)]
    assert tuple(key for piece in pieces for key in piece.keys) == whole.keys
    assert torch.equal(torch.cat([piece.pixels for piece in pieces]), whole.pixels)
    assert sum(int((piece.labels != IGNORE_INDEX).sum()) for piece in pieces) == int(
        (whole.labels != IGNORE_INDEX).sum()
    )


def test_ranks_that_do_not_divide_the_batch_are_refused(loader: Loader) -> None:
    with pytest.raises(DefinitionError, match="3 ranks cannot share a global batch of 8"):
        loader.batch(0, rank=0, ranks=3)


def same(found: list[Batch], expected: list[Batch]) -> bool:
    """Whether batches hold the same samples, in any order, and learn as many tokens."""
    keys, learned = (
        [sorted(key for batch in batches for key in batch.keys) for batches in (found, expected)],
        [sum(int((batch.labels != IGNORE_INDEX).sum()) for batch in batches) for batches in (found, expected)],
    )
    return keys[0] == keys[1] and learned[0] == learned[1]


@pytest.mark.usefixtures("small_corpus")
def test_samples_that_share_rows_are_those_that_do_not(
    store: Store, pairs: Manifest, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    artifact = mix(store, "tiny_multitask", pairs).artifact
    apart, packed = (
        Loader(
            store,
            artifact,
            inputs(),
            byte_tokenizer,
            num_image_tokens=SLOTS,
            global_batch_size=32,
            seed=1,
            packing=packing,
        )
        for packing in (False, True)
    )
    for step in range(3):
        alone, together = apart.micro_batches(step, 1, 2, 8), packed.micro_batches(step, 1, 2, 8)
        assert all(same([one], [other]) for one, other in zip(together, alone, strict=True))
        for batch in together:
            assert batch.attention_mask.float().mean() >= FULL
            assert len(batch.pixels) == (batch.input_ids == IMAGE_SLOT).sum() // SLOTS
            assert batch.owners.unique().tolist() == list(range(len(batch.keys)))


# Samples that cannot be used


def damage(loader: Loader, count: int) -> set[str]:
    """Write over the pictures of the first samples in their shards; their keys."""
    samples = loader.mixed.samples([(0, position) for position in range(count)])
    for sample in samples:
        with Path(sample.images[0].path).open("r+b") as shard:
            shard.seek(sample.images[0].offset)
            shard.write(bytes(64))
    return {sample.key for sample in samples}


@pytest.fixture
def opened(store: Store, pairs: Manifest, byte_tokenizer: PreTrainedTokenizerFast) -> Callable[[bool], Loader]:
    artifact = mix(store, "tiny_pairs", pairs).artifact
    return lambda replacing: Loader(
        store,
        artifact,
        inputs(None, "\n"),
        byte_tokenizer,
        num_image_tokens=SLOTS,
        global_batch_size=8,
        seed=5,
        replacing=replacing,
    )


def test_a_damaged_picture_ends_the_loading_and_is_named(opened: Callable[[bool], Loader]) -> None:
    loader = opened(False)
    damage(loader, 30)
    with pytest.raises(
        DataError, match=r"\$source: a sample cannot be used: .*00000.tar, 0000000\d\d: .*do not decode"
    ):
        loader.batch(0)


def test_another_sample_stands_in_for_a_damaged_one_and_the_others_stay_as_they_were(
    opened: Callable[[bool], Loader],
) -> None:
    before = [opened(False).batch(step).keys for step in range(4)]
    bad = damage(opened(False), 10)
    loader = opened(True)
    for step, expected in enumerate(before):
        batch = loader.batch(step)
        assert [key for key in expected if key in bad] != []
        assert all(key == other for key, other in zip(batch.keys, expected, strict=True) if other not in bad)
        assert not bad & set(batch.keys)
        assert {key for key in expected if key in bad} <= {one.key for one in batch.replaced} <= bad
        assert {one.stand_in for one in batch.replaced} - bad <= set(batch.keys)
        assert all("do not decode" in one.reason and one.source == "$source" for one in batch.replaced)


@pytest.mark.parametrize(("ranks", "micro"), [(1, 3), (2, 2), (4, 1)])
def test_stand_ins_are_the_same_for_any_number_of_ranks_and_pieces(
    opened: Callable[[bool], Loader], ranks: int, micro: int
) -> None:
    damage(opened(False), 10)
    whole, loader = opened(True).batch(2), opened(True)
    pieces = [piece for rank in range(ranks) for piece in loader.micro_batches(2, rank, ranks, micro)]
    assert tuple(key for piece in pieces for key in piece.keys) == whole.keys
    assert tuple(one for piece in pieces for one in piece.replaced) == whole.replaced


def test_a_component_that_is_all_damaged_is_an_error(opened: Callable[[bool], Loader]) -> None:
    damage(opened(False), 30)
    with pytest.raises(DataError, match=f"nor can {STAND_INS} stand-ins"):
        opened(True).batch(0)


@pytest.mark.usefixtures("small_corpus")
@pytest.mark.parametrize("oddities", [[], ["one_wording_per_batch"]])
def test_the_wording_is_drawn_per_sample_or_as_published_once_for_the_whole_batch(
    store: Store, pairs: Manifest, byte_tokenizer: PreTrainedTokenizerFast, oddities: list[Oddity]
) -> None:
    artifact = mix(store, "tiny_instruct", pairs).artifact
    settings = inputs().model_copy(update={"oddities": oddities})
    loader = Loader(store, artifact, settings, byte_tokenizer, num_image_tokens=SLOTS, global_batch_size=16, seed=5)
    drawn = []
    for step in range(6):
        batches = [batch for rank in range(2) for batch in loader.micro_batches(step, rank, 2, 4)]
        texts = [byte_tokenizer.decode(row[row >= 0].tolist()) for batch in batches for row in batch.input_ids]
        drawn.append({wording for wording in WORDINGS["describe"] for text in texts if wording in text})
    assert all((len(wordings) == 1) == bool(oddities) for wordings in drawn)
    assert len(set.union(*drawn)) > 1


@pytest.mark.usefixtures("small_corpus")
def test_a_multitask_batch_mixes_tasks_and_learns_only_answers(
    store: Store, pairs: Manifest, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    artifact = mix(store, "tiny_multitask", pairs).artifact
    loader = Loader(store, artifact, inputs(), byte_tokenizer, num_image_tokens=SLOTS, global_batch_size=64, seed=1)
    batch = loader.batch(0)
    assert len(set(batch.sources)) > 5
    assert batch.pixels.shape == (64, 3, 16, 16)
    for row, source in enumerate(batch.sources):
        text = learned(batch, row, byte_tokenizer)
        assert text.endswith("###")
        if source == "shapes_statements":
            assert text in ("true###", "false###")
        if source == "shapes_refer":
            assert text.startswith("{<")
            assert text.endswith(">}###")
