"""Records as a table holds them → batches of rows: text checked and put on one line, numbers read, every unusable row
with its reason.

All of it is done by Arrow for thousands of rows at once; one value that is not UTF-8 costs its own row and no other.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tinygptv.data.columns.arrow import number, places, text, texts
from tinygptv.data.tables.carried import COLUMN, packed
from tinygptv.data.tables.column_values import (
    NUMBERS,
    PIXELS,
    TEXTS,
    Values,
    converter,
    is_blank,
    is_list,
    one_line,
    plain,
    plain_type,
)
from tinygptv.data.tables.text_lines import Bad
from tinygptv.definitions.source import REQUIRED
from tinygptv.errors import DataError

ROWS = pa.schema(
    [
        ("table_name", pa.string()),
        ("table_row", pa.int64()),
        ("line", pa.int64()),
        *((name, pa.string()) for name in TEXTS),
        ("caption_raw", pa.string()),
        *((name, pa.float64()) for name in NUMBERS),
        *((name, pa.int32()) for name in PIXELS),
        ("problem", pa.string()),
        ("found", pa.string()),
        (COLUMN, pa.string()),
    ]
)
"""One row: a URL and one caption. A record with a list of captions is as many rows as the list has different ones that
are not blank, all with the record's `table_row` and `line`; without any it is one row, `empty_caption`.

