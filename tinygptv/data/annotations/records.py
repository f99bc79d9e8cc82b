"""Annotation files → records, one at a time, so that the length of a file does not matter.

Text that is no UTF-8 is let through, marked by surrogates: the one record that holds it is dropped, not its file.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tinygptv.data.json_stream import array_items, member_items, object_items
from tinygptv.errors import DataError
from tinygptv.sample import Sample

if TYPE_CHECKING:
    from tinygptv.data.annotations.images import ImageFolder

Record = dict[str, Any]
Files = dict[str, Path]

MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError)
"""What reading a record raises that has not the shape of its layout."""

_LONGEST_LINE = 1 << 24  # characters; what is longer is no line of records, and must not fill the memory


class RejectedError(Exception):
    """A record that cannot be used; its message is the reason it is counted under."""


@dataclass(frozen=True)
class Layout:
    """`roles`: the sets of files it can be read from; `records` of them; `convert` one, or reject it.

    What `records` yields in a record's place may be a RejectedError: a piece of the file that is none.
    """

    roles: tuple[set[str], ...]
    records: Callable[[Files], Iterator[Record | RejectedError]]
    convert: Callable[[Record, "ImageFolder"], Sample]


ONE_FILE = ({"annotations"},)


def records(files: Files) -> Iterator[Record | RejectedError]:
    """Of a file that is one JSON array, or JSON lines, whatever it is called."""
    path = files["annotations"]
    yield from array(path) if begins_with(path, "[") else lines(path)


def begins_with(path: Path, sign: str) -> bool:
    """Whether the first character of a file that is no white space is `sign`."""
    with _text(path) as stream:
        while (first := stream.read(1)).isspace():
            pass
    return first == sign


def array(path: Path) -> Iterator[Any]:
    """The items of a file that is one array. Raises DataError."""
    with _text(path) as stream:
        yield from array_items(stream, str(path))


def member(path: Path, key: str) -> Iterator[Any]:
    """The items of the array under `key` of the object that a file is. Raises DataError."""
    with _text(path) as stream:
        yield from member_items(stream, str(path), key)


def members(path: Path) -> Iterator[tuple[str, Any]]:
    """The names and values of the object that a file is. Raises DataError."""
    with _text(path) as stream:
        yield from object_items(stream, str(path))


def lines(path: Path) -> Iterator[Record | RejectedError]:
    """JSON lines; empty ones do not count. Raises DataError for a first line that is none, and for an endless one:
    then the file is something else."""
    with _text(path) as stream:
        for number, line in enumerate(iter(lambda: stream.readline(_LONGEST_LINE), ""), 1):
            if len(line) == _LONGEST_LINE:
                raise DataError(f"{path}, line {number}: longer than {_LONGEST_LINE >> 20} MB; is this the right file?")
            if line.isspace():
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                if number == 1:
                    raise DataError(f"{path}, line 1: not valid JSON ({error}); is this the right file?") from error
                yield RejectedError("not_json")


def in_list(key: str) -> Callable[[Files], Iterator[Record]]:
    """Reads the records under `key` of the object that the one file is."""

    def under_key(files: Files) -> Iterator[Record]:
        yield from member(files["annotations"], key)

    return under_key


def each(items: Iterable[Any], make: Callable[[Any], Record]) -> Iterator[Record | RejectedError]:
    """The record that `make` makes of each item; of what has another shape, a malformed one."""
    for item in items:
        try:
            yield make(item)
        except MALFORMED:
            yield RejectedError("malformed_record")


def index(
    items: Iterable[Any], key: str, value: Callable[[Record], Any]
) -> tuple[dict[Any, Any], Iterator[RejectedError]]:
    """The value of each item by what it has under `key`; and a malformed record for each that has another shape."""
    found, malformed = {}, 0
    for item in items:
        try:
            found[item[key]] = value(item)
        except MALFORMED:
            malformed += 1
    return found, (RejectedError("malformed_record") for _ in range(malformed))


def only(*fields: str) -> Callable[[Record], Record]:
    """For an index: these fields of an item, and nothing else of it."""
    return lambda item: {field: item[field] for field in fields}


@contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    with path.open(encoding="utf-8", errors="surrogateescape") as stream:
        yield stream
