"""What the bytes of many samples say about them at once, so that few have to be rendered and tokenised.

Nothing is overlooked: what is found here are all samples that may be too long, may end early or may write a special
token, and some others. Text of n bytes has at most n tokens; only a tokenizer that unfolds a ligature into more bytes
than it had can exceed that.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tinygptv.data.prompting.prompts import WORDINGS
from tinygptv.data.prompting.sequences import Sequences
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.recipe import Inputs
from tinygptv.definitions.template import IMAGES, INSTRUCTION

_ROWS = 50_000  # of a mixture that are screened together
_BOX_BYTES = 40  # of one box in any family's form, at most
_JOINING_BYTES = 8  # BOS, spaces, and what a tokenizer puts before a piece


class Screening(NamedTuple):
    """Of N samples, N of each: an upper bound of the tokens of its sequence; whether an answer may hold the end symbol;
    whether any text may hold a special token; whether any holds what the template writes around an instruction."""

    max_tokens: NDArray[np.int64]
    end_symbol: NDArray[np.bool_]
    special_token: NDArray[np.bool_]
    turn_marker: NDArray[np.bool_]


def screen(samples: Path, tasks: Sequence[Task], sequences: Sequences) -> Screening:
    """Screen the table of a mixture, whose components are asked these tasks."""
    columns = ["images", "turns", "answers", "boxes", "component"]
    with pq.ParquetFile(samples) as file:
        parts = [screen_batch(batch, tasks, sequences) for batch in file.iter_batches(_ROWS, columns=columns)]
    return Screening(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def screen_batch(batch: pa.RecordBatch, tasks: Sequence[Task], sequences: Sequences) -> Screening:
    """As `screen`, for some rows of the table."""
    inputs, turns, accepted = sequences.inputs, batch["turns"], batch["answers"]
    instructions, answers = (turns.flatten().field(side) for side in ("instruction", "answer"))
    texts = [(turns, instructions), (turns, answers), (accepted, accepted.flatten())]
    special, markers = "|".join(map(re.escape, sequences.literal.special)), _turn_markers(inputs)
    return Screening(
        _max_tokens(batch, tasks, sequences),
        np.any([_any(lists, _may_end_early(flat, sequences)) for lists, flat in texts[1:]], axis=0),
        np.any([_any(lists, _matching(flat, special)) for lists, flat in texts], axis=0),
        np.any([_any(lists, _holding(flat, markers)) for lists, flat in texts], axis=0),
    )


def _max_tokens(batch: pa.RecordBatch, tasks: Sequence[Task], sequences: Sequences) -> NDArray[np.int64]:
    """The bytes of the longest wording's first prompt, and as many of what follows as a sequence may hold."""
    inputs, turns = sequences.inputs, batch["turns"]
    instructions, answers = (pc.binary_length(turns.flatten().field(side)) for side in ("instruction", "answer"))
    accepted = _sums(batch["answers"], pc.binary_length(batch["answers"].flatten()))
    images, boxes = (_sums(batch[name], np.ones(len(batch[name].flatten()))) for name in ("images", "boxes"))
    around_image = len((inputs.image + inputs.bare_image + inputs.after_image).encode())
    pictures = images * (around_image + sequences.image_tokens) + boxes * _BOX_BYTES
    template = max(len((text or "").encode()) for text in (inputs.template, inputs.later_template))
    wordings = [max(len(text.encode()) for text in inputs.wordings.get(task) or WORDINGS[task]) for task in tasks]
    first = np.asarray(instructions)[turns.offsets.to_numpy()[:-1] - turns.offsets[0].as_py()]
    prompt = len(inputs.system.encode()) + template + np.array(wordings)[batch["component"].to_numpy()] + first
    each_turn = template + len(inputs.end_symbol.encode()) + _JOINING_BYTES
    following = _sums(turns, instructions) + _sums(turns, answers) + accepted
    following += _sums(turns, np.full(len(instructions), each_turn)) + pictures
    most: NDArray[np.int64] = prompt + pictures + _JOINING_BYTES + np.minimum(following, inputs.max_text_tokens)
    return most


def _may_end_early(texts: pa.Array, sequences: Sequences) -> NDArray[np.bool_]:
    """Which texts hold the end symbol, in any case, or end in a part of it that makes one with what follows: the `#` of
    `F####`."""
    end = sequences.written_end
    parts = [end[:size] for size in range(1, len(end)) if end[size:] == end[:-size]]
    found = _matching(texts, re.escape(end))
    for part in parts:
        found |= np.asarray(pc.ends_with(pc.utf8_rtrim_whitespace(texts), part), dtype=np.bool_)
    return found


def _turn_markers(inputs: Inputs) -> list[str]:
    """What a template writes around an instruction, such as `###Human:`; of two characters or more."""
    templates = [text for text in (inputs.template, inputs.later_template) if text]
    parts = (part.strip() for text in templates for part in re.split(f"{re.escape(INSTRUCTION)}|{IMAGES}|\n", text))
    return sorted({part for part in parts if len(part) > 1})


def _holding(texts: pa.Array, parts: Sequence[str]) -> NDArray[np.bool_]:
    found = np.zeros(len(texts), np.bool_)
    for part in parts:
        found |= np.asarray(pc.match_substring(texts, part), dtype=np.bool_)
    return found


def _matching(texts: pa.Array, pattern: str) -> NDArray[np.bool_]:
    if not pattern:
        return np.zeros(len(texts), np.bool_)
    return np.asarray(pc.match_substring_regex(texts, pattern, ignore_case=True), dtype=np.bool_)


def _sums(lists: pa.ListArray, values: object) -> NDArray[np.int64]:
    """The sum of each list's values, (items,) of all lists in order -> (lists,); a missing list has none."""
    before = np.concatenate([[0], np.cumsum(np.asarray(values, dtype=np.int64))])
    ends = np.cumsum(np.asarray(pc.fill_null(pc.list_value_length(lists), 0), dtype=np.int64))
    sums: NDArray[np.int64] = np.diff(before[np.concatenate([[0], ends])])
    return sums


def _any(lists: pa.ListArray, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return _sums(lists, flags) > 0
