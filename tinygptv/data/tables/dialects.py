"""How a table of delimited text is written: what separates its fields, what quotes them, and which columns it has.

Found in the first megabyte. The sniffers of `csv` and DuckDB judge by regularity alone and take a caption's commas for
columns; here a table is known to hold addresses, which says more.
"""

import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tinygptv.data.columns.urls import BASE_URL
from tinygptv.data.tables.table_bytes import Head
from tinygptv.data.tables.text_lines import Bad, Quoting, csv_records
from tinygptv.definitions.source import COLUMN_NAMES, NONE, REQUIRED, Table
from tinygptv.errors import DataError

_DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar", "\x01": "Ctrl-A"}
_LOOKED_AT = 100
_LONGEST_PREAMBLE = 10
"""Records that may stand before a header, such as Excel's `sep=;` or a comment."""
_TOPIC = re.compile(r"/[mgt]/\w+(,/[mgt]/\w+)*")


class Dialect(NamedTuple):
    """`names` are those of the header, or positions from 0 if there is none; they say how many fields a record has.
    Records begin behind `header_line`, which is 0 if there is no header."""

    quoting: Quoting
    names: list[str]
    header_line: int
    guesses: dict[str, int]
    """Row field → position, where there is no header to say."""

    def __str__(self) -> str:
        quoting = self.quoting
        separated = f"separated by {_DELIMITERS.get(quoting.delimiter, repr(quoting.delimiter))}"
        quoted = f"quote {quoting.quote}" if quoting.quote else "no quotes"
        escaped = f", escape {quoting.escape}" if quoting.escape else ""
        header = "a header" if self.header_line == 1 else f"a header in line {self.header_line}"
        columns = header if self.header_line else f"no header, {len(self.names)} columns"
        return f"{separated}, {quoted}{escaped}, {columns}"


def looks_like_url(text: str) -> bool:
    """Whether it begins as an address of the web does."""
    return text.strip().lower().startswith(("http://", "https://", BASE_URL.lower()))


def delimiter_of(lines: Sequence[str], table: Table) -> str | None:
    """What separates the fields: names of a header, or else an address and the same number of fields in most lines."""
    known = _known_names(table)
    for delimiter in _DELIMITERS:
        fields = [_bare(field) for field in lines[0].split(delimiter)] if lines else []
        if len(fields) > 1 and known["url"] & set(fields) and known["caption"] & set(fields):
            return delimiter
    found = {delimiter: _lines_with_url(lines[:_LOOKED_AT], delimiter) for delimiter in _DELIMITERS}
    best = max(found, key=lambda delimiter: found[delimiter])
    if found[best]:
        return best
    return next((delimiter for delimiter in _DELIMITERS if lines and delimiter in lines[0]), None)


def dialect_of(path: str, head: Head, table: Table) -> Dialect:
    """The dialect of the file that begins with `head`; what the table declares wins. Raises DataError if the columns
    cannot be told."""
    text = head.text.decode("utf-8", "surrogateescape")
    if not head.is_whole:
        text = text[: text.rfind("\n") + 1] or text
    lines = text.split("\n")
    default = {"cc_tsv": "\t", "csv": ","}.get(table.format or "", ",")
    delimiter = table.delimiter or delimiter_of([line for line in lines if line.strip()], table) or default
    quoting = _quoting(text, delimiter, table)
    found = [(line, fields) for line, fields in _records(text, quoting) if not isinstance(fields, Bad)][
        : _LOOKED_AT + 1
    ]
    if not found:
        raise DataError(f"{path}: no record can be read ({quoting}); declare `delimiter`, `quote` or `escape`")
    records = [fields for _, fields in found]
    header = _header(records, table)
    if header is not None:
        return Dialect(quoting, [name.strip() for name in records[header]], found[header][0], {})
    width = Counter(map(len, records)).most_common(1)[0][0]
    rows = [record for record in records if len(record) == width]
    dialect = Dialect(quoting, [str(position) for position in range(width)], 0, {})
    return dialect._replace(guesses=_positions(path, rows, len(records), dialect, table))


def _known_names(table: Table) -> dict[str, set[str]]:
    declared = {field: str(table.declared_columns.get(field, "")).lower() for field in REQUIRED}
    return {field: ({*COLUMN_NAMES[field], declared[field]} - {""}) for field in REQUIRED}


def _bare(field: str) -> str:
    return field.strip().strip('"').strip().lower()


def _lines_with_url(lines: Iterable[str], delimiter: str) -> int:
    """How many lines have an address as a field and as many fields as most."""
    fields = [line.split(delimiter) for line in lines if delimiter in line]
    if not fields:
        return 0
    width = Counter(map(len, fields)).most_common(1)[0][0]
    return sum(
        len(each) == width and any(looks_like_url(field.strip().strip('"')) for field in each) for each in fields
    )


def _quoting(text: str, delimiter: str, table: Table) -> Quoting:
    escape = None if table.escape == NONE else table.escape
    if table.quote is not None:
        quote = None if table.quote == NONE else table.quote
        guess = _escape(text, delimiter, quote) if quote and table.escape is None else escape
        return Quoting(delimiter, quote, guess)
    if delimiter == "\x01" or ('"' not in text and delimiter == "\t"):
        return Quoting(delimiter, None, escape)
    quoted = Quoting(delimiter, '"', escape if table.escape else _escape(text, delimiter, '"'))
    if delimiter == "\t" and not _is_quoted(text, quoted):
        return Quoting(delimiter, None, escape)
    return quoted


