"""Which samples of a mixture a stage can learn from: checked once, before the stage draws any.

A mixture knows neither the words in which a stage asks nor the positions of its decoder, so this is found out for each
stage. Left out, and counted, are samples that would run past the decoder's last position, and those whose answer holds
the end symbol, which would be cut there whenever the model gives it. Special tokens and turn markers in a sample's text
are harmless, for they are read as text, but counted too.

Most samples need not be tokenised to know that they fit; see `screening`.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinygptv.data.batches.batching import load_tokenizer
from tinygptv.data.mixtures.mixing import LEFT_OUT, SAMPLES, MixedSamples
from tinygptv.data.prompting.prompts import renderings
from tinygptv.data.prompting.screening import Screening, screen
from tinygptv.data.prompting.sequences import Sequences
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.model import Model
from tinygptv.definitions.reasons import END_SYMBOL_IN_ANSWER, PROMPT_TOO_LONG
from tinygptv.definitions.recipe import Inputs
from tinygptv.definitions.template import Prompting
from tinygptv.errors import DataError
from tinygptv.sample import Sample
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name, sha256_of
from tinygptv.store.locations import local_path

SPECIAL_TOKEN_IN_TEXT, TURN_MARKER_IN_TEXT = "special_token_in_text", "turn_marker_in_text"

MEASURED = 500
"""Samples whose tokens are counted to find the longest sequence: those with the most bytes."""

_LAYOUT = 1  # of what is left behind, and how it is found out; raise it when either changes
_SAMPLES_AT_A_TIME = 1000


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


def summary_lines(checked: Manifest) -> Iterator[str]:
    """What was found out, for people."""
    drops = ", ".join(f"{reason} {count}" for reason, count in checked.drops.items())
    left_out = f" (left out: {drops})" if drops else ""
    yield (
        f"{checked.rows_out} of {checked.rows_in} samples can be learned from{left_out}; "
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
    tasks = [component.task for component in mixed.mixture.components]
    screening = screen(store.file(mixture, SAMPLES), tasks, sequences)
    left_out, longest = _decide(screening, mixed, sequences, model.language_model.max_positions)
    np.save(folder / LEFT_OUT, np.array(sorted(left_out), np.int64))
    drops, remaining = Counter[str](), list[int]()
    for component, (one, size) in enumerate(zip(mixed.mixture.components, mixed.sizes, strict=True)):
        reasons = Counter(reason for place, reason in left_out.values() if place == component)
        if size == reasons.total():
            raise DataError(_nothing_left(mixture, one.source, reasons, inputs, model))
        drops.update({f"{one.source}: {reason}": count for reason, count in reasons.items()})
        remaining.append(size - reasons.total())
    details = {
        "samples": remaining,
        "longest_sequence": longest,
        "read_as_text": _read_as_text(screening, mixed, sequences, set(left_out)),
    }
    return Outcome(rows_in=sum(mixed.sizes), rows_out=sum(remaining), drops=dict(drops), details=details)


def _decide(
    screening: Screening, mixed: MixedSamples, sequences: Sequences, positions: int
) -> tuple[dict[int, tuple[int, str]], int]:
    """Component and reason of every row to be left out, and the tokens of the longest sequence that stays."""
    left_out, longest = dict[int, tuple[int, str]](), 0
    suspect = (screening.max_tokens > positions) | screening.end_symbol
    others = np.flatnonzero(~suspect)
    largest = others[np.argsort(screening.max_tokens[others], kind="stable")[-MEASURED:]]
    for row, component, sample in _samples(mixed, np.concatenate([np.flatnonzero(suspect), largest])):
        tokens, early = measure(sample, mixed.mixture.components[component].task, sequences)
        if tokens > positions:
            left_out[row] = component, PROMPT_TOO_LONG
        elif early:
            left_out[row] = component, END_SYMBOL_IN_ANSWER
        else:
            longest = max(longest, tokens)
    return left_out, longest


def measure(sample: Sample, task: Task, sequences: Sequences) -> tuple[int, bool]:
    """The most tokens that a sample may have, however it is worded, and whether an answer would end early."""
    longest, early = 0, False
    for turns in renderings(sequences.as_text(sample), task, sequences.inputs):
        longest = max(longest, sequences.length(turns))
        early = early or any(sequences.ends_early(turn.answer) for turn in turns)
    return longest, early


def _read_as_text(
    screening: Screening, mixed: MixedSamples, sequences: Sequences, left_out: set[int]
) -> dict[str, int]:
    """How many of the samples that stay write a special token, or what stands around an instruction."""
    special = (
        row for row, _, one in _samples(mixed, np.flatnonzero(screening.special_token)) if sequences.as_text(one) != one
    )
    found = {SPECIAL_TOKEN_IN_TEXT: special, TURN_MARKER_IN_TEXT: np.flatnonzero(screening.turn_marker).tolist()}
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
    for begin in range(0, len(rows), _SAMPLES_AT_A_TIME):
        some = slice(begin, begin + _SAMPLES_AT_A_TIME)
        for row, (component, _), sample in zip(
            rows[some].tolist(), places[some], mixed.samples(places[some]), strict=True
        ):
            yield row, component, sample
