"""The tables of docs/datasets.md are true as long as they name what exists; its example is read as it says."""

import re
from pathlib import Path

import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from tests.data.annotations.test_samples import REAL, TWINS
from tests.marked import marked
from tinygptv import catalog
from tinygptv.data.annotations import TASKS, read_annotations
from tinygptv.data.prompting.prompts import render
from tinygptv.data.prompting.sequences import Sequences
from tinygptv.definitions.recipe import Inputs
from tinygptv.definitions.source import AnnotationsSource
from tinygptv.store.artifacts import Store

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs" / "datasets.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def names(text: str) -> list[str]:
    return re.findall(r"`([a-z0-9_]+)`", text)


DATASETS = [row for row in rows("What is read") if names(row[1]) and row[2] != "tables and shards"]


@pytest.mark.parametrize("row", DATASETS, ids=lambda row: row[1].strip("`"))
def test_each_dataset_is_read_as_its_row_says(row: list[str]) -> None:
    _, (name,), (layout,), records, twins, (task,) = row[0], *map(names, row[1:3]), row[3], names(row[4]), names(row[5])
    source = catalog.source(name)
    assert isinstance(source, AnnotationsSource)
    assert source.format == layout
    assert task in TASKS[source.format]
    assert records.startswith("real") == (name in REAL)
    assert set(twins) <= set(TWINS)
    assert twins
    if name in REAL:
        assert REAL[name].task == task


def test_every_dataset_of_the_stages_has_its_row() -> None:
    in_table = {name for row in DATASETS for name in names(row[1])}
    mixtures = [catalog.mixture(name) for name in ("stage3_instruct", "stage4_multitask", "stage4_first_release")]
    assert {part.source for mixture in mixtures for part in mixture.components} <= in_table
    assert set(REAL) <= in_table
    assert {name for row in rows("What is read") for name in names(row[4])} >= set(TWINS)


def test_every_test_and_template_that_the_page_names_exists() -> None:
    defined = {
        name
        for path in (CHECKOUT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def test_(\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    headings = ("Answers, cuts, images", "Pictures", "Scores", "What is wrong with a record")
    tables = [row for heading in headings for row in rows(heading)]
    named = {name for row in tables for name in names(row[-1])} | {
        name for name in names(PAGE.partition("## Your own conversations")[0]) if name.count("_") > 3
    }
    assert len(named) > 30
    assert named <= defined
    assert {name for row in rows("Words of a family") for name in names(row[0])} == set(catalog.names("template"))


def test_every_reason_has_its_row() -> None:
    readers = (CHECKOUT / "tinygptv" / "data" / "annotations").glob("*.py")
    given = {
        reason
        for path in readers
        for reason in re.findall(r'RejectedError\(\s*"(\w+)"', path.read_text(encoding="utf-8"))
    }
    assert {name for row in rows("What is wrong with a record") for name in names(row[1])} >= given


def test_the_example_of_your_own_conversations_is_read_as_the_page_says(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    talks, described, text = (
        re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[0] for kind in ("json", "yaml", "text")
    )
    (tmp_path / "talks.jsonl").write_text(talks)
    (tmp_path / "pictures").mkdir()
    for name in ("left.jpg", "right.jpg"):
        Image.new("RGB", (100, 50)).save(tmp_path / "pictures" / name)
    (tmp_path / "own" / "sources").mkdir(parents=True)
    (tmp_path / "own" / "sources" / "my_talks.yaml").write_text(described)
    monkeypatch.setenv(catalog.OWN_DEFINITIONS, str(tmp_path / "own"))
    monkeypatch.chdir(tmp_path)
    source = catalog.source("my_talks")
    assert isinstance(source, AnnotationsSource)
    found = read_annotations(store, "my_talks", source)
    assert not found.drops
    words = catalog.template("tinygptv").model_dump(exclude={"about"})
    inputs = Inputs.model_validate({"image_size": 16, "max_text_tokens": 400} | words)
    turns = [render(sample, "conversation", inputs) for sample in found.samples]
    texts = Sequences(byte_tokenizer, inputs, 1).training(turns)
    assert marked(texts, byte_tokenizer) == text.strip()
    assert marked(texts, byte_tokenizer, 1) == "¶###Human: Who wrote Emma? ###Assistant: «Jane Austen.###»"
