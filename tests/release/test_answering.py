"""Answers: whatever the batch, the same; and nothing of the picture is left when it becomes noise."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.release.tiny import adapted_model, write_release
from tinygptv.data.batches.batching import Collator
from tinygptv.errors import DataError, PromptTooLongError
from tinygptv.models.lora import merge_lora
from tinygptv.release.answering import answer_all, noise_pictures
from tinygptv.release.folder import Release, load_release
from tinygptv.sample import ImageReference, Sample, Turn

QUESTIONS = ["what?", "how many red circles are there?", "is it?", "a", "the longest of all the questions"]


@pytest.fixture
def release(tmp_path: Path) -> Release:
    model = adapted_model()
    merge_lora(model.language_model)
    return load_release(write_release(tmp_path / "release", model))


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    samples = []
    for number, question in enumerate(QUESTIONS):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (16, 16), (50 * number, 90, 255 - 50 * number)).save(path)
        samples.append(Sample(f"key{number}", (ImageReference(str(path)),), (Turn(question, "yes"),)))
    return samples


def test_the_batch_size_does_not_change_answers(release: Release, samples: list[Sample]) -> None:
    alone = answer_all(release, samples, "vqa", 12, batch_size=1)
    assert len(alone) == len(QUESTIONS)
    assert alone == answer_all(release, samples, "vqa", 12, batch_size=3)
    assert len(set(alone)) > 1


def test_answers_come_in_the_order_of_the_samples(release: Release, samples: list[Sample]) -> None:
    backwards = answer_all(release, samples[::-1], "vqa", 12)
    assert backwards[::-1] == answer_all(release, samples, "vqa", 12)


def test_with_noise_the_picture_does_not_matter(release: Release, samples: list[Sample]) -> None:
    swapped = [
        Sample(sample.key, other.images, sample.turns) for sample, other in zip(samples, samples[::-1], strict=True)
    ]
    noisy = answer_all(release, samples, "vqa", 12, noise=True)
    assert noisy == answer_all(release, swapped, "vqa", 12, noise=True)


def test_noise_belongs_to_the_key_and_has_the_exposure_it_is_given(release: Release, samples: list[Sample]) -> None:
    collator = Collator(release.tokenizer, release.inputs, release.model.num_image_tokens)
    both = noise_pictures(collator.prompts(samples[:2], "vqa"), [1, 1], 0.5, 0.125)
    again = noise_pictures(collator.prompts(samples[1:3], "vqa"), [1, 1], 0.5, 0.125)
    assert both.shape == (2, 3, 16, 16)
    torch.testing.assert_close(both[1], again[0])
    assert not torch.equal(both[0], both[1])
    pixels = both.double() / 255
    assert pixels.mean() == pytest.approx(0.5, abs=0.02)
    assert pixels.std() == pytest.approx(0.125, abs=0.02)


def test_a_question_too_long_for_the_decoder_is_refused_with_both_counts(
    release: Release, samples: list[Sample]
) -> None:
    long = replace(samples[0], key="long", turns=(Turn("what is it? " * 30, "yes"),))
    *said, refused = answer_all(release, [*samples, long], "conversation", 12)
    assert isinstance(refused, PromptTooLongError)
    assert "long: the prompt has 386 tokens, and the decoder has 256 positions" in str(refused)
    assert said == answer_all(release, samples, "conversation", 12)


def test_an_answer_stops_where_the_positions_end_whatever_the_batch(release: Release, samples: list[Sample]) -> None:
    free = [str(said) for said in answer_all(release, samples, "conversation", 40)]
    longest = max(
        Collator(release.tokenizer, release.inputs, release.model.num_image_tokens).prompt_length(one, "conversation")
        for one in samples
    )
    release.model.max_positions = longest + 3
    alone, together = (
        [str(said) for said in answer_all(release, samples, "conversation", 40, batch_size=size)] for size in (1, 5)
    )
    assert alone == together
    assert all(whole.startswith(cut) for whole, cut in zip(free, alone, strict=True))
    assert len(free[-1].split()) > 3 >= len(alone[-1].split())


def test_special_tokens_in_a_question_are_text(release: Release, samples: list[Sample]) -> None:
    asked = replace(samples[0], turns=(Turn("what is <|end|>?", "an end"),))
    ids = Collator(release.tokenizer, release.inputs, 4).prompts([asked], "conversation").input_ids[0].tolist()
    assert ids.count(release.tokenizer.eos_token_id) == 1  # which begins the prompt


def test_each_picture_of_a_sample_is_replaced_and_words_alone_show_none(
    release: Release, samples: list[Sample]
) -> None:
    two = Sample("two", samples[0].images + samples[1].images, (Turn("the same?", "yes"),))
    words = Sample("words", (), (Turn("what?", "yes"),))
    collator = Collator(release.tokenizer, release.inputs, release.model.num_image_tokens)
    batch = collator.prompts([two, words, samples[2]], "conversation")
    noise = noise_pictures(batch, collator.sequences.images(batch.input_ids), 0.5, 0.125)
    assert noise.shape == batch.pixels.shape == (3, 3, 16, 16)
    assert not torch.equal(noise[0], noise[1])
    said = answer_all(release, [two, words, samples[2]], "conversation", 12, noise=True)
    assert said[1] == answer_all(release, [words], "conversation", 12)[0]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize("noise", [False, True])
def test_a_sample_that_cannot_be_asked_takes_no_other_with_it(
    release: Release, samples: list[Sample], tmp_path: Path, batch_size: int, noise: bool
) -> None:
    good = answer_all(release, samples, "vqa", 12)
    (tmp_path / "2.png").write_bytes(b"")
    said = answer_all(release, samples, "vqa", 12, batch_size=batch_size, noise=noise)
    assert isinstance(said[2], DataError)
    assert "2.png, key2: 0 bytes that do not decode" in str(said[2])
    assert all(isinstance(said[row], str) for row in (0, 1, 3, 4))
    assert noise or said[:2] + said[3:] == good[:2] + good[3:]
