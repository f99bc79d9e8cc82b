"""Tables of delimited text: CSV in any dialect, tab-separated files with and without a header, and SBU's two lists."""

import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from tinygptv.data.columns.arrow import texts
from tinygptv.data.tables.carried import packed
from tinygptv.data.tables.column_choice import Column, Columns, Source
from tinygptv.data.tables.dialects import Dialect, dialect_of
from tinygptv.data.tables.json_layouts import parallel
from tinygptv.data.tables.table_bytes import open_text
from tinygptv.data.tables.table_rows import Records, records_of
from tinygptv.data.tables.text_lines import Bad, csv_records, every_line, line_batches
from tinygptv.errors import DataError

logger = logging.getLogger(__name__)

_NULL = "\\N"
"""What MySQL, PostgreSQL and Hive write where there is no value."""

_SUSPECT = r'^"(?:[^"]|"")*$|^"(?:[^"]|"")*""(?:[^"]|"")*"$'
"""A field that begins with a quote and does not end there, or holds doubled ones: the work of somebody who quotes."""


def read_delimited(source: Source) -> Iterator[Records]:
    """Records of a dialect that is recognised or declared; those with another number of fields are `wrong_columns`."""
    dialect = dialect_of(source.path, source.head, source.table)
    layout = f"text {dialect}, {source.head.coding}"
    columns = source.columns(layout, dialect.names, guesses=dialect.guesses)
    quoting = dialect.quoting
    if quoting.quote is None and quoting.escape is None:
        yield from _split_lines(source, dialect, columns)
        return
    with open_text(source.path, source.head.coding) as stream:
        records = csv_records(stream, quoting)
        width = len(dialect.names)
        behind = itertools.dropwhile(lambda record: record[0] <= dialect.header_line, records)
        checked = ((line, _checked(fields, width, quoting.delimiter)) for line, fields in behind)
        getters = {field: _getter(source, column, width) for field, column in columns.fields.items()}
        carried = {name: _getter(source, column, width) for name, column in columns.carried.items()}

        def carry(fields: list[str]) -> dict[str, Any]:
            return {name: get(fields) for name, get in carried.items()}

        yield from records_of(checked, getters, carry if carried else None)


def read_url_list(source: Source) -> Iterator[Records]:
    """SBU as first published: a file of URLs and, named `captions` instead of `urls`, one of captions, line by line."""
    folder, slash, name = source.path.rpartition("/")
    captions = f"{folder}{slash}{name.replace('urls', 'captions')}"
    if captions == source.path or not fsspec.url_to_fs(captions)[0].isfile(captions):
        raise DataError(
            f"{source.path}: a list of URLs needs its captions, line by line, in a file beside it that is called the "
            "same but with `captions` for `urls`"
        )
    coding = source.head.coding
    logger.info("table %s: a list of URLs, %s; captions from %s", source.file.relative, coding, captions)
    return parallel(source.path, ("URLs", every_line(source.path, coding)), ("captions", every_line(captions, coding)))


def _split_lines(source: Source, dialect: Dialect, columns: Columns) -> Iterator[Records]:
    """Without quotes a record is a line, which Arrow takes apart."""
    width, line = len(dialect.names), 1
    suspects = 0
    for batch in line_batches(source.path, source.head.coding):
        above = min(len(batch), max(0, dialect.header_line - line + 1))
        lines = batch[above:]
        line += above
        fields = pc.split_pattern(lines, dialect.quoting.delimiter)
        good = pc.equal(pc.list_value_length(fields), width)
        whole = pc.if_else(good, fields, pa.scalar([b""] * width, fields.type)).flatten()
        whole = pc.if_else(pc.equal(whole, pa.scalar(_NULL.encode())), pa.nulls(len(whole), whole.type), whole)

        def values(column: Column, whole: pa.Array = whole, count: int = len(lines)) -> pa.Array:
            if column.place >= width:
                return pa.repeat(texts([source.partition(column)])[0], count)
            return whole.take(pa.array(range(column.place, width * count, width), pa.int64()))

        found = {field: values(column) for field, column in columns.fields.items()}
        suspects += pc.match_substring_regex(found["caption"], _SUSPECT).true_count
        listed = {name: values(column).to_pylist() for name, column in columns.carried.items()}
        rows = zip(*listed.values(), strict=True)
        carried = texts([packed(dict(zip(listed, row, strict=True))) for row in rows]) if listed else None
        problems = pc.if_else(good, pa.scalar(None, pa.string()), "wrong_columns")
        numbers = pa.array(range(line, line + len(lines)), pa.int64())
        yield Records(found, problems, numbers, lines, carried)
        line += len(lines)
    if suspects and source.table.quote is None:
        logger.warning(
            "table %s: %d captions begin with a quote as if it marked them, and are read as they stand; if it does, "
            "declare `quote: '\"'`, otherwise `quote: none`",
            *(source.file.relative, suspects),
        )


def _checked(fields: list[str] | Bad, width: int, delimiter: str) -> list[str] | Bad:
    if isinstance(fields, Bad) or len(fields) == width:
        return fields
    return Bad("wrong_columns", delimiter.join(fields))


def _getter(source: Source, column: Column, width: int) -> Callable[[list[str]], str | None]:
    if column.place >= width:
        return lambda fields: source.partition(column)
    return lambda fields: None if fields[column.place] == _NULL else fields[column.place]
