"""Sequences as text that a person can check: what is learned stands in «», what is padded is left out."""

from itertools import groupby

from transformers import PreTrainedTokenizerFast

from tinygptv.data.prompting.sequences import Texts
from tinygptv.sample import IGNORE_INDEX, IMAGE_SLOT


def marked(texts: Texts, tokenizer: PreTrainedTokenizerFast, row: int = 0) -> str:
    """One sequence of a batch; BOS as ¶ and every image slot as ▣. Labels are the ids themselves, or nothing."""
    seen = texts.attention_mask[row].bool()
    ids, labels = texts.input_ids[row][seen].tolist(), texts.labels[row][seen].tolist()
    assert all(label in (token, IGNORE_INDEX) for token, label in zip(ids, labels, strict=True))
    written = ""
    for (learned, kind), run in groupby(
        zip(ids, labels, strict=True), key=lambda pair: (pair[1] != IGNORE_INDEX, _sign(pair[0], tokenizer))
    ):
        tokens = [token for token, _ in run]
        text = kind * len(tokens) if kind else str(tokenizer.decode(tokens))
        written += f"«{text}»" if learned else text
    return written


def _sign(token: int, tokenizer: PreTrainedTokenizerFast) -> str:
    return {IMAGE_SLOT: "▣", tokenizer.bos_token_id: "¶"}.get(token, "")
