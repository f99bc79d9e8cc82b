"""Captions ↔ token ids of the image-text Q-Former."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

_PUNCTUATION = r"[.!\"()*#:;~\s]+"  # from BlipCaptionProcessor in LAVIS


class Texts:
    """Token ids for a Q-Former with `vocabulary` rows.

    Texts begin with BERT's `[CLS]` and end with `[SEP]`; without them, the last but one row of the vocabulary begins a
    text and EOS ends it. The last row begins generated text. (B, T) ids come with their mask.
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
        """Inputs of contrast and matching, cut to the maximum length: ids and mask, (B, T)."""
        rows = []
        for caption in captions:
            text = re.sub(_PUNCTUATION, " ", caption.lower()).strip() if self._plain_text else caption
            # A special token quoted in a caption is ordinary text.
            options = {"add_special_tokens": False, "split_special_tokens": True}
            ids = self._tokenizer.encode(text, **options)[: self._max_tokens - 2]
            rows.append(torch.tensor([self.cls_id, *ids, self.end_id]))
        pad = torch.nn.utils.rnn.pad_sequence
        mask = pad([torch.ones_like(row) for row in rows], batch_first=True)
        return pad(rows, batch_first=True, padding_value=self.end_id), mask

    def written(self, input_ids: Tensor) -> list[str]:
        """Decode generated ids between the first id and the end: (B, T) -> B captions."""
        captions = []
        for row in input_ids[:, 1:].tolist():
            ids = row[: row.index(self.end_id)] if self.end_id in row else row
            captions.append(str(self._tokenizer.decode(ids, skip_special_tokens=True)).strip())
        return captions
