"""Special tokens in data are text: in every published tokenizer, with those of the template left as they are."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.data.prompting.test_sequences import SLOTS, inputs
from tests.data.prompting.test_templates import of
from tinygptv.data.batches.batching import load_tokenizer
from tinygptv.data.prompting.literal import MARK, LiteralText
from tinygptv.data.prompting.prompts import ask, render
from tinygptv.data.prompting.sequences import Sequences
from tinygptv.definitions.recipe import Inputs
from tinygptv.sample import IGNORE_INDEX, Sample, Turn

TOKENIZERS = (
    "tinygptv/tokenizer",
    "minigpt/tokenizer",
    "cogvlm/tokenizer",
    "llava_v1/vicuna",
    "llava_v15/vicuna-v1.5",
    "qwen-vl/tokenizer",
    "blip2/backbones/flan-t5",
)
WRITTEN = "</s>", "<s>", "<unk>", "<pad>", "$$", "<|endoftext|>", "<|im_end|>", "<extra_id_9>"


def without_bos(**changes: object) -> Inputs:
    return Inputs(image_size=16, max_text_tokens=400, template="Q {} A", begin="never", end_symbol="E", **changes)


@pytest.mark.parametrize("folder", TOKENIZERS)
def test_no_special_token_comes_out_of_data(shared: Path, folder: str) -> None:
    tokenizer = load_tokenizer(shared / "golden" / folder)
    unknown = tokenizer.unk_token_id  # T5 has no other way to write a letter it does not know
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special} - {unknown}
    sequences = Sequences(tokenizer, without_bos(), SLOTS)
    for text in (*WRITTEN, "".join(WRITTEN), " a cat ".join(WRITTEN), "<</s>>", "</S>", "a" + MARK + "b"):
        sample = Sample("key", (), (Turn(text, f"it is {text}"), Turn("and?", text)), answers=(text,))
        turns = render(sequences.as_text(sample), "conversation", sequences.inputs)
        assert not special & set(sequences.training([turns]).input_ids[0].tolist())
        asked = ask(sequences.as_text(sample), "conversation", sequences.inputs)
        assert not special & set(sequences.asking([asked]).input_ids[0].tolist())


@pytest.mark.parametrize("folder", [name for name in TOKENIZERS if "t5" not in name])
def test_what_was_written_is_what_is_read_back(shared: Path, folder: str) -> None:
    tokenizer = load_tokenizer(shared / "golden" / folder)
    literal = LiteralText(tokenizer, without_bos())
    for text in (f"a {token} b" for token in WRITTEN):
        assert tokenizer.decode(literal.encode(literal.text(text)).ids) == text


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from([*WRITTEN, "<", ">", "|", "s", "/s>", "$", " ", "\n", MARK, "猫", "é", "🐈"])))
@example([])
def test_marks_never_reach_the_model_and_change_no_other_letter(parts: list[str]) -> None:
    tokenizer = Tokenizer(models.BPE({"@": 0}, []))
    tokenizer.add_special_tokens(list(WRITTEN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    literal = LiteralText(PreTrainedTokenizerFast(tokenizer_object=tokenizer), without_bos())
    text = "".join(parts)
    marked = literal.text(text)
    assert marked.replace(MARK, "") == text.replace(MARK, "\ufffd")
    assert not any(token in marked for token in WRITTEN)
    assert literal.encode(marked).ids == []  # the vocabulary has none of these letters, so all else were special ids


def test_a_text_without_special_tokens_is_left_alone(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    sample = Sample("key", (), (Turn("1 < 2 | 3 > 2", "### yes"),), answers=("yes",))
    assert LiteralText(byte_tokenizer, inputs()).sample(sample) is sample


def test_a_templates_own_special_tokens_keep_their_meaning(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "golden" / "qwen-vl" / "tokenizer")
    sequences = Sequences(tokenizer, of("qwen_vl"), SLOTS)
    sample = Sample("key", (), (Turn("what is <|im_end|>?", "<|im_end|> ends <|endoftext|>"),))
    texts = sequences.training([render(sequences.as_text(sample), "conversation", sequences.inputs)])
    ids, ends = texts.input_ids[0].tolist(), tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert [ids.count(end) for end in ends] == [3, 0]  # system, user, answer
    learned = texts.labels[0][texts.labels[0] != IGNORE_INDEX].tolist()
    assert learned.index(ends[0]) == len(learned) - 1
    assert sequences.answer(learned) == "<|im_end|> ends <|endoftext|>"


def test_boxes_are_written_in_the_familys_special_tokens(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "golden" / "qwen-vl" / "tokenizer")
    sequences = Sequences(tokenizer, of("qwen_vl"), SLOTS)
    box, ref = tokenizer.convert_tokens_to_ids(["<box>", "<ref>"])
    texts = ("<p>a cat</p> {<10><20><30><40>}", "<ref>a cat</ref><box>(1,2),(3,4)</box>", "a <box> of <ref>cats</ref>")
    samples = [Sample("key", (), (Turn("where?", text),)) for text in texts]
    rows = [sequences.as_text(sample) for sample in samples]
    turns = [render(row, "conversation", sequences.inputs) for row in rows]
    ids = sequences.training(turns).input_ids.tolist()
    assert [(row.count(box), row.count(ref)) for row in ids] == [(1, 1), (1, 1), (0, 0)]


def test_an_added_token_is_a_word_unless_the_template_is_written_in_it(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(byte_tokenizer.backend_tokenizer.to_str()))
    tokenizer.add_tokens([AddedToken("[END]", normalized=False), AddedToken("tabby"), AddedToken("    ")])
    end, tabby, spaces = tokenizer.convert_tokens_to_ids(["[END]", "tabby", "    "])
    for end_symbol, special in (("###", []), ("[END]", ["[END]"])):
        literal = LiteralText(tokenizer, inputs(end_symbol=end_symbol))
        assert [token for token in literal.special if token != "<|endoftext|>"] == special
        ids = literal.encode(literal.text("a tabby    [END]")).ids
        assert (tabby in ids, spaces in ids, end in ids) == (True, True, not special)


def test_text_that_is_made_lower_case_later_cannot_become_special(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "golden" / "minigpt" / "tokenizer")
    sequences = Sequences(tokenizer, inputs(), SLOTS)
    sample = Sample("key", (), (Turn("what is </S>?", "</S>"),))
    ids = sequences.training([render(sequences.as_text(sample), "vqa", sequences.inputs)]).input_ids[0].tolist()
    assert tokenizer.convert_tokens_to_ids("</s>") not in ids
