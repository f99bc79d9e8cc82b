"""Screening overlooks nothing: its bounds hold, and whatever is left out or counted later was suspected first."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.batches.test_usable import IMAGE_TOKENS, TOKENIZER
from tinygptv import catalog
from tinygptv.data.batches.usable import measure
from tinygptv.data.mixtures import mixing
from tinygptv.data.prompting import screening
from tinygptv.data.prompting.prompts import WORDINGS
from tinygptv.data.prompting.screening import screen, screen_batch
from tinygptv.data.prompting.sequences import Sequences
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.recipe import Inputs
from tinygptv.sample import ImageReference, Sample, Turn

BOX = "{<12><20><50><100>}"
PARTS = [
    "a cat",
    "日本",
    "🐈",
    "###",
    "#",
    "<|endoftext|>",
    " ",
    "\n",
    "</s>",
    BOX,
    f"<p>a dog</p> {BOX}",
    "é",
    "x" * 40,
]
SPOKEN = st.lists(st.sampled_from(PARTS), max_size=6).map("".join)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    turns=st.lists(st.tuples(SPOKEN, SPOKEN), min_size=1, max_size=3),
    images=st.integers(0, 3),
    answers=st.lists(SPOKEN, max_size=2),
    task=st.sampled_from(sorted(WORDINGS)),
    family=st.sampled_from(["tinygptv", "qwen_vl", "llava_v1", "visualglm", None]),
)
def test_nothing_that_would_be_left_out_is_overlooked_in_the_first_look(
    turns: list[tuple[str, str]], images: int, answers: list[str], task: Task, family: str | None
) -> None:
    template = catalog.template(family).model_dump(exclude={"about"}) if family else {"template": None}
    fields = {"end_symbol": "###"} | template | {"begin": "never"}
    inputs = Inputs.model_validate({"image_size": 64, "max_text_tokens": 40} | fields)
    pictures = tuple(ImageReference("/a.png") for _ in range(images))
    boxes = ((0.12, 0.2, 0.5, 1.0),) * sum(text.count(BOX) for turn in turns for text in turn)
    sample = Sample("key", pictures, tuple(Turn(*turn) for turn in turns), "s", "", tuple(answers), boxes)
    sequences = Sequences(TOKENIZER, inputs, IMAGE_TOKENS)
    found = screen_batch(rows_of(sample), [task], sequences)
    tokens, early = measure(sample, task, sequences)
    assert tokens <= found.max_tokens[0]
    assert found.end_symbol[0] or not early
    assert found.special_token[0] or sequences.as_text(sample) == sample


def rows_of(*samples: Sample) -> pa.RecordBatch:
    """The samples as a mixture holds them."""
    table = pa.Table.from_pylist([mixing._row(sample, "root", Path("/")) for sample in samples], mixing._SCHEMA)
    return table.append_column("component", pa.array([0] * len(samples), pa.int16())).to_batches()[0]


@pytest.mark.parametrize("end", ["###", "\n", "<|endoftext|>", "a b"])
def test_each_row_is_judged_by_its_own_texts_alone(end: str, tmp_path: Path) -> None:
    inputs = Inputs(image_size=64, max_text_tokens=40, template="Human: {} Bot: ", end_symbol=end, plain=False)
    sequences = Sequences(TOKENIZER, inputs, IMAGE_TOKENS)
    turns = [("", "x"), ("q", "x a b"), ("q", "x\ny"), ("Human: q", "x ###"), ("q" * 90, "<|endoftext|>"), ("", "x")]
    samples = [Sample(str(number), (), (Turn("q", "x"), Turn(*turn))) for number, turn in enumerate(turns)]
    samples[5] = replace(samples[5], answers=("x", end))
    pq.write_table(pa.Table.from_batches([rows_of(*samples)]), tmp_path / "samples.parquet", row_group_size=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(screening, "_ROWS", 4)
        found = screen(tmp_path / "samples.parquet", ["vqa"], sequences)
    for row, sample in enumerate(samples):
        answers = "".join((*(turn.answer for turn in sample.turns), *sample.answers))
        assert found.end_symbol[row] == (bool(sequences.written_end) and sequences.written_end in answers)
    assert found.special_token.tolist() == [False] * 4 + [True, end == "<|endoftext|>"]
    assert found.turn_marker.tolist() == [False] * 3 + [True, False, False]
