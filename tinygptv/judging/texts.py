"""Captions → what the image-text Q-Former reads, and what it wrote → captions."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

_PUNCTUATION = r"[.!\"()*#:;~\s]+"  # of BlipCaptionProcessor in LAVIS


class Texts:
    """Ids for one tokenizer and a Q-Former of `vocabulary` words.

    BERT's `[CLS]` and `[SEP]` begin and end a text; a tokenizer without them ends as it always does, and the last row
    of the vocabulary but one begins. The last row begins what is written. (B, T) ids come with their mask.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, vocabulary: int, max_tokens: int, *, plain_text: bool
    ) -> None:
        self._tokenizer, self._max_tokens, self._plain_text = tokenizer, max_tokens, plain_text
        has_own = tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None
        self.cls_id: int = tokenizer.cls_token_id if has_own else vocabulary - 2
        self.end_id: int = tokenizer.sep_token_id if has_own else tokenizer.eos_token_id
        self.dec_id = vocabulary - 1

    def to_compare(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """As contrast and matching read them, cut to the longest text allowed: two (B, T)."""
        rows = []
        for caption in captions:
            text = re.sub(_PUNCTUATION, " ", caption.lower()).strip() if self._plain_text else caption
            # A caption that quotes a special token is text like any other.
            options = {"add_special_tokens": False, "split_special_tokens": True}
            ids = self._tokenizer.encode(text, **options)[: self._max_tokens - 2]
            rows.append(torch.tensor([self.cls_id, *ids, self.end_id]))
        pad = torch.nn.utils.rnn.pad_sequence
        mask = pad([torch.ones_like(row) for row in rows], batch_first=True)
        return pad(rows, batch_first=True, padding_value=self.end_id), mask

    def written(self, input_ids: Tensor) -> list[str]:
        """What stands between the first id and the end: (B, T) -> B captions."""
        captions = []
        for row in input_ids[:, 1:].tolist():
            ids = row[: row.index(self.end_id)] if self.end_id in row else row
            captions.append(str(self._tokenizer.decode(ids, skip_special_tokens=True)).strip())
        return captions