`table_row` counts records from 0; `line` is what an editor shows, from 1 (in Parquet and in JSON arrays the number of
the record). `caption` is one line, `caption_raw` what the table says. `problem` is the reason the row cannot be used,
or NULL; where it is not, `found` holds the beginning of what stands there. Fields that are blank in the table are NULL.
`carried` is JSON: the further columns that the source takes along."""

_BATCH_ROWS = 10_000
_LONGEST_EXCERPT = 200


@dataclass(frozen=True)
class Records:
    """Consecutive records as found: field → values of any type; `problems` of those that could not be taken apart.

    `lines` are their line numbers if records and lines are not the same; `sources` their text, for showing a bad one;
    `carried` what is taken along of each, as JSON.
    """

    columns: Mapping[str, pa.Array]
    problems: pa.Array | None = None
    lines: pa.Array | None = None
    sources: pa.Array | None = None
    carried: pa.Array | None = None

    @property
    def count(self) -> int:
        """How many there are."""
        return len(next(iter(self.columns.values())))


def records_of(
    objects: Iterator[tuple[int, Any]],
    getters: Mapping[str, Callable[[Any], Any]],
    carry: Callable[[Any], dict[str, Any]] | None = None,
) -> Iterator[Records]:
    """Numbered objects, each at its line → records; `getters` say where an object holds a field, `carry` what of it is
    taken along.

    A URL or caption that is neither text nor a number is `not_text`; a caption may be a list of them.
    """
    while batch := list(itertools.islice(objects, _BATCH_ROWS)):
        judged = [_judged(item, getters) for _, item in batch]
        bad = [item if isinstance(item, Bad) else None for item in judged]
        columns = {
            name: _column([None if isinstance(item, Bad) else get(item) for item in judged])
            for name, get in getters.items()
        }
        carried = carry and texts([None if isinstance(item, Bad) else packed(carry(item)) for item in judged])
        yield Records(
            columns,
            problems=pa.array([item and item.reason for item in bad], pa.string()),
            lines=pa.array([line for line, _ in batch], pa.int64()),
            sources=pa.array([item and _encoded(item.source) for item in bad], pa.binary()),
            carried=carried,
        )


def _judged(item: Any, getters: Mapping[str, Callable[[Any], Any]]) -> Any:
    if isinstance(item, Bad):
        return item
    url, caption = getters["url"](item), getters["caption"](item)
    said = caption if isinstance(caption, list) else [caption]
    if any(isinstance(value, (bool, list, dict)) for value in (url, *said)):
        return Bad("not_text", repr(item))
    return item


def _column(values: list[Any]) -> pa.Array:
    """As bytes, in which text that is not Unicode is told apart later; lists as lists of them if there is one."""
    if any(isinstance(value, list) for value in values):
        lists = [value if isinstance(value, list) else [value] for value in values]
        return pa.array([[_encoded(item) for item in each] for each in lists], pa.list_(pa.binary()))
    return pa.array([_encoded(value) for value in values], pa.binary())


def _encoded(value: Any) -> bytes | None:
    """A number as it is written."""
    if isinstance(value, bytes) or value is None:
        return value
    written = str(value).lower() if isinstance(value, bool) else str(value)
    return written.encode("utf-8", "surrogatepass")


@dataclass
class RowMaker:
    """Makes rows of the records of one file, and counts by field the values that are there but cannot be used."""

    path: str
    table_name: str
    unusable: Counter[str] = field(default_factory=Counter)
    unread: dict[str, str] = field(default_factory=dict)
    """Optional field → type of its column, which cannot be read as that."""
    _next_record: int = 0

    def __call__(self, records: Records) -> pa.RecordBatch:
        """The batch of `ROWS` for the records that follow those before.

        Problems beside those the records bring: `undecodable` (URL or caption is not UTF-8), `no_url`, `empty_caption`.
        Raises DataError if URL or caption are of a type that cannot be text.
        """
        count = records.count
        fields = [name for name in (*TEXTS, *NUMBERS, *PIXELS) if name != "caption"]
        found = {name: self._values(name, records.columns.get(name), count) for name in fields}
        problems = pa.nulls(count, pa.string()) if records.problems is None else records.problems.cast(pa.string())
        record, captions = self._captions(records.columns["caption"])
        values = {name: each.values.take(record) for name, each in found.items()} | {"caption": captions.values}
        values |= {name: one_line(values[name]) for name in TEXTS}
        values |= {name: _blank_is_missing(values[name]) for name in TEXTS if name not in REQUIRED}
        bad = pc.or_(found["url"].bad.take(record), captions.bad)
        problem = pc.case_when(
            pc.make_struct(bad, is_blank(values["url"]), is_blank(values["caption"])),
            *(text(reason) for reason in ("undecodable", "no_url", "empty_caption")),
        )
        problem = pc.coalesce(problems.take(record), problem)
        table_row = pc.add(record, number(self._next_record))
        self._next_record += count
        values |= {
            "table_name": pa.repeat(text(self.table_name), len(record)),
            "table_row": table_row,
            "line": pc.add(table_row, number(1)) if records.lines is None else records.lines.take(record),
            "url": pc.fill_null(values["url"], text("")),
            "caption": pc.fill_null(values["caption"], text("")),
            "caption_raw": captions.values,
            "problem": problem,
            "found": _excerpts(records, record, problem),
            COLUMN: pa.nulls(len(record), pa.string()) if records.carried is None else records.carried.take(record),
        }
        return pa.record_batch([values[name] for name in ROWS.names], schema=ROWS)

    def _values(self, name: str, column: pa.Array | None, count: int) -> Values:
        """An optional column that cannot be what the field needs is missing; a required one is an error."""
        convert = None if column is None else converter(name, column.type)
        if column is None or convert is None:
            if column is not None and name in REQUIRED:
                raise self._unfit(name, column.type)
            if column is not None:
                self.unread[name] = str(column.type)
            return Values(pa.nulls(count, ROWS.field(name).type), pc.is_valid(pa.nulls(count)))
        try:
            values = convert(column)
        except pa.ArrowException as error:
            raise DataError(f"{self.path}: the column for {name} ({column.type}) cannot be read: {error}") from error
        if name not in REQUIRED and values.bad_count:
            self.unusable[name] += values.bad_count
        return values

    def _unfit(self, name: str, kind: pa.DataType) -> DataError:
        return DataError(
            f"{self.path}: the column for {name} is of type {kind}, which cannot be read as text; name another one, or "
            f"a member of it as `a.b`, with `columns: {{{name}: …}}`"
        )

    def _captions(self, column: pa.Array) -> tuple[pa.Array, Values]:
        """For each row the position of its record, and the captions."""
        kind = plain_type(column.type)
        if not is_list(kind):
            return pa.arange(0, len(column)), self._values("caption", column, len(column))
        if converter("caption", kind.value_type) is None:
            raise self._unfit("caption", column.type)
        column = plain(column)
        lengths = pc.fill_null(pc.list_value_length(column).cast(pa.int64()), number(0))
        flat = column.flatten()
        items = self._values("caption", flat, len(flat))
        parents = np.repeat(np.arange(len(column)), np.from_dlpack(lengths).astype(np.int64))
        said = pc.fill_null(one_line(items.values), text("")).dictionary_encode()
        usable = _mask(pc.not_equal(said.dictionary_decode(), text("")))
        codes = parents * (len(said.dictionary) + 1) + np.from_dlpack(said.indices)
        _, first = np.unique(codes[usable], return_index=True)
        chosen = np.flatnonzero(usable)[np.sort(first)]
        without = np.setdiff1d(np.arange(len(column)), parents[chosen])
        is_undecodable = np.isin(without, parents[_mask(items.bad)])
        self.unusable["caption"] += items.bad_count - int(is_undecodable.sum())
        record = np.concatenate([parents[chosen], without])
        order = places(np.argsort(record, kind="stable"))
        values = pa.concat_arrays([items.values.take(places(chosen)), pa.nulls(len(without), pa.string())])
        bad = np.concatenate([np.zeros(len(chosen), np.int64), is_undecodable.astype(np.int64)])
        return places(record).take(order), Values(values.take(order), pc.not_equal(places(bad).take(order), number(0)))


def _blank_is_missing(column: pa.Array) -> pa.Array:
    return pc.if_else(is_blank(column), pa.nulls(len(column), column.type), column)


def _mask(column: pa.Array) -> NDArray[np.bool_]:
    return np.from_dlpack(column.cast(pa.uint8())).astype(np.bool_)


def _excerpts(records: Records, record: pa.Array, problem: pa.Array) -> pa.Array:
    """Where there is a problem: the beginning of the record's text, or else of its URL and caption."""
    found: list[str | None] = [None] * len(record)
    pair = [records.columns[name] for name in REQUIRED]
    for row in pc.indices_nonzero(pc.is_valid(problem)).to_pylist():
        position = record[row].as_py()
        source = b"" if records.sources is None else _bytes(records.sources[position])
        shown = source or b"\t".join(_bytes(column[position]) for column in pair)
        found[row] = shown.decode("utf-8", "backslashreplace")[:_LONGEST_EXCERPT]
    return texts(found)


def _bytes(value: pa.Scalar) -> bytes:
    """Of a text without decoding it, of anything else as Python prints it."""
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    try:
        buffer = value.as_buffer() if isinstance(value, pa.BinaryScalar) else str(value.as_py()).encode()
    except UnicodeDecodeError:  # within a list or a struct
        return str(value.type).encode()
    return b"" if buffer is None else bytes(buffer)