def _escape(text: str, delimiter: str, quote: str) -> str | None:
    """Spark puts a backslash before a quote that is text; everybody else doubles it."""
    if "\\" + quote not in text:
        return None
    doubled, escaped = (_bad_records(text, Quoting(delimiter, quote, escape)) for escape in (None, "\\"))
    return "\\" if escaped < doubled else None


def _is_quoted(text: str, quoting: Quoting) -> bool:
    """Whether the quotes of a tab-separated file are marks around fields, or text as in CC3M and CC12M.

    They are marks if a column is always between them, or if fields between them hold what needs them: a tab, a line
    feed or a quote; and if nobody wrote a quote who would have had to mark it.
    """
    lines = [line.rstrip("\r") for line in text.split("\n") if line.strip()]
    fields = [line.split("\t") for line in lines]
    whole = re.compile(r'"(?:[^"\\]|""|\\.|\\)*"')
    if any(_is_bare_quote(field) for each in fields for field in each):
        return False
    wrapped = [[whole.fullmatch(field) is not None for field in each] for each in fields]
    is_regular = len({len(each) for each in fields}) == 1
    always = is_regular and any(all(column) for column in zip(*(wrapped[1:] or wrapped), strict=True))
    inner = any(
        is_whole and '"' in field[1:-1]
        for each, marks in zip(fields, wrapped, strict=True)
        for field, is_whole in zip(each, marks, strict=True)
    )
    opened = any(field.startswith('"') and not whole.fullmatch(field) for each in fields for field in each)
    width = Counter(map(len, fields)).most_common(1)[0][0]
    bad_lines = sum(len(each) != width for each in fields)
    bad_records = _bad_records(text, quoting)
    return bad_records <= bad_lines and (always or inner or opened) and not (opened and bad_records)


def _is_bare_quote(field: str) -> bool:
    """Whether a quote stands inside a field that neither begins nor ends with one."""
    return '"' in field.replace('""', "").replace('\\"', "") and field[0] != '"' and field[-1] != '"'


def _bad_records(text: str, quoting: Quoting) -> int:
    records = [record for _, record in _records(text, quoting)]
    widths = Counter(len(record) for record in records if not isinstance(record, Bad))
    width = widths.most_common(1)[0][0] if widths else 0
    return sum(isinstance(record, Bad) or len(record) != width for record in records)


def _records(text: str, quoting: Quoting) -> list[tuple[int, list[str] | Bad]]:
    """Those that are not blank, with their lines."""
    return [(line, record) for line, record in csv_records(io.StringIO(text, newline="\n"), quoting) if record]


def _header(records: Sequence[list[str]], table: Table) -> int | None:
    """Which record names the columns: one of the first that has names of URL and caption; or the first if it has one
    of them, or if it has no address and what follows has."""
    if table.header is not None:
        return 0 if table.header else None
    known = _known_names(table)
    bare = [{_bare(field) for field in record} for record in records]
    for place, names in enumerate(bare[:_LONGEST_PREAMBLE]):
        if any(map(looks_like_url, names)):
            break
        if names & known["url"] and names & known["caption"]:
            return place
    if any(map(looks_like_url, bare[0])):
        return None
    declared = [column for column in table.declared_columns.values() if isinstance(column, str)]
    every = known["url"] | known["caption"] | {name.lower() for name in declared if not name.isdigit()}
    has_urls = any(looks_like_url(field) for record in records[1:] for field in record)
    return 0 if every & bare[0] or has_urls else None


def _positions(path: str, rows: list[list[str]], count: int, dialect: Dialect, table: Table) -> dict[str, int]:
    """Where URL and caption are, if they are not declared. Raises DataError if that cannot be told."""
    missing = [field for field in REQUIRED if field not in table.declared_columns]
    if not missing:
        return {}
    columns = list(zip(*rows, strict=True))
    shares = [sum(map(looks_like_url, column)) / len(rows) for column in columns]
    urls = [place for place, share in enumerate(shares) if share > 0.5]
    declared = {int(column) for column in table.declared_columns.values() if str(column).isdigit()}
    url = int(table.declared_columns["url"]) if "url" in table.declared_columns else urls[0] if len(urls) == 1 else None
    others = [place for place in range(len(columns)) if place != url and place not in declared]
    advice = "Declare the positions, from 0, as `columns: {url: 0, caption: 1}`, or the right `delimiter`"
    shown = " | ".join(field[:40] for field in rows[0])
    if url is None:
        found = ", ".join(f"{round(share * len(rows))} in column {place}" for place, share in enumerate(shares))
        raise DataError(
            f"{path}: cannot tell which column is the URL ({dialect}): of the first {count} records {len(rows)} have "
            f"{len(columns)} fields, with URLs {found}. The first one: {shown}. {advice}"
        )
    guesses = {"url": url}
    if "caption" in missing:
        caption = _caption(columns, others)
        if caption is None:
            raise DataError(
                f"{path}: cannot tell which column is the caption ({dialect}). The first record: {shown}. {advice}"
            )
        guesses["caption"] = caption
    return {field: guesses[field] for field in missing}


def _caption(columns: list[tuple[str, ...]], others: list[int]) -> int | None:
    """The only other column; the first of CC3M's file with labels; or the only one whose values have several words."""
    if len(others) == 1:
        return others[0]
    if len(columns) == 5 and others == [0, 2, 3, 4] and all(_TOPIC.fullmatch(value) for value in columns[3] if value):
        return 0
    wordy = [
        place for place in others if sum(" " in value.strip() for value in columns[place]) > len(columns[place]) / 2
    ]
    return wordy[0] if len(wordy) == 1 else None
