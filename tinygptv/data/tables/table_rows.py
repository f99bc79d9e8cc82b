"""Records of a table → batches of rows: text checked and put on one line, numbers parsed, unusable rows with their
reason.

Arrow processes thousands of rows at once; a value that is not UTF-8 costs only its own row.
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

from tinygptv.data.columns.arrow import indices, number, text, texts
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
"""One row: a URL and one caption. A record with a list of captions becomes one row per distinct caption that is not
blank, all with the record's `table_row` and `line`; without any, it becomes one row with `empty_caption`.

`table_row` counts records from 0; `line` is the line in an editor, from 1 (in Parquet and JSON arrays the number of the
record). `caption` is on one line; `caption_raw` is as in the table. `problem` is the reason that a row cannot be used,
or NULL; with a problem, `found` holds an excerpt of the record. Blank fields are NULL. `carried` holds the source's
additional columns as JSON."""

_BATCH_ROWS = 10_000
_MAX_EXCERPT_LENGTH = 200


@dataclass(frozen=True)
class Records:
    """Consecutive records as found: field → values of any type; `problems` of records that could not be parsed.

    `lines` are line numbers, if they differ from record numbers; `sources` are the records' texts, for excerpts;
    `carried` holds additional columns as JSON.
    """

    columns: Mapping[str, pa.Array]
    problems: pa.Array | None = None
    lines: pa.Array | None = None
    sources: pa.Array | None = None
    carried: pa.Array | None = None

    @property
    def count(self) -> int:
        """The number of records."""
        return len(next(iter(self.columns.values())))


def records_of(
    objects: Iterator[tuple[int, Any]],
    getters: Mapping[str, Callable[[Any], Any]],
    carry: Callable[[Any], dict[str, Any]] | None = None,
) -> Iterator[Records]:
    """Numbered objects → records; `getters` extract the fields of an object, `carry` its additional columns.

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
    """As binary, so that invalid Unicode can be detected later; as lists of binary if any value is a list."""
    if any(isinstance(value, list) for value in values):
        lists = [value if isinstance(value, list) else [value] for value in values]
        return pa.array([[_encoded(item) for item in each] for each in lists], pa.list_(pa.binary()))
    return pa.array([_encoded(value) for value in values], pa.binary())


def _encoded(value: Any) -> bytes | None:
    """Encode a value as bytes; numbers as printed."""
    if isinstance(value, bytes) or value is None:
        return value
    written = str(value).lower() if isinstance(value, bool) else str(value)
    return written.encode("utf-8", "surrogatepass")


@dataclass
class RowMaker:
    """Makes rows from the records of one file, and counts unusable values by field."""

    path: str
    table_name: str
    unusable: Counter[str] = field(default_factory=Counter)
    unread: dict[str, str] = field(default_factory=dict)
    """Optional field → type of its column, if it cannot be converted."""
    _next_record: int = 0

    def __call__(self, records: Records) -> pa.RecordBatch:
        """The batch of `ROWS` for the next records.

        Adds the problems `undecodable` (URL or caption is not UTF-8), `no_url` and `empty_caption`. Raises DataError if
        URL or caption has a type that cannot be converted to text.
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
        """Convert a column. If its type does not fit, an optional field is NULL and a required one is an error."""
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
            f"{self.path}: the column for {name} has type {kind}, which cannot be read as text; name another one, or "
            f"a member of it as `a.b`, with `columns: {{{name}: …}}`"
        )

    def _captions(self, column: pa.Array) -> tuple[pa.Array, Values]:
        """The record index of each row, and the rows' captions."""
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
        order = indices(np.argsort(record, kind="stable"))
        values = pa.concat_arrays([items.values.take(indices(chosen)), pa.nulls(len(without), pa.string())])
        bad = np.concatenate([np.zeros(len(chosen), np.int64), is_undecodable.astype(np.int64)])
        return indices(record).take(order), Values(
            values.take(order), pc.not_equal(indices(bad).take(order), number(0))
        )


def _blank_is_missing(column: pa.Array) -> pa.Array:
    return pc.if_else(is_blank(column), pa.nulls(len(column), column.type), column)


def _mask(column: pa.Array) -> NDArray[np.bool_]:
    return np.from_dlpack(column.cast(pa.uint8())).astype(np.bool_)


def _excerpts(records: Records, record: pa.Array, problem: pa.Array) -> pa.Array:
    """For rows with a problem: the beginning of the record's text, or of its URL and caption."""
    found: list[str | None] = [None] * len(record)
    pair = [records.columns[name] for name in REQUIRED]
    for row in pc.indices_nonzero(pc.is_valid(problem)).to_pylist():
        position = record[row].as_py()
        source = b"" if records.sources is None else _bytes(records.sources[position])
        shown = source or b"\t".join(_bytes(column[position]) for column in pair)
        found[row] = shown.decode("utf-8", "backslashreplace")[:_MAX_EXCERPT_LENGTH]
    return texts(found)


def _bytes(value: pa.Scalar) -> bytes:
    """A string's bytes without decoding; other values as Python prints them."""
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    try:
        buffer = value.as_buffer() if isinstance(value, pa.BinaryScalar) else str(value.as_py()).encode()
    except UnicodeDecodeError:  # within a list or a struct
        return str(value.type).encode()
    return b"" if buffer is None else bytes(buffer)
