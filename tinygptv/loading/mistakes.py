"""Mistakes in definitions: where they are, and one error that lists them all."""

from collections.abc import Iterable
from dataclasses import dataclass

from tinygptv.errors import DefinitionError

FieldPath = tuple[str | int, ...]
"""Keys and list positions that lead to a value: `("stages", 0, "schedule")`."""


@dataclass(frozen=True)
class Place:
    """Where a value is written. `line` counts from 1 and is None for a command-line option.

    `column` distinguishes entries of one line; `note` says more about the origin, such as `default`.
    """

    file: str
    line: int | None = None
    column: int = 0
    note: str = ""

    def __str__(self) -> str:
        line = "" if self.line is None else f":{self.line}"
        return f"{self.file}{line}{f' ({self.note})' if self.note else ''}"


@dataclass(frozen=True)
class Mistake:
    """One thing to correct: its place, its field (empty for the whole file), what was found and what is allowed."""

    place: Place
    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.field}: {self.text}" if self.field else f"{self.place}: {self.text}"


def refusal(mistakes: Iterable[Mistake], asked_for: str = "") -> DefinitionError:
    """One error for all mistakes: each once, file by file, `asked_for` first, in the order of their lines."""
    unique = list(dict.fromkeys(mistakes))
    files = list(dict.fromkeys([asked_for, *(mistake.place.file for mistake in unique)]))
    in_order = sorted(unique, key=lambda one: (files.index(one.place.file), one.place.line or 0, one.place.column))
    if len(in_order) == 1:
        return DefinitionError(str(in_order[0]))
    return DefinitionError(f"{len(in_order)} mistakes:" + "".join(f"\n  {mistake}" for mistake in in_order))


def field_name(path: FieldPath) -> str:
    """A path as it is shown: `stages[0].schedule`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
