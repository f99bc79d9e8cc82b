"""Annotation files → the objects in them, one at a time, so that memory does not grow with the file.

Invalid UTF-8 is passed on as surrogates: only the record that contains it is dropped, not the file.
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

_MAX_LINE_LENGTH = 1 << 24  # characters; a longer line is not a record, and must not fill the memory
_MAX_NAME_LENGTH, _MAX_NAMES = 100, 50  # characters of an unread key; unread keys with their own count

_PUBLISHED = frozenset(
    (
        *("info", "license", "licenses", "type", "images", "annotations", "questions", "categories"),
        *("data_type", "data_subtype", "task_type", "dataset_name", "dataset_type", "dataset_version"),
    )
)
"""Known members next to the list of records in COCO's, VQA's and TextCaps' files."""

_P = TypeVar("_P", bound=Part)
_Made = TypeVar("_Made")
_Item = TypeVar("_Item")


class HasSplit(Protocol):
    """The common interface of a layout's records."""

    @property
    def split(self) -> str | None: ...


_R = TypeVar("_R", bound=HasSplit)


@dataclass
class Reading:
    """One pass over the files of a source, by role. `not_read` counts keys that nothing reads, and turns left out of a
    conversation."""

    files: dict[str, Path]
    images: ImageFolder
    not_read: Counter[str] = field(default_factory=Counter)

    def part(self, kind: type[_P], value: Any) -> _P:
        """Validate a JSON value as an object and count its unread keys. Raises RejectedError."""
        try:
            part = part_of(kind, value)
            for key in unread_keys(part):
                self._count(f"key {key}")
        except RejectedError as reason:
            reason.wanted = kind
            raise
        return part

    def parts(self, kind: type[_P], values: Iterable[Any], role: str = "") -> Iterator[_P | RejectedError]:
        """An object for each value, or the error for it; `role` is that of the file whose records they are."""
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
        """The records of a file that is a JSON array or JSON lines, whatever its name."""
        if begins_with(self.files["annotations"], "["):
            return self.array("annotations", kind)
        return self.parts(kind, lines(self.files["annotations"]), "annotations")

    def array(self, role: str, kind: type[_P]) -> Iterator[_P | RejectedError]:
        """The items of a file that is one array. Raises DataError."""
        return self.parts(kind, array(self.files[role]), role)

    def member(self, role: str, key: str, kind: type[_P]) -> Iterator[_P | RejectedError]:
        """The items of the array under `key` of a file that is one object. Raises DataError."""
        return self.parts(kind, self._list_of(self.files[role], key), role)

    def members(self, role: str) -> Iterator[tuple[str, Any]]:
        """The names and values of a file that is one object. Raises DataError."""
        with _scanner(self.files[role]) as scanner:
            for name in scanner.names():
                yield name, scanner.value()
            scanner.end()

    def _count(self, what: str) -> None:
        """Count an unread key; past a limit, keys are counted together, since names may be data such as ids."""
        name = what[:_MAX_NAME_LENGTH]
        self.not_read[name if name in self.not_read or len(self.not_read) < _MAX_NAMES else "other keys"] += 1

    def _list_of(self, path: Path, key: str) -> Iterator[Any]:
        with _scanner(path) as scanner:
            found: list[str] = []
            for name in scanner.names():
                if name == key and name not in found:
                    yield from scanner.items(f"{key}: […]")
                elif name == key:
                    raise DataError(f"{path}: the list '{key}' occurs twice; join the two")
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
    """How to read one annotation format.

    `roles` are the sets of files it can be read from; `records` reads them; `convert` makes a sample of a record, or
    rejects it. `parts` are the kinds of objects in its files, the record first. With `ids_repeat`, several records may
    share an id, as LLaVA's conversations about a picture share the picture's id.

    `records` may yield a RejectedError in place of a record.
    """

    roles: tuple[set[str], ...]
    parts: tuple[type[Part], ...]
    records: Callable[[Reading], Iterator[_R | RejectedError]]
    convert: Callable[[_R, Reading], Sample]
    ids_repeat: bool = False


ONE_FILE = ({"annotations"},)


def hash_of(*texts: str) -> str:
    """A 64-bit hash of texts as 16 hexadecimal digits."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def begins_with(path: Path, sign: str) -> bool:
    """Whether the first non-space character of a file is `sign`."""
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
    """The values of a JSON lines file, or the error for a line; empty lines are skipped.

    Raises DataError if the first line is not JSON, or a line is too long: the file is then something else.
    """
    with _text(path) as stream:
        for number, line in enumerate(iter(lambda: stream.readline(_MAX_LINE_LENGTH), ""), 1):
            if len(line) == _MAX_LINE_LENGTH:
                raise DataError(
                    f"{path}, line {number}: longer than {_MAX_LINE_LENGTH >> 20} MB; is this the right file?"
                )
            if line.isspace():
                continue
            try:
                yield _DECODER.decode(line.removeprefix("\ufeff"))  # a BOM in the middle comes from `cat`
            except (ValueError, RecursionError) as error:
                if number == 1:
                    raise DataError(
                        f"{path}, line 1: not valid JSON ({error}); want records in one list, or one on each line"
                    ) from error
                yield RejectedError("not_json")


def each(items: Iterable[_Item | RejectedError], make: Callable[[_Item], _Made]) -> Iterator[_Made | RejectedError]:
    """Apply `make` to each item; errors are passed on, and those that `make` raises are yielded."""
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
    """Index objects by key, and collect the errors. Different objects with the same key are all dropped, because it is
    unclear which one is meant."""
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
            f"{path}: encoded in {encoding.upper()}, but annotations must be in UTF-8; convert the file, for example "
            f"with `iconv -f {encoding} -t utf-8`"
        )
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        yield stream
