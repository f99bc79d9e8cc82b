"""Which columns of a file are read, and as what: decided once per file and said in one log line."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tinygptv.data.shards.shards import SCHEMA
from tinygptv.data.tables.table_bytes import Head
from tinygptv.data.tables.table_files import TableFile
from tinygptv.definitions.filters import SCORE_COLUMNS
from tinygptv.definitions.source import COLUMN_NAMES, REQUIRED, Table
from tinygptv.errors import DataError, did_you_mean

logger = logging.getLogger(__name__)

_KNOWN_UNREAD = {"nsfw_score_gantman", "clip_similarity_vitl14", "aesthetic_score_laion_v2", "image_phash", "num_faces"}
"""COYO's columns beside those that are read: what they hold is known, and none of our fields."""

_TELLING = {
    "punsafe": re.compile(r"nsfw|unsafe|safe|porn|explicit|toxic|csam|(?<![a-z])(adult|nude|sexual)", re.I),
    "pwatermark": re.compile(r"watermark", re.I),
    "licence": re.compile(r"licen[sc]e|(?<![a-z])rights|copyright", re.I),
}
"""Field → names of columns that say such a thing and should not be passed over in silence."""

_MOST_NAMES = 30


class Column(NamedTuple):
    """A column by its place in the file, or behind its last one for a partition's; `members` lead into structs."""

    name: str
    place: int
    members: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ".".join([self.name, *self.members])


@dataclass(frozen=True)
class Columns:
    """Row field → column, and sidecar column → column that is carried. `names` are the file's, then its partitions';
    with `carries_all` what a record holds beyond them is carried as well."""

    fields: dict[str, Column]
    carried: dict[str, Column]
    names: list[str]
    carries_all: bool

    @property
    def unread(self) -> list[str]:
        """Columns of which nothing is read."""
        read = {column.place for column in (*self.fields.values(), *self.carried.values())}
        return [name or f"(column {place})" for place, name in enumerate(self.names) if place not in read]


class Source(NamedTuple):
    """One file of a table and what its beginning says; `is_only` if the table has no other."""

    file: TableFile
    table: Table
    head: Head
    is_only: bool

    @property
    def path(self) -> str:
        """Where the file is."""
        return self.file.path

    def columns(
        self,
        layout: str,
        names: Sequence[str],
        has_members: Callable[[Column], bool] = lambda column: False,
        guesses: Mapping[str, int] | None = None,
    ) -> Columns:
        """The columns of a file that has `names`: declared ones, `guesses` by position, then known names. They are
        logged with the `layout`.

        Raises DataError if URL or caption is missing, a declared column is not there, or a name that is read occurs
        twice.
        """
        every = [*names, *(name for name in self.file.partitions if name not in names)]
        finder = _Finder(self.path, every, has_members)
        fields = {field: finder.declared(field, named) for field, named in self.table.declared_columns.items()}
        fields |= {
            field: Column(every[place], place) for field, place in (guesses or {}).items() if field not in fields
        }
        by_lower = {name.lower(): name for name in reversed(every)}
        for field, known in COLUMN_NAMES.items():
            name = next((by_lower[name] for name in known if name in by_lower), None)
            if field in fields:
                continue
            if name is not None:
                fields[field] = finder.named(field, name)
            elif field in REQUIRED:
                raise DataError(
                    f"{self.path}: no {field} column; found {', '.join(every) or 'none'}, looked for "
                    f"{', '.join(known)} ({layout}). Name it with `{field}_column:` in the source, or "
                    f"with `columns: {{{field}: …}}`"
                )
        columns = Columns(fields, self._carried(finder, fields), every, self.table.carry == "all")
        _report(self.file, layout, columns)
        return columns

    def partition(self, column: Column) -> str | None:
        """The value of a column that only the file's folders name."""
        return self.file.partitions[column.name]

    def _carried(self, finder: "_Finder", fields: Mapping[str, Column]) -> dict[str, Column]:
        if self.table.carry == "all":
            read = {column.place for column in fields.values()}
            wanted = [column for column in finder.columns if column.place not in read]
        else:
            wanted = [column for name in self.table.carry if (column := self._named_to_carry(finder, name))]
        carried: dict[str, Column] = {}
        for column in wanted:
            name = sidecar_name(str(column))
            if name in carried:
                raise DataError(
                    f"{self.path}: the columns '{carried[name]}' (number {carried[name].place}, from 0) and '{column}' "
                    f"(number {column.place}) would both be carried as `{name}`; list one of them in `carry`"
                )
            carried[name] = column
        return carried

    def _named_to_carry(self, finder: "_Finder", name: str) -> Column | None:
        """Parts of one table may have different columns."""
        column = finder.find("carry", name)
        if column is None:
            message = f"no column '{name}', which `carry` names. {did_you_mean(name, map(str, finder.columns))}"
            if self.is_only:
                raise DataError(f"{self.path}: {message}")
            logger.warning("table %s: %s It is NULL for these rows", self.file.relative, message)
        return column


