"""Who sees whom, by kind of attention."""

import pytest
import torch
from torch import Tensor

from tinygptv.models.masks import attention_mask, before_first, causal, packed, prefix


def rows(mask: Tensor | None) -> list[str]:
    assert mask is not None and mask.shape[:2] == (1, 1)
    return ["".join("x" if seen else "." for seen in row) for row in mask[0, 0].tolist()]


def numbers(*values: int) -> Tensor:
    return torch.tensor([values])


def test_without_padding_or_with_padding_on_the_right_causal_needs_no_mask() -> None:
    assert causal(numbers(1, 1, 1), 3) is None
    assert causal(numbers(1, 1, 0), 3) is None
    assert causal(numbers(1, 1, 1), 1) is None


def test_padding_on_the_left_is_not_seen() -> None:
    assert rows(causal(numbers(0, 1, 1), 3)) == ["...", ".x.", ".xx"]


def test_tokens_behind_a_cache_see_it_and_those_before_them() -> None:
    assert rows(causal(numbers(0, 1, 1, 1), 1)) == [".xxx"]
    assert rows(causal(numbers(0, 1, 1, 1), 2)) == [".xx.", ".xxx"]


def test_sequences_that_share_a_row_do_not_see_each_other() -> None:
    assert rows(packed(numbers(1, 1, 1, 1), numbers(0, 1, 0, 1))) == ["x...", "xx..", "..x.", "..xx"]


def test_a_context_sees_all_of_itself_and_nothing_of_the_answer() -> None:
    context = torch.tensor([[True, True, False, False]])
    assert rows(prefix(numbers(1, 1, 1, 1), context)) == ["xx..", "xx..", "xxx.", "xxxx"]
    assert rows(prefix(numbers(0, 1, 1, 1), context)) == [".x..", ".x..", ".xx.", ".xxx"]


def test_every_sequence_of_a_row_has_a_context_of_its_own() -> None:
    context = torch.tensor([[True, True, False, True, True]])
    mask = prefix(numbers(1, 1, 1, 1, 1), context, numbers(0, 1, 2, 0, 1))
    assert rows(mask) == ["xx...", "xx...", "xxx..", "...xx", "...xx"]


def test_the_context_ends_where_the_first_answer_of_a_sequence_begins() -> None:
    answers = torch.tensor([[False, False, True, False, True, False, True]])
    assert before_first(answers).tolist() == [[True, True, False, False, False, False, False]]
    shared = before_first(answers, numbers(0, 1, 2, 3, 4, 0, 1))
    assert shared.tolist() == [[True, True, False, False, False, True, False]]


def test_a_kind_chooses_its_mask() -> None:
    visible, context = numbers(0, 1, 1), torch.tensor([[True, True, True]])
    assert rows(attention_mask("causal", visible, 3, context)) == ["...", ".x.", ".xx"]
    assert rows(attention_mask("prefix", visible, 3, context)) == [".xx", ".xx", ".xx"]
    assert rows(attention_mask("prefix", visible, 1)) == [".xx"]
    assert rows(attention_mask("causal", numbers(1, 1), 2, position_ids=numbers(0, 0))) == ["x.", ".x"]


def test_an_unknown_kind_is_an_error_and_not_causal() -> None:
    with pytest.raises(AssertionError):
        attention_mask("sideways", numbers(1, 1), 2)  # type: ignore[arg-type]
