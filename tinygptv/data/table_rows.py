"""Records as a table holds them → batches of rows: text checked and put on one line, numbers read, every unusable row
with its reason.

All of it is done by Arrow for thousands of rows at once; one value that is not UTF-8 costs its own row and no other.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tinygptv.data.arrow import number, text, texts

_TEXTS = ("url", "caption", "uid", "licence", "nsfw", "table_sha256")
_NUMBERS = ("similarity", "punsafe", "pwatermark")
_PIXELS = ("table_width", "table_height")

ROWS = pa.schema(
    [
        ("table_name", pa.string()),
        ("table_row", pa.int64()),
        ("line", pa.int64()),
        *((name, pa.string()) for name in _TEXTS),
        ("caption_raw", pa.string()),
        *((name, pa.float64()) for name in _NUMBERS),
        *((name, pa.int32()) for name in _PIXELS),
        ("problem", pa.string()),
        ("found", pa.string()),
    ]
)
"""One row of a table. `table_row` counts records from 0; `line` is what an editor shows, from 1 (in Parquet and in JSON
arrays the number of the record). `caption` is one line, `caption_raw` what the table says. `problem` is the reason the
row cannot be used, or NULL; where it is not, `found` holds the beginning of what stands there."""

_SPACE = r"[\s\p{Z}\p{Cc}]+"
_BATCH_ROWS = 10_000
_LONGEST_EXCERPT = 200
_MOST_PIXELS = 2**31 - 1


@dataclass(frozen=True)
class Records:
    """Consecutive records as found: field → values of any type; `problems` of those that could not be taken apart.

    `lines` are their line numbers if records and lines are not the same; `sources` their text, for showing a bad one.
    """

    columns: Mapping[str, pa.Array]
    problems: pa.Array | None = None
    lines: pa.Array | None = None
    sources: pa.Array | None = None

    @property
    def count(self) -> int:
        """How many there are."""
        return len(next(iter(self.columns.values())))


class Bad(NamedTuple):
    """In the place of an object: a record that could not be taken apart, why, and its text."""

    reason: str
    source: str


def records_of(objects: Iterator[tuple[int, Any]], columns: Mapping[str, str]) -> Iterator[Records]:
    """Numbered objects, each at its line → records; `columns` says under which name an object holds a field.

    What is no object is `wrong_columns`; a URL or caption that is neither text nor a number is `not_text`.
    """
    while batch := list(itertools.islice(objects, _BATCH_ROWS)):
        judged = [_judged(item, columns) for _, item in batch]
        bad = [item if isinstance(item, Bad) else None for item in judged]
        objects_found = [{} if isinstance(item, Bad) else item for item in judged]
        yield Records(
            {
                field: pa.array([_encoded(each.get(name)) for each in objects_found], pa.binary())
                for field, name in columns.items()
            },
            problems=pa.array([item and item.reason for item in bad], pa.string()),
            lines=pa.array([line for line, _ in batch], pa.int64()),
            sources=pa.array([item and _encoded(item.source) for item in bad], pa.binary()),
        )


def _judged(item: Any, columns: Mapping[str, str]) -> Any:
    if isinstance(item, Bad):
        return item
    if not isinstance(item, dict):
        return Bad("wrong_columns", repr(item))
    if any(isinstance(item.get(columns[field]), (bool, list, dict)) for field in ("url", "caption")):
        return Bad("not_text", repr(item))
    return item


def _encoded(value: Any) -> bytes | None:
    """As bytes, in which text that is not Unicode is told apart later; a number as it is written."""
    if isinstance(value, bytes):
        return value
    if value is None or isinstance(value, (bool, list, dict)):
        return None
    return str(value).encode("utf-8", "surrogatepass")


def rows_of(records: Records, table_name: str, first_row: int) -> pa.RecordBatch:
    """The batch of `ROWS` for records numbered from `first_row`.

    Problems beside those the records bring: `undecodable` (URL or caption is not UTF-8), `no_url`, `empty_caption`.
    """
    count = records.count
    numbers = pa.arange(first_row, first_row + count)
    found = {name: _text(records.columns.get(name), count) for name in _TEXTS}
    (_, bad_url), (caption_raw, bad_caption) = found["url"], found["caption"]
    values = {name: one_line(column) for name, (column, _) in found.items()}
    values |= {name: _number(records.columns.get(name), count) for name in _NUMBERS}
    values |= {name: _pixels(records.columns.get(name), count) for name in _PIXELS}
    problem = pc.case_when(
        pc.make_struct(pc.or_(bad_url, bad_caption), _is_empty(values["url"]), _is_empty(values["caption"])),
        *(text(reason) for reason in ("undecodable", "no_url", "empty_caption")),
    )
    if records.problems is not None:
        problem = pc.coalesce(records.problems.cast(pa.string()), problem)
    values |= {
        "table_name": pa.repeat(text(table_name), count),
        "table_row": numbers,
        "line": pc.add(numbers, number(1)) if records.lines is None else records.lines,
        "url": pc.fill_null(values["url"], text("")),
        "caption": pc.fill_null(values["caption"], text("")),
        "caption_raw": caption_raw,
        "problem": problem,
        "found": _excerpts(records, problem),
    }
    return pa.record_batch([values[name] for name in ROWS.names], schema=ROWS)


def _text(column: pa.Array | None, count: int) -> tuple[pa.Array, pa.Array]:
    """The values as text, and which of them are not UTF-8 (these are NULL)."""
    fine = pc.is_valid(pa.nulls(count))
    if column is None or pa.types.is_null(column.type):
        return pa.nulls(count, pa.string()), fine
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        # Parquet readers trust what they read: by way of bytes every text is checked.
        return (column.cast(pa.large_binary()) if _is_text(column.type) else column).cast(pa.string()), fine
    except pa.ArrowInvalid:
        decoded = [_decoded(value) for value in column.cast(pa.large_binary()).to_pylist()]
        known = texts(decoded)
        return known, pc.and_(pc.is_null(known), pc.is_valid(column))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def one_line(column: pa.Array) -> pa.Array:
    """Every run of white space and control characters becomes one space."""
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(column, _SPACE, " "))


def _is_empty(column: pa.Array) -> pa.Array:
    return pc.equal(pc.fill_null(column, text("")), text(""))


def _number(column: pa.Array | None, count: int) -> pa.Array:
    """As numbers; what is none, NaN included, is NULL."""
    if column is None or pa.types.is_null(column.type):
        return pa.nulls(count, pa.float64())
    try:
        numbers = (column.cast(pa.string()) if pa.types.is_binary(column.type) else column).cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        numbers = pa.array([_parsed(value) for value in column.to_pylist()], pa.float64())
    return pc.if_else(pc.is_nan(numbers), pa.nulls(1, numbers.type)[0], numbers)


def _parsed(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, (str, bytes, int, float)) else None
    except ValueError:
        return None


def _pixels(column: pa.Array | None, count: int) -> pa.Array:
    numbers = _number(column, count)
    possible = pc.and_(pc.greater(numbers, number(0)), pc.less(numbers, number(_MOST_PIXELS)))
    return pc.cast(pc.if_else(possible, numbers, pa.nulls(1, numbers.type)[0]), pa.int32(), safe=False)


def _excerpts(records: Records, problem: pa.Array) -> pa.Array:
    """Where there is a problem: the beginning of the record's text, or else of its URL and caption."""
    found: list[str | None] = [None] * records.count
    pair = [records.columns[name] for name in ("url", "caption")]
    for position in pc.indices_nonzero(pc.is_valid(problem)).to_pylist():
        source = b"" if records.sources is None else _bytes(records.sources[position])
        shown = source or b"\t".join(_bytes(column[position]) for column in pair)
        found[position] = shown.decode("utf-8", "backslashreplace")[:_LONGEST_EXCERPT]
    return texts(found)


def _bytes(value: pa.Scalar) -> bytes:
    """Of a text without decoding it, of anything else as Python prints it."""
    buffer = value.as_buffer() if isinstance(value, pa.BinaryScalar) else str(value.as_py()).encode()
    return b"" if buffer is None else bytes(buffer)
