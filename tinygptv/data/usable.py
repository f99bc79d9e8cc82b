"""Which samples of a mixture a stage can learn from: checked once, before the stage draws any.

A mixture knows neither the words in which a stage asks nor the positions of its decoder, so this is found out for each
stage. Left out, and counted, are samples that would run past the decoder's last position, and those whose answer holds
the end symbol, which would be cut there whenever the model gives it. Special tokens and turn markers in a sample's text
are harmless, for they are read as text, but counted too.

Text of n bytes has at most n tokens, so that most samples need not be tokenised to know that they fit. If a tokenizer
unfolds a ligature into more bytes than it had, and a sequence is overlooked for that, the model refuses it.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tinygptv.artifacts import Manifest, Outcome, Store, artifact_name, sha256_of
from tinygptv.data.batching import load_tokenizer
from tinygptv.data.mixing import LEFT_OUT, SAMPLES, MixedSamples
from tinygptv.data.prompts import WORDINGS, renderings
from tinygptv.data.reasons import END_SYMBOL_IN_ANSWER, PROMPT_TOO_LONG
from tinygptv.data.sequences import Sequences
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Inputs
from tinygptv.definitions.template import IMAGES, INSTRUCTION, Prompting
from tinygptv.errors import DataError
from tinygptv.locations import local_path
from tinygptv.sample import IMAGE_PLACE, Sample

SPECIAL_TOKEN_IN_TEXT, TURN_MARKER_IN_TEXT = "special_token_in_text", "turn_marker_in_text"

MEASURED = 500
"""Samples whose tokens are counted to find the longest sequence: those with the most bytes."""

_LAYOUT = 1  # of what is left behind, and how it is found out; raise it when either changes
_ROWS = 50_000  # of a mixture that are looked at together
_BOX_BYTES = 40  # of one box in any family's form, at most
_JOINING_BYTES = 8  # BOS, spaces, and what a tokenizer puts before a piece


def check(store: Store, mixture: str, inputs: Inputs, model: Model) -> Manifest:
    """Find out which samples of a finished mixture a stage with these inputs can learn from, or find it known.

    Raises DataError if that leaves nothing of a component.
    """
    definition = _definition(inputs, model)
    artifact = _artifact(mixture, definition)
    return store.make(
        artifact, "check", definition, [mixture], lambda folder: _check(folder, store, mixture, inputs, model)
    )


def find_checked(store: Store, mixture: str, inputs: Inputs, model: Model) -> Manifest | None:
    """What `check` has found out, or None if it was not asked yet."""
    return store.find(_artifact(mixture, _definition(inputs, model)))


def lines(checked: Manifest) -> Iterator[str]:
    """What was found out, for people."""
    kept = ", ".join(f"{reason} {count}" for reason, count in checked.drops.items())
    yield (
        f"{checked.rows_out} of {checked.rows_in} samples can be learned from{f' (left out: {kept})' if kept else ''}; "
        f"longest sequence {checked.details['longest_sequence']} tokens of {checked.definition['positions']} positions"
    )
    for reason, count in checked.details["read_as_text"].items():
        yield f"{reason} {count}: kept, and read as text"


def _definition(inputs: Inputs, model: Model) -> dict[str, object]:
    """All that decides about a sample, and nothing else: stages that ask alike share it."""
    tokenizer = local_path(model.language_model.tokenizer)
    read = {*Prompting.model_fields, "max_text_tokens", "oddities"}
    return {
        "layout": _LAYOUT,
        "inputs": inputs.model_dump(mode="json", include=read),
        "image_tokens": model.num_image_tokens(inputs.image_size),
        "positions": model.language_model.max_positions,
        "tokenizer": {file.name: sha256_of(file) for file in sorted(tokenizer.glob("*.json"))},
    }


def _artifact(mixture: str, definition: dict[str, object]) -> str:
    name = Path(mixture).name.partition("@")[0]
    return artifact_name(f"usable/{name}", definition, [mixture])


def _check(folder: Path, store: Store, mixture: str, inputs: Inputs, model: Model) -> Outcome:
    tokenizer = load_tokenizer(local_path(model.language_model.tokenizer))
    sequences = Sequences(tokenizer, inputs, model.num_image_tokens(inputs.image_size))
    mixed = MixedSamples(store, mixture, first_tombstones=0)
    looks = _looks(store.file(mixture, SAMPLES), mixed, sequences)
    left_out, longest = _judge(looks, mixed, sequences, model.language_model.max_positions)
    np.save(folder / LEFT_OUT, np.array(sorted(left_out), np.int64))
    drops, left = Counter[str](), list[int]()
    for component, (one, size) in enumerate(zip(mixed.mixture.components, mixed.sizes, strict=True)):
        reasons = Counter(reason for place, reason in left_out.values() if place == component)
        if size == reasons.total():
            raise DataError(_nothing_left(mixture, one.source, reasons, inputs, model))
        drops.update({f"{one.source}: {reason}": count for reason, count in reasons.items()})
        left.append(size - reasons.total())
    details = {
        "samples": left,
        "longest_sequence": longest,
        "read_as_text": _read_as_text(looks, mixed, sequences, set(left_out)),
    }
    return Outcome(rows_in=sum(mixed.sizes), rows_out=sum(left), drops=dict(drops), details=details)


def _judge(
    looks: "_Looks", mixed: MixedSamples, sequences: Sequences, positions: int
) -> tuple[dict[int, tuple[int, str]], int]:
    """Component and reason of every row to be left out, and the tokens of the longest sequence that stays."""
    doubtful = (looks.most_tokens > positions) | looks.end_symbol
    left_out, longest = dict[int, tuple[int, str]](), 0
    others = np.flatnonzero(~doubtful)
    largest = others[np.argsort(looks.most_tokens[others], kind="stable")[-MEASURED:]]
    for row, component, sample in _samples(mixed, np.concatenate([np.flatnonzero(doubtful), largest])):
        tokens, early = _read(sample, mixed.mixture.components[component].task, sequences)
        if tokens > positions:
            left_out[row] = component, PROMPT_TOO_LONG
        elif early:
            left_out[row] = component, END_SYMBOL_IN_ANSWER
        else:
            longest = max(longest, tokens)
    return left_out, longest


def _read(sample: Sample, task: Task, sequences: Sequences) -> tuple[int, bool]:
    """The most tokens that a sample may have, however it is worded, and whether an answer would end early."""
    longest, early = 0, False
    for turns in renderings(sequences.as_text(sample), task, sequences.inputs):
        longest = max(longest, sequences.length(turns))
        early = early or any(sequences.ends_early(turn.answer) for turn in turns)
    return longest, early


def _read_as_text(looks: "_Looks", mixed: MixedSamples, sequences: Sequences, left_out: set[int]) -> dict[str, int]:
    """How many of the samples that stay write a special token, or what stands around an instruction."""
    special = (
        row for row, _, one in _samples(mixed, np.flatnonzero(looks.special_token)) if sequences.as_text(one) != one
    )
    found = {SPECIAL_TOKEN_IN_TEXT: special, TURN_MARKER_IN_TEXT: np.flatnonzero(looks.turn_marker).tolist()}
    counts = {reason: len(set(rows) - left_out) for reason, rows in found.items()}
    return {reason: count for reason, count in counts.items() if count}


def _nothing_left(mixture: str, source: str, reasons: Counter[str], inputs: Inputs, model: Model) -> str:
    counts = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    remedies = {
        PROMPT_TOO_LONG: f"shorten the prompts, for the decoder has {model.language_model.max_positions} positions",
        END_SYMBOL_IN_ANSWER: f"choose another inputs.end_symbol than {inputs.end_symbol!r}",
    }
    remedy = "; ".join(remedies[reason] for reason in reasons)
    return f"{mixture}: nothing of {source} is left that can be learned from ({counts}); {remedy}"


def _samples(mixed: MixedSamples, rows: NDArray[np.int64]) -> Iterator[tuple[int, int, Sample]]:
    """Row, component and sample for some rows of a mixture's table."""
    starts = np.concatenate([[0], np.cumsum(mixed.sizes)])
    components = np.searchsorted(starts, rows, side="right") - 1
    places = list(zip(components.tolist(), (rows - starts[components]).tolist(), strict=True))
    for begin in range(0, len(rows), 1000):
        some = slice(begin, begin + 1000)
        for row, (component, _), sample in zip(
            rows[some].tolist(), places[some], mixed.samples(places[some]), strict=True
        ):
            yield row, component, sample


