"""Captions as BLIP-2 reads them, with BERT's own marks or with two more rows of the vocabulary."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tinygptv.judging.texts import Texts

WORDS = ["[PAD]", "[CLS]", "[SEP]", "a", "red", "ball", "."]


def tokenizer(**marks: str) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[PAD]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, **marks)


def test_berts_marks_begin_and_end_a_text_and_the_last_row_begins_what_is_written() -> None:
    texts = Texts(tokenizer(cls_token="[CLS]", sep_token="[SEP]"), 8, 5, plain_text=True)
    input_ids, mask = texts.to_compare(['A "red" ball.', "a"])
    assert input_ids.tolist() == [[1, 3, 4, 5, 2], [1, 3, 2, 2, 2]]
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert texts.dec_id == 7
    assert texts.written(torch.tensor([[7, 3, 4, 2, 5], [7, 3, 3, 3, 3]])) == ["a red", "a a a a"]


def test_without_them_two_rows_more_begin_and_the_usual_end_ends() -> None:
    texts = Texts(tokenizer(eos_token="[PAD]"), 9, 4, plain_text=False)
    assert texts.to_compare(["a red ball ."])[0].tolist() == [[7, 3, 4, 0]]  # cut to four
    assert (texts.cls_id, texts.dec_id) == (7, 8)


def test_a_caption_that_quotes_a_special_token_does_not_end_there() -> None:
    texts = Texts(tokenizer(cls_token="[CLS]", sep_token="[SEP]"), 8, 9, plain_text=False)
    (row,) = texts.to_compare(["a [SEP] ball"])[0].tolist()
    assert row.index(texts.end_id) == len(row) - 1
