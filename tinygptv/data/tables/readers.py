"""Tables of URL+caption pairs, in the layouts their publishers chose → batches of rows.

Nothing is read whole. A record that cannot be used is still a row: it comes out with a `problem`, its line and what
stands there, so that what goes in is always what comes out plus what was dropped.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from tinygptv.data.tables.arrow_layouts import read_arrow, read_parquet
from tinygptv.data.tables.column_choice import Source
from tinygptv.data.tables.dialects import delimiter_of, looks_like_url
from tinygptv.data.tables.json_layouts import read_capfilt, read_jsonl, read_llava, read_sbu
from tinygptv.data.tables.table_bytes import Head, read_head
from tinygptv.data.tables.table_files import expand
from tinygptv.data.tables.table_rows import Records, RowMaker
from tinygptv.data.tables.text_layouts import read_delimited, read_url_list
from tinygptv.definitions.source import Table, TableFormat
from tinygptv.errors import DataError

logger = logging.getLogger(__name__)

_MAGIC: dict[bytes, TableFormat] = {b"PAR1": "laion_parquet", b"\xff\xff\xff\xff": "arrow", b"ARROW1": "arrow"}
_FIRST_LINES, _CHARACTERS_PER_NUL = 1 << 16, 50
"""Characters that are looked at; and how many there must be for each NUL: texts of the web hold some."""


def read_table(table: Table, resolved: str) -> Iterator[pa.RecordBatch]:
    """The rows (`table_rows.ROWS`) of the table at `resolved`: a path or a URL fsspec can open, `*` for several files
    in order, a folder of tables, or one that Hugging Face `datasets` saved. Empty files among others are skipped.

    Problems: `no_url`, `empty_caption`, `undecodable` (not UTF-8), `wrong_columns`, `not_json`, `not_text`,
    `bad_quotes`. Each file's dialect and columns are logged, and so is, with its count, what was there but no value.
    Raises DataError if there is no such file, its layout is unknown, or it lacks a needed column.
    """
    files = expand(resolved)
    is_empty = True
    for file in files:
        head = read_head(file.path, table)
        if not (_magic(head) or head.text.strip()):
            logger.warning("table %s: empty; skipped", file.relative)
            continue
        is_empty = False
        layout = table.format or _recognised(file.path, table, head)
        source = Source(file, table, head, len(files) == 1)
        make, problems = RowMaker(file.path, file.name), Counter[str]()
        for records in _LAYOUTS[layout](source):
            if records.count:
                rows = make(records)
                problems.update(rows["problem"].drop_null().to_pylist())
                yield rows
        _report_losses(source, make, problems)
    if is_empty:
        raise DataError(f"{resolved}: empty; there is no row in it")


def recognise(path: str) -> TableFormat:
    """The layout of the table at `path`, from its first bytes and, for plain text, its name."""
    table = Table(location="./table")
    return _recognised(path, table, read_head(path, table))


def _magic(head: Head) -> TableFormat | None:
    return next((layout for magic, layout in _MAGIC.items() if head.unpacked.startswith(magic)), None)


def _recognised(path: str, table: Table, head: Head) -> TableFormat:
    if magic := _magic(head):
        return magic
    text = head.text.decode("utf-8", errors="replace").lstrip("\ufeff \r\n")
    lines = [line for line in text[:_FIRST_LINES].split("\n") if line.strip()]
    first_line = lines[0] if lines else ""
    # A caption may begin with a bracket; in JSON a field that is an address would be quoted.
    is_json = text.startswith(("[", "{")) and not any(looks_like_url(field) for field in first_line.split("\t"))
    if is_json and text.startswith("["):
        return "llava_json" if '"conversations"' in text[:_FIRST_LINES] else "capfilt_json"
    if is_json:
        return "jsonl" if isinstance(record := _parsed(first_line), dict) and "image_urls" not in record else "sbu_json"
    is_text = text[:1000].count("\0") * _CHARACTERS_PER_NUL <= len(text[:1000])
    delimiter = (table.delimiter or delimiter_of(lines, table)) if is_text else None
    if delimiter is not None:
        return "cc_tsv" if delimiter == "\t" else "csv"
    if is_text and looks_like_url(first_line):
        return "sbu_urls"
    raise DataError(
        f"{path}: not a known table layout ({head.coding}; it begins with {first_line[:60]!r}); name it with "
        f"`format:`, one of {', '.join(_LAYOUTS)}, or declare its `encoding` or `delimiter`"
    )


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _report_losses(source: Source, make: RowMaker, problems: Counter[str]) -> None:
    """One line for each field whose column or values could not be used, and for what another dialect might mend."""
    name = source.file.relative
    for field, kind in make.unread.items():
        logger.warning("table %s: the column for %s is of type %s, which is not read; it is NULL", name, field, kind)
    for field, count in make.unusable.items():
        if count:
            logger.warning("table %s: %d values of %s cannot be read and are NULL", name, count, field)
    if count := problems["wrong_columns"]:
        advice = "if that is most of them, declare another `delimiter`, `quote` or `escape`"
        logger.warning("table %s: %d records have other columns than the rest; %s", name, count, advice)
    if count := problems["undecodable"]:
        coding = source.head.coding.encoding
        logger.warning("table %s: %d rows are not %s; declare another `encoding`, as cp1252", name, count, coding)
    if count := problems["bad_quotes"]:
        logger.warning("table %s: in %d rows quotes do not match; declare another `quote` or `escape`", name, count)


_LAYOUTS: dict[TableFormat, Callable[[Source], Iterator[Records]]] = {
    "laion_parquet": read_parquet,
    "arrow": read_arrow,
    "cc_tsv": read_delimited,
    "sbu_json": read_sbu,
    "sbu_urls": read_url_list,
    "capfilt_json": read_capfilt,
    "llava_json": read_llava,
    "jsonl": read_jsonl,
    "csv": read_delimited,
}
