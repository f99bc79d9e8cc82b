"""Token sequences: labels on answers alone, masks from lengths, and each oddity of the published code by name."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import regex
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from tinygptv.data.batches.batching import load_tokenizer
from tinygptv.data.prompting.prompts import render
from tinygptv.data.prompting.sequences import Sequences, Texts
from tinygptv.definitions.recipe import Inputs, Oddity
from tinygptv.errors import DefinitionError
from tinygptv.sample import IGNORE_INDEX, IMAGE_SLOT, ImageReference, Sample, Turn

HUMAN = "###Human: {} ###Assistant: "
SLOTS = 8
ANSWERED = len("###Human: <Img></Img> q ###Assistant: ") + 1 + SLOTS


def inputs(
    template: str | None = HUMAN,
    end_symbol: str = "###",
    most: int = 160,
    oddities: Sequence[Oddity] = (),
    ends_with_eos: bool = False,
) -> Inputs:
    return Inputs(
        image_size=16,
        max_text_tokens=most,
        template=template,
        end_symbol=end_symbol,
        ends_with_eos=ends_with_eos,
        oddities=list(oddities),
    )


def conversations(settings: Inputs, *turns: Sequence[tuple[str, str]], image: bool = True) -> list[tuple[Turn, ...]]:
    """Rendered as for training; every first turn shows an image, unless told otherwise."""
    shown = (ImageReference("picture.jpg"),) if image else ()
    samples = [Sample("key", shown, tuple(Turn(*turn) for turn in conversation)) for conversation in turns]
    return [render(sample, "conversation", settings) for sample in samples]


def built(sequences: Sequences, *turns: Sequence[tuple[str, str]]) -> Texts:
    return sequences.training(conversations(sequences.inputs, *turns))


def learned(texts: Texts, row: int, tokenizer: PreTrainedTokenizerFast) -> str:
    labels = texts.labels[row]
    return str(tokenizer.decode(labels[labels != IGNORE_INDEX].tolist()))


# Against the published implementation


def golden(shared: Path, stage: int, name: str = "io") -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    folder = shared / "golden" / "tinygptv" / f"stage{stage}"
    return json.loads((folder / "case.json").read_text()), load_file(folder / f"{name}.safetensors")


def golden_tokenizer(shared: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(shared / "golden" / "tinygptv" / "tokenizer")


def without_padding(recorded: torch.Tensor, padding: int, texts: Texts) -> torch.Tensor:
    """It pads to the longest prompt plus the longest answer, even if they are of two samples; we to the longest."""
    length = texts.input_ids.shape[1]
    assert (recorded[:, length:] == padding).all()
    return recorded[:, :length]


def as_published(texts: Texts, recorded: dict[str, torch.Tensor]) -> bool:
    return torch.equal(texts.labels, without_padding(recorded["labels"], IGNORE_INDEX, texts)) and torch.equal(
        texts.attention_mask, without_padding(recorded["attention_mask"], 0, texts)
    )


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_labels_and_mask_are_those_of_the_published_implementation(shared: Path, stage: int) -> None:
    case, recorded = golden(shared, stage)
    instructions = [
        text.removeprefix("###Human: ").removesuffix(" ###Assistant: ").removeprefix("<Img><ImageHere></Img> ")
        for text in case.get("instructions", ["", ""])
    ]
    settings = inputs(None, "\n") if stage < 3 else inputs()
    sequences = Sequences(golden_tokenizer(shared), settings, recorded["image_embeds"].shape[1])
    texts = built(sequences, *([turn] for turn in zip(instructions, case["answers"], strict=True)))
    assert as_published(texts, recorded)


def test_a_conversation_is_the_published_one_but_for_its_unseen_bos(shared: Path) -> None:
    case, recorded = golden(shared, 4, "conversation_io")
    tokenizer = golden_tokenizer(shared)
    questions, answers = ([text.split("!@#") for text in case["conversation"][side]] for side in ("conv_q", "conv_a"))
    talks = [
        [(q.removeprefix("<Img><ImageHere></Img> "), a) for q, a in zip(asked, answered, strict=True)]
        for asked, answered in zip(questions, answers, strict=True)
    ]
    odd = built(Sequences(tokenizer, inputs(oddities=["later_bos_unseen"]), SLOTS), *talks)
    assert as_published(odd, recorded)
    seen = built(Sequences(tokenizer, inputs(), SLOTS), *talks)
    assert torch.equal(seen.input_ids, odd.input_ids)
    differing = seen.attention_mask != odd.attention_mask
    assert differing.sum() == 2
    assert (seen.input_ids[differing] == tokenizer.bos_token_id).all()


def test_token_ids_meet_the_embeddings_that_the_published_implementation_used(shared: Path) -> None:
    """Equal ids have equal rows in its recorded inputs, so our ids are its ids wherever text stands."""
    case, recorded = golden(shared, 3)
    table = load_file(shared / "golden" / "tinygptv" / "backbones" / "phi-2" / "model.safetensors")
    embeddings = next(tensor for name, tensor in table.items() if name.endswith("embed_tokens.weight"))
    instructions = [text.split("</Img> ")[1].removesuffix(" ###Assistant: ") for text in case["instructions"]]
    sequences = Sequences(golden_tokenizer(shared), inputs(), SLOTS)
    texts = built(sequences, *([turn] for turn in zip(instructions, case["answers"], strict=True)))
    written = (texts.input_ids != IMAGE_SLOT) & (texts.attention_mask == 1)
    assert torch.allclose(embeddings[texts.input_ids[written]], recorded["inputs_embeds"][written], atol=1e-6)
    images = recorded["inputs_embeds"][texts.input_ids == IMAGE_SLOT]
    assert torch.allclose(recorded["image_embeds"].flatten(0, 1), images)


# By hand


def test_only_answers_and_end_symbols_are_learned(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    sequences = Sequences(byte_tokenizer, inputs(), SLOTS)
    texts = built(sequences, [("who?", "a cat."), ("where?", "here")], [("what?", "a dog")])
    assert learned(texts, 0, byte_tokenizer) == "a cat.###here###"
    assert learned(texts, 1, byte_tokenizer) == "a dog###"
    told = texts.labels != IGNORE_INDEX
    assert torch.equal(texts.labels[told], texts.input_ids[told])
    assert sequences.images(texts.input_ids) == [1, 1]
    assert texts.attention_mask.sum(dim=1).tolist() == [
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
    byte_tokenizer: PreTrainedTokenizerFast, answers: list[str], expected: str
) -> None:
    texts = built(Sequences(byte_tokenizer, inputs(most=20), SLOTS), [("q", answer) for answer in answers])
    assert learned(texts, 0, byte_tokenizer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"), [("x" * 50, "x" * 20), ("x" * 18, "x" * 18 + "##"), ("x" * 17, "x" * 17 + "###")]
)
def test_the_published_cut_takes_the_end_symbol_first(
    byte_tokenizer: PreTrainedTokenizerFast, answer: str, expected: str
) -> None:
    sequences = Sequences(byte_tokenizer, inputs(most=20, oddities=["end_symbol_cut"]), SLOTS)
    assert learned(built(sequences, [("q", answer)]), 0, byte_tokenizer) == expected


def test_the_published_cut_goes_through_a_conversation_wherever_it_falls(
    byte_tokenizer: PreTrainedTokenizerFast,
) -> None:
    oddities: list[Oddity] = ["end_symbol_cut", "later_bos_unseen"]
    second_prompt = 1 + len("###Human: b ###Assistant: ")
    talk = [("q", "four"), ("b", "123456")]
    for room, expected in ((0, "four###"), (4, "four###"), (second_prompt + 5, "four###12345")):
        texts = built(Sequences(byte_tokenizer, inputs(most=7 + room, oddities=oddities), SLOTS), talk)
        assert texts.input_ids.shape == (1, ANSWERED + 7 + room)
        assert learned(texts, 0, byte_tokenizer) == expected
        assert (texts.attention_mask == 0).sum() == (room > 0)


def test_later_turns_share_the_budget_and_the_last_one_is_cut(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    second_prompt = 1 + len("###Human: b ###Assistant: ")
    sequences = Sequences(byte_tokenizer, inputs(most=7 + second_prompt + 5), SLOTS)
    assert learned(built(sequences, [("a", "four"), ("b", "123456")]), 0, byte_tokenizer) == "four###12###"


def test_a_real_eos_is_learned_after_the_end_symbol_and_survives_the_cut(
    byte_tokenizer: PreTrainedTokenizerFast,
) -> None:
    sequences = Sequences(byte_tokenizer, inputs(most=20, ends_with_eos=True), SLOTS)
    eos = byte_tokenizer.eos_token_id
    texts = built(sequences, [("q", "cat")], [("q", "x" * 50)])
    for row, kept in enumerate(("cat###", "x" * 16 + "###")):
        labels = texts.labels[row][texts.labels[row] != IGNORE_INDEX].tolist()
        assert labels[-1] == eos
        assert byte_tokenizer.decode(labels[:-1]) == kept


def test_an_end_symbol_that_names_a_special_token_becomes_its_id(shared: Path) -> None:
    tokenizer = golden_tokenizer(shared)
    texts = built(Sequences(tokenizer, inputs(end_symbol="###<|endoftext|>"), SLOTS), [("q", "a cat")])
    assert texts.labels[0, -2:].tolist() == [*tokenizer.encode("###"), tokenizer.eos_token_id]


def test_an_answer_is_tokenised_together_with_its_end_as_the_published_code_does(shared: Path) -> None:
    tokenizer = golden_tokenizer(shared)
    apart, together = tokenizer.encode("a r") + tokenizer.encode("ed"), tokenizer.encode("a red")
    texts = built(Sequences(tokenizer, inputs(end_symbol="ed"), SLOTS), [("q", "a r")])
    assert texts.labels[0][texts.labels[0] != IGNORE_INDEX].tolist() == together != apart


def test_text_without_an_image_has_no_slots(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    sequences = Sequences(byte_tokenizer, inputs(), SLOTS)
    without = conversations(inputs(), [("who?", "she")], image=False)
    texts = sequences.training(without + conversations(inputs(), [("what?", "cat")]))
    assert sequences.images(texts.input_ids) == [0, 1]
    assert learned(texts, 0, byte_tokenizer) == "she###"


def test_several_images_in_one_prompt_each_get_their_slots(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    sequences = Sequences(byte_tokenizer, inputs(), SLOTS)
    texts = sequences.training([(Turn("compare <ImageHere> with <ImageHere>: ", "same"),)])
    assert sequences.images(texts.input_ids) == [2]


def test_prompts_for_generation_end_where_the_answer_begins(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = Sequences(byte_tokenizer, inputs(), SLOTS).asking(["is it? ###Assistant: ", "is it red? ###Assistant: "])
    assert [byte_tokenizer.decode(row[-14:].tolist()) for row in texts.input_ids] == [" ###Assistant:"[-13:] + " "] * 2
    assert texts.attention_mask.tolist() == [[0] * 4 + [1] * 22, [1] * 26]
    assert texts.input_ids[1, 0] == texts.input_ids[0, 4] == byte_tokenizer.bos_token_id
    assert (texts.labels == IGNORE_INDEX).all()


def test_the_published_code_asks_without_bos(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    odd = Sequences(byte_tokenizer, inputs(oddities=["no_bos_when_asking"]), SLOTS)
    assert byte_tokenizer.decode(odd.asking(["is it?"]).input_ids[0].tolist()) == "is it?"
    assert built(odd, [("q", "a")]).input_ids[0, 0] == byte_tokenizer.bos_token_id


@pytest.mark.parametrize(("end_symbol", "ends_with_eos"), [("###", False), ("###", True), ("###<|endoftext|>", False)])
def test_an_answer_stops_at_the_whole_end_symbol_or_at_eos(
    byte_tokenizer: PreTrainedTokenizerFast, end_symbol: str, ends_with_eos: bool
) -> None:
    sequences = Sequences(byte_tokenizer, inputs(end_symbol=end_symbol, ends_with_eos=ends_with_eos), SLOTS)
    symbol, eos = tuple(byte_tokenizer.encode("###")), byte_tokenizer.eos_token_id
    assert sequences.stops == [symbol, (eos,)]
    for end in (symbol, (eos,), (*symbol, eos), ()):
        written = [*byte_tokenizer.encode(" #1 cat"), *end]
        assert sequences.answer([*written, *written[-1:] * 5] if end else written) == "#1 cat"


def test_an_answer_may_stop_at_another_end_too_whichever_comes_first(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    sequences = Sequences(byte_tokenizer, inputs(), SLOTS, extra_stop_strings=["\n"])
    encode = byte_tokenizer.encode
    assert sequences.stops == [tuple(encode("###")), tuple(encode("\n")), (byte_tokenizer.eos_token_id,)]
    for written in ("a cat###\n", "a cat\n###", "a cat\na dog", "a cat###a dog", "a cat"):
        assert sequences.answer(encode(written)) == "a cat"


def test_an_end_symbol_that_is_eos_itself_stops_once(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "golden" / "minigpt" / "tokenizer")
    sequences = Sequences(tokenizer, inputs(end_symbol="</s>"), SLOTS)
    assert sequences.stops == [(tokenizer.eos_token_id,)]
    assert sequences.answer([*tokenizer.encode("a red bus"), *[tokenizer.eos_token_id] * 3]) == "a red bus"


@pytest.mark.parametrize(("end_symbol", "most"), [("", 20), ("###", 3), ("###", 2)])
def test_an_end_symbol_that_leaves_no_room_is_refused(
    byte_tokenizer: PreTrainedTokenizerFast, end_symbol: str, most: int
) -> None:
    with pytest.raises(DefinitionError, match="end_symbol"):
        Sequences(byte_tokenizer, inputs(end_symbol=end_symbol, most=most), SLOTS)


@pytest.mark.parametrize(("missing", "message"), [("bos_token", "no BOS"), ("eos_token", "ends_with_eos: .* no EOS")])
def test_a_tokenizer_without_the_tokens_it_needs_is_refused(
    byte_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, missing: str, message: str
) -> None:
    byte_tokenizer.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    setattr(tokenizer, missing, None)
    with pytest.raises(DefinitionError, match=message):
        Sequences(tokenizer, inputs(ends_with_eos=True), SLOTS)


@pytest.mark.parametrize(
    ("most", "left"),
    [
        (3 + 36, "<p>a</p> {<1><2><3><4>}<delim>{<5><6><7><8>}"[:8]),
        (3 + 21, "<p>a</p>"),
        (3 + 8, "<p>a</p>"),
        (3 + 4, "<p>a"),
        (3 + 44, "<p>a</p> {<1><2><3><4>}<delim>{<5><6><7><8>}"),
    ],
)
def test_an_answer_is_never_cut_within_a_box(byte_tokenizer: PreTrainedTokenizerFast, most: int, left: str) -> None:
    answer = "<p>a</p> {<1><2><3><4>}<delim>{<5><6><7><8>} and more"
    texts = built(Sequences(byte_tokenizer, inputs(most=most), SLOTS), [("q", answer)])
    assert learned(texts, 0, byte_tokenizer).rstrip(" #") == left
    assert learned(texts, 0, byte_tokenizer).endswith("###")


def test_a_cut_that_the_oddity_makes_spares_images_alone(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    sequences = Sequences(byte_tokenizer, inputs(most=20, oddities=["end_symbol_cut"]), SLOTS)
    texts = sequences.training([(Turn("<ImageHere>q", "a" * 10), Turn("<ImageHere>again", "b"))])
    assert sequences.images(texts.input_ids) == [1]
    assert (texts.input_ids == IMAGE_SLOT).sum() == SLOTS


SCRIPTS = (
    "naïve café",
    "日本の猫",
    "قطة سوداء",
    "हिन्दी बिल्ली",
    "고양이",
    "кошка",
    "🐈👍🏽",
    "👩‍👩‍👧 family",
    "🇩🇪🇫🇷",
    "e\u0301te\u0301",
)


@pytest.mark.parametrize("oddities", [[], ["end_symbol_cut"]])
@pytest.mark.parametrize("answer", SCRIPTS)
def test_an_answer_is_never_cut_within_a_character(
    byte_tokenizer: PreTrainedTokenizerFast, answer: str, oddities: list[Oddity]
) -> None:
    shown = {answer[: found.end()] for found in regex.finditer(r"\X", answer)} | {""}
    for most in range(4, len(answer.encode()) + 4):
        sequences = Sequences(byte_tokenizer, inputs(most=most, oddities=oddities), SLOTS)
        kept = learned(built(sequences, [("q", answer)]), 0, byte_tokenizer)
        assert kept.rstrip("#") in shown
        assert oddities or kept.endswith("###")


@pytest.mark.parametrize("folder", ["tinygptv/tokenizer", "minigpt/tokenizer", "cogvlm/tokenizer", "qwen-vl/tokenizer"])
@given(answer=st.text(st.characters(exclude_categories=["Cs", "Cn", "Co", "Cc"]), min_size=1), most=st.integers(8, 40))
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_no_published_tokenizer_learns_half_a_character(shared: Path, folder: str, answer: str, most: int) -> None:
    tokenizer = _tokenizer_at(shared / "golden" / folder)
    sequences = Sequences(tokenizer, inputs(None, ".", most=most).model_copy(update={"begin": "never"}), SLOTS)
    cut = learned(sequences.training([(Turn("", answer),)]), 0, tokenizer)
    assert cut.count("\ufffd") <= answer.count("\ufffd")


_tokenizer_at = functools.cache(load_tokenizer)
