"""Annotation files → the objects in them, one at a time, so that the length of a file does not matter.

Text that is no UTF-8 is let through, marked by surrogates: the one record that holds it is dropped, not its file.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Generic, Protocol, TypeVar

from tinygptv.data.annotations.fields import REPEATED, Part, RejectedError, part_of, printable, unread_keys
from tinygptv.data.annotations.images import ImageFolder
from tinygptv.data.tables.json_stream import JsonScanner
from tinygptv.errors import DataError
from tinygptv.sample import Sample

_LONGEST_LINE = 1 << 24  # characters; what is longer is no line of records, and must not fill the memory
_LONGEST_NAME, _MOST_NAMES = 100, 50  # characters of a key that is not read, and such keys with a count of their own

_PUBLISHED = frozenset(
    (
        *("info", "license", "licenses", "type", "images", "annotations", "questions", "categories"),
        *("data_type", "data_subtype", "task_type", "dataset_name", "dataset_type", "dataset_version"),
    )
)
"""What stands beside the list of records in the objects that COCO's, VQA's and TextCaps' files are."""

_P = TypeVar("_P", bound=Part)
_Made = TypeVar("_Made")
_Item = TypeVar("_Item")


class HasSplit(Protocol):
    """What a layout's records are at least."""

    @property
    def split(self) -> str | None: ...


_R = TypeVar("_R", bound=HasSplit)


@dataclass
class Reading:
    """One pass over the files of a source, by role. `not_read` counts the keys, as they are met, that nothing reads,
    and the turns that are left out of a conversation."""

    files: dict[str, Path]
    images: ImageFolder
    not_read: Counter[str] = field(default_factory=Counter)

    def part(self, kind: type[_P], value: Any) -> _P:
        """The object that a JSON value is, its unread keys counted. Raises RejectedError."""
        try:
            part = part_of(kind, value)
            for key in unread_keys(part):
                self._count(f"key {key}")
        except RejectedError as reason:
            reason.wanted = kind
            raise
        return part

    def parts(self, kind: type[_P], values: Iterable[Any], role: str = "") -> Iterator[_P | RejectedError]:
        """An object for each value, or why it is none; `role` is that of the file whose records they are."""
        for number, value in enumerate(values, 1):
            try:
                if isinstance(value, RejectedError):
                    raise value
                part = self.part(kind, value)
            except RejectedError as reason:
                reason.place = f"record {number} of {self.files[role]}" if role else ""
                yield reason
            else:
                yield part

    def records(self, kind: type[_P]) -> Iterator[_P | RejectedError]:
        """Of a file that is one JSON array, or JSON lines, whatever it is called."""
        if begins_with(self.files["annotations"], "["):
            return self.array("annotations", kind)
        return self.parts(kind, lines(self.files["annotations"]), "annotations")

    def array(self, role: str, kind: type[_P]) -> Iterator[_P | RejectedError]:
        """The items of a file that is one array. Raises DataError."""
        return self.parts(kind, array(self.files[role]), role)

    def member(self, role: str, key: str, kind: type[_P]) -> Iterator[_P | RejectedError]:
        """The items of the array under `key` of the object that a file is. Raises DataError."""
        return self.parts(kind, self._list_of(self.files[role], key), role)

    def members(self, role: str) -> Iterator[tuple[str, Any]]:
        """The names and values of the object that a file is. Raises DataError."""
        with _scanner(self.files[role]) as scanner:
            for name in scanner.names():
                yield name, scanner.value()
            scanner.end()

    def _count(self, what: str) -> None:
        """Names that are data, such as an id per record, are counted together."""
        name = what[:_LONGEST_NAME]
        self.not_read[name if name in self.not_read or len(self.not_read) < _MOST_NAMES else "other keys"] += 1

    def _list_of(self, path: Path, key: str) -> Iterator[Any]:
        with _scanner(path) as scanner:
            found: list[str] = []
            for name in scanner.names():
                if name == key and name not in found:
                    yield from scanner.items(f"{key}: […]")
                elif name == key:
                    raise DataError(f"{path}: the list '{key}' is there twice; join the two")
                else:
                    scanner.skip()
                    if name not in _PUBLISHED:
                        self._count(f"key {printable(name)} of the file")
                found.append(name)
            if key not in found:
                raise DataError(f"{path}: expected a list '{key}'; found {printable(', '.join(found)) or 'nothing'}")
            scanner.end()


