"""Shipped definitions with one random mistake each: every one is found, in its line, and reported once."""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from tinygptv import catalog
from tinygptv.catalog import FOLDERS, names
from tinygptv.errors import DefinitionError
from tinygptv.loading.files import SCHEMAS
from tinygptv.loading.mistakes import FieldPath
from tinygptv.loading.schema import model_at
from tinygptv.loading.written import Written, parse

TRIALS = 50
WRONG: dict[Any, str] = {int: "many", float: "[1, 2]", bool: "7", str: "{a: 1}"}
"""Type → a value of another one."""


@dataclass(frozen=True)
class Entry:
    """A key of a definition that its schema knows, with its value, as nodes with marks."""

    path: FieldPath
    model: type[BaseModel]
    key: yaml.ScalarNode
    value: yaml.Node

    @property
    def name(self) -> str:
        return str(self.path[-1])

    @property
    def line(self) -> int:
        return int(self.key.start_mark.line) + 1


@dataclass(frozen=True)
class Mutation:
    """A changed text, and the lines in which the mistake may be reported."""

    text: str
    lines: set[int]


def entries(node: yaml.Node, kind: str, written: Written, path: FieldPath = ()) -> Iterator[Entry]:
    if isinstance(node, yaml.SequenceNode):
        for at, item in enumerate(node.value):
            yield from entries(item, kind, written, (*path, at))
    if isinstance(node, yaml.MappingNode):
        model = model_at(SCHEMAS[kind], written, path)
        for key, value in node.value:
            if model is not None and key.value in model.model_fields:
                yield Entry((*path, key.value), model, key, value)
            yield from entries(value, kind, written, (*path, key.value))


def replaced(text: str, node: yaml.Node, by: str) -> str:
    return text[: node.start_mark.index] + by + text[node.end_mark.index :]


def misspelt(word: str, draw: random.Random) -> str:
    """The word with two neighbours swapped, or a letter doubled."""
    at = draw.randrange(len(word) - 1)
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return swapped if swapped != word else word[:at] + word[at] + word[at:]


def rename_a_key(text: str, entry: Entry, draw: random.Random) -> Mutation | None:
    new = misspelt(entry.name, draw)
    return None if new in entry.model.model_fields else Mutation(replaced(text, entry.key, new), {entry.line})


def misspell_a_choice(text: str, entry: Entry, draw: random.Random) -> Mutation | None:
    annotation = entry.model.model_fields[entry.name].annotation
    if get_origin(annotation) is not Literal or not all(isinstance(choice, str) for choice in get_args(annotation)):
        return None
    return Mutation(replaced(text, entry.value, misspelt(entry.value.value, draw)), {entry.line})


def change_a_type(text: str, entry: Entry, draw: random.Random) -> Mutation | None:
    annotation = entry.model.model_fields[entry.name].annotation
    allowed = set(get_args(annotation)) - {type(None)} if isinstance(annotation, UnionType) else {annotation}
    wrong = [value for kind, value in WRONG.items() if allowed == {kind}]
    return Mutation(replaced(text, entry.value, wrong[0]), {entry.line}) if wrong else None


def delete_what_is_required(text: str, entry: Entry, draw: random.Random) -> Mutation | None:
    lines, start, end = text.split("\n"), entry.key.start_mark, entry.value.end_mark
    is_block = lines[start.line][: start.column].isspace() or start.column == 0
    if not is_block or not entry.model.model_fields[entry.name].is_required() or "\nbase:" in f"\n{text}":
        return None
    rest = lines[end.line if lines[end.line][: end.column].strip() == "" else end.line + 1 :]
    text = "\n".join([*lines[: start.line], *rest])
    return Mutation(text, {parse(text.encode(), "rest")[0].nearest(entry.path[:-1]).place.line or 0})


def duplicate_a_key(text: str, entry: Entry, draw: random.Random) -> Mutation | None:
    lines = text.split("\n")
    line = lines[entry.line - 1]
    if not isinstance(entry.value, yaml.ScalarNode) or not re.fullmatch(r" *[a-z_]+: [^>|{\[\"']*", line):
        return None
    if entry.value.end_mark.line != entry.value.start_mark.line:
        return None
    return Mutation("\n".join([*lines[: entry.line], line, *lines[entry.line :]]), {entry.line + 1})


def break_the_indentation(text: str, entry: Entry, draw: random.Random) -> Mutation | None:
    lines = text.split("\n")
    line = lines[entry.line - 1]
    if not re.match(rf" +{re.escape(entry.name)}:", line):
        return None
    shifted = " " + line if draw.random() < 0.5 else line[1:]
    # The line itself still fits if it is the first of its block; then the next one does not: its child or its sibling.
    child = entry.line + 1
    deeper = " " * (entry.key.start_mark.column + 1)
    sibling = next((at for at, other in enumerate(lines, 1) if at > entry.line and not other.startswith(deeper)), child)
    text = "\n".join([*lines[: entry.line - 1], shifted, *lines[entry.line :]])
    return Mutation(text, {entry.line, child, sibling})


MUTATORS: list[Callable[[str, Entry, random.Random], Mutation | None]] = [
    rename_a_key,
    misspell_a_choice,
    change_a_type,
    delete_what_is_required,
    duplicate_a_key,
    break_the_indentation,
]


def mutations(mutate: Callable[..., Mutation | None], count: int) -> Iterator[tuple[str, Mutation]]:
    draw = random.Random(mutate.__name__)
    files = [(kind, FOLDERS[kind] / f"{name}.yaml") for kind in SCHEMAS for name in names(kind)]
    while count:
        kind, path = draw.choice(files)
        text = path.read_text(encoding="utf-8")
        written, _ = parse(text.encode(), "original")
        entry = draw.choice(list(entries(yaml.compose(text, yaml.SafeLoader), kind, written)))
        if (mutation := mutate(text, entry, draw)) is not None:
            count -= 1
            yield kind, mutation


@pytest.mark.parametrize("mutate", MUTATORS, ids=lambda mutate: mutate.__name__)
def test_each_mistake_is_reported_once_and_in_its_line(mutate: Callable[..., Mutation | None], tmp_path: Path) -> None:
    for number, (kind, mutation) in enumerate(mutations(mutate, TRIALS)):
        path = tmp_path / f"wrong{number}.yaml"
        path.write_text(mutation.text, encoding="utf-8")
        with pytest.raises(DefinitionError) as refused:
            catalog.load(kind, str(path))
        message = re.fullmatch(rf"{re.escape(str(path))}:(\d+): .+", str(refused.value))
        assert message, f"{refused.value}\n{mutation.lines}\n{mutation.text}"
        assert int(message[1]) in mutation.lines, f"{refused.value}\n{mutation.lines}\n{mutation.text}"