# What can be seen of many samples at once


class _Looks(NamedTuple):
    """Of N samples, N of each: an upper bound of the sequence's tokens; whether an answer seems to hold the end symbol,
    and any text a special token or a turn marker."""

    most_tokens: NDArray[np.int64]
    end_symbol: NDArray[np.bool_]
    special_token: NDArray[np.bool_]
    turn_marker: NDArray[np.bool_]


def _looks(samples: Path, mixed: MixedSamples, sequences: Sequences) -> _Looks:
    columns = ["images", "turns", "answers", "boxes", "component"]
    tasks = [component.task for component in mixed.mixture.components]
    with pq.ParquetFile(samples) as file:
        parts = [_look(batch, tasks, sequences) for batch in file.iter_batches(_ROWS, columns=columns)]
    return _Looks(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _look(batch: pa.RecordBatch, tasks: Sequence[Task], sequences: Sequences) -> _Looks:
    inputs, turns, answers = sequences.inputs, batch["turns"], batch["answers"]
    asked, told = (turns.flatten().field(side) for side in ("instruction", "answer"))
    asked_bytes, told_bytes = _sums(turns, pc.binary_length(asked)), _sums(turns, pc.binary_length(told))
    accepted = _sums(answers, pc.binary_length(answers.flatten()))
    images, boxes = (_sums(batch[name], np.ones(len(batch[name].flatten()))) for name in ("images", "boxes"))
    template = max(len(text.encode()) for text in (inputs.template or "", inputs.later_template or ""))
    wording = np.array(
        [max(len(text.encode()) for text in inputs.wordings.get(task) or WORDINGS[task]) for task in tasks]
    )
    shown = len((inputs.image + inputs.bare_image + inputs.after_image).encode())
    first = turns.offsets.to_numpy()[:-1] - turns.offsets[0].as_py()
    first_bytes = np.asarray(pc.binary_length(asked))[first] + boxes * _BOX_BYTES
    prompt = len(inputs.system.encode()) + template + wording[batch["component"].to_numpy()] + first_bytes
    prompt += images * (shown + sequences.image_tokens) + _JOINING_BYTES
    later = _sums(turns, np.full(len(asked), template + len(inputs.end_symbol.encode()) + _JOINING_BYTES))
    rest = asked_bytes + told_bytes + accepted + boxes * _BOX_BYTES + later + images * (shown + sequences.image_tokens)
    spoken = [(turns, asked), (turns, told), (answers, answers.flatten())]
    special, markers = "|".join(map(re.escape, sequences.literal.special)), _turn_markers(inputs)
    return _Looks(
        prompt + np.minimum(rest, inputs.max_text_tokens),
        np.any([_any(lists, _ends(texts, sequences)) for lists, texts in spoken[1:]], axis=0),
        np.any([_any(lists, _matching(texts, special)) for lists, texts in spoken], axis=0),
        np.any([_any(lists, _holding(texts, markers)) for lists, texts in spoken], axis=0),
    )


def _ends(texts: pa.Array, sequences: Sequences) -> NDArray[np.bool_]:
    """Which texts may end early: they hold the end symbol, in any case, or end in what it could begin in."""
    end = sequences.written_end
    begun = [end[:size] for size in range(1, len(end)) if end[size:] == end[:-size]]
    found = _matching(texts, re.escape(end))
    for beginning in begun:
        found |= np.asarray(pc.ends_with(pc.utf8_rtrim_whitespace(texts), beginning), dtype=np.bool_)
    return found


def _turn_markers(inputs: Inputs) -> list[str]:
    """What a template writes around an instruction, such as `###Human:`; of a letter or more."""
    templates = [text for text in (inputs.template, inputs.later_template) if text]
    parts = (part.strip() for text in templates for part in re.split(f"{re.escape(INSTRUCTION)}|{IMAGES}|\n", text))
    return sorted({part for part in parts if len(part) > 1 and part != IMAGE_PLACE})


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