def _report(file: TableFile, layout: str, columns: Columns) -> None:
    """Say what is read, as what, and what is not; warn of what tells of safety, watermarks or licences unread."""
    read = ", ".join(f"{field} <- {column}" for field, column in columns.fields.items())
    carried = ", ".join(
        name if name == str(column) else f"{name} <- {column}" for name, column in columns.carried.items()
    )
    parts = [f"read {read}", *([f"carried {carried}"] if carried else [])]
    if columns.unread:
        parts.append(f"not read {_listed(columns.unread)}")
    logger.info("table %s: %s; %s", file.relative, layout, "; ".join(parts))
    for field, pattern in _TELLING.items():
        telling = [name for name in columns.unread if pattern.search(name) and name.lower() not in _KNOWN_UNREAD]
        if telling:
            logger.warning(
                "table %s: %s not read, although the name tells of what filters ask; map it with `columns: {%s: %s}` "
                "or take it along with `carry: [%s]`",
                *(file.relative, _listed(telling), field, telling[0], telling[0]),
            )


def sidecar_name(name: str) -> str:
    """What a carried column is called in sidecars: lower case, `_` for what SQL has no names for, and `table_` before
    what would be taken for another column."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "column"
    is_taken = plain in SCHEMA.names or plain in SCORE_COLUMNS or plain in ("position", "earlier", "reason")
    return f"table_{plain}" if is_taken or plain[0].isdigit() else plain


class _Finder:
    """Finds columns of one file by what a definition calls them."""

    def __init__(self, path: str, names: Sequence[str], has_members: Callable[[Column], bool]) -> None:
        self._path, self._names, self._has_members = path, names, has_members

    def declared(self, field: str, reference: str | int) -> Column:
        """Raises DataError if there is no such column."""
        column = self.find(field, reference)
        if column is None:
            raise DataError(
                f"{self._path}: no column '{reference}', which the source names for {field}. "
                f"{did_you_mean(str(reference), self._names)}"
            )
        return column

    def find(self, field: str, reference: str | int) -> Column | None:
        """By name, then by position, then as a path of members."""
        if isinstance(reference, str) and reference in self._names:
            return self.named(field, reference)
        if str(reference).isdigit():
            place = int(reference)
            return Column(self._names[place], place) if place < len(self._names) else None
        parts = str(reference).split(".")
        for length in range(len(parts) - 1, 0, -1):
            name = ".".join(parts[:length])
            if name in self._names:
                column = self.named(field, name)._replace(members=tuple(parts[length:]))
                return column if self._has_members(column) else None
        return None

    def named(self, field: str, name: str) -> Column:
        """Raises DataError if the name occurs twice."""
        places = [place for place, each in enumerate(self._names) if each == name]
        if len(places) > 1:
            raise DataError(
                f"{self._path}: the column '{name}' is there {len(places)} times, as columns "
                f"{', '.join(map(str, places))} (from 0), and is read as {field}; say which one: "
                f"`columns: {{{field}: {places[0]}}}`"
            )
        return Column(name, places[0])

    @property
    def columns(self) -> list[Column]:
        """All of them."""
        return [Column(name, place) for place, name in enumerate(self._names)]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