@dataclass(frozen=True)
class Layout(Generic[_R]):
    """`roles`: the sets of files it can be read from; `records` of them; `convert` one, or reject it. `parts` are the
    kinds of objects in its files, what becomes a sample first. Where `ids_repeat` one id may stand for several records,
    as LLaVA's lists give all talks about a picture the picture's id.

    What `records` yields in a record's place may be a RejectedError: a piece of the file that is none.
    """

    roles: tuple[set[str], ...]
    parts: tuple[type[Part], ...]
    records: Callable[[Reading], Iterator[_R | RejectedError]]
    convert: Callable[[_R, Reading], Sample]
    ids_repeat: bool = False


ONE_FILE = ({"annotations"},)


def hash_of(*texts: str) -> str:
    """64 bits of a hash, as 16 hexadecimal digits: the same for the same texts."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def begins_with(path: Path, sign: str) -> bool:
    """Whether the first character of a file that is no white space is `sign`."""
    with _text(path) as stream:
        while (first := stream.read(1)).isspace():
            pass
    return first == sign


def array(path: Path) -> Iterator[Any]:
    """The items of a file that is one array. Raises DataError."""
    with _scanner(path) as scanner:
        yield from scanner.items("[…]")
        scanner.end()


def lines(path: Path) -> Iterator[Any]:
    """What stands on each line, or why it is nothing; empty ones do not count. Raises DataError for a first line that
    is no JSON, and for an endless one: then the file is something else."""
    with _text(path) as stream:
        for number, line in enumerate(iter(lambda: stream.readline(_LONGEST_LINE), ""), 1):
            if len(line) == _LONGEST_LINE:
                raise DataError(f"{path}, line {number}: longer than {_LONGEST_LINE >> 20} MB; is this the right file?")
            if line.isspace():
                continue
            try:
                yield _DECODER.decode(line.removeprefix("\ufeff"))  # of files joined by `cat`
            except (ValueError, RecursionError) as error:
                if number == 1:
                    raise DataError(
                        f"{path}, line 1: not valid JSON ({error}); want records in one list, or one on each line"
                    ) from error
                yield RejectedError("not_json")


def each(items: Iterable[_Item | RejectedError], make: Callable[[_Item], _Made]) -> Iterator[_Made | RejectedError]:
    """What `make` makes of each item; why there is none where it, or what made the item, says so."""
    for item in items:
        if isinstance(item, RejectedError):
            yield item
            continue
        try:
            yield make(item)
        except RejectedError as reason:
            yield reason


def index(
    parts: Iterable[_P | RejectedError], key: Callable[[_P], str], value: Callable[[_P], _Made]
) -> tuple[dict[str, _Made], list[RejectedError]]:
    """What is kept of objects, by their key; and why others are none. Of two that differ and have the same key neither
    is kept: nobody can tell which one is meant."""
    found: dict[str, _Made] = {}
    rejected, differing = [], set()
    for part in parts:
        if isinstance(part, RejectedError):
            rejected.append(part)
            continue
        name, kept = key(part), value(part)
        if found.setdefault(name, kept) != kept:
            rejected.append(RejectedError("duplicate_key", f"two objects with the id {name} differ"))
            differing.add(name)
    for name in differing:
        del found[name]
    return found, rejected


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        found[REPEATED] = True
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


@contextmanager
def _scanner(path: Path) -> Iterator[JsonScanner]:
    with _text(path) as stream:
        yield JsonScanner(stream, str(path), _DECODER)


@contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    with path.open("rb") as stream:
        encoding = json.detect_encoding(stream.read(4))
    if not encoding.startswith("utf-8"):
        raise DataError(
            f"{path}: written in {encoding.upper()}, and annotations are read in UTF-8; convert the file, for instance "
            f"with `iconv -f {encoding} -t utf-8`"
        )
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        yield stream
