"""Tables of URL+caption pairs, in the layouts their publishers chose → one stream of rows.

Nothing is read whole where the layout allows streaming (SBU's two parallel lists do not). A row that cannot be used is
still a row: it comes out with a `problem`, so that what goes in is always what comes out plus what was dropped.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from tinygptv.data.json_stream import array_items
from tinygptv.definitions.source import Table, TableFormat
from tinygptv.errors import DataError, did_you_mean

BASE_URL = "__BASE_URL__"
"""In a table's URL: the address of a server that is known only when the download starts."""

COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "url": ("url", "image_url", "img_url"),
    "caption": ("caption", "text", "alt_text"),
    "similarity": ("similarity",),
    "punsafe": ("punsafe",),
    "pwatermark": ("pwatermark",),
    "licence": ("license", "licence"),
}
"""Row field → the column names, in lower case, under which published tables carry it."""

_BATCH_ROWS = 10_000
_LONGEST_FIELD = 1 << 24
_NOT_JSON = object()


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of a table, numbered from 0; `problem` is the reason it cannot be used, or None."""

    table_name: str
    table_row: int
    url: str = ""
    caption: str = ""
    similarity: float | None = None
    punsafe: float | None = None
    pwatermark: float | None = None
    licence: str | None = None
    problem: str | None = None


Record = dict[str, Any] | str
"""Field → value as found, or the problem that kept the row from being read."""


def read_table(table: Table, resolved: str) -> Iterator[TableRow]:
    """The rows of the table at `resolved`: a local path or a URL fsspec can open, `*` for several files in order.

    Problems: `no_url`, `empty_caption`, `undecodable` (not UTF-8), `wrong_columns`, `not_json`. Raises DataError if
    there is no such file, its layout is unknown, or it lacks the needed column.
    """
    for path in expand(resolved):
        layout = table.format or recognise(path)
        name = PurePosixPath(path).stem
        for number, record in enumerate(_LAYOUTS[layout](path, table)):
            yield _row(name, number, record)


def recognise(path: str) -> TableFormat:
    """The layout of the table at `path`, from its first bytes and, for text with separators, its name."""
    with _open(path) as stream:
        head = stream.read(1 << 16)
    if head.startswith(b"PAR1"):
        return "laion_parquet"
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \r\n\t")
    first_line = text.partition("\n")[0]
    if text.startswith("["):
        return "llava_json" if '"conversations"' in text else "capfilt_json"
    if text.startswith("{"):
        return "sbu_json" if '"image_urls"' in text[:1000] or not _is_json(first_line) else "jsonl"
    if "\t" in first_line:
        return "cc_tsv"
    if "," in first_line and path.endswith(".csv"):
        return "csv"
    raise DataError(
        f"{path}: not a known table layout (it begins with {first_line[:60]!r}); "
        f"name it with `format:`, one of {', '.join(_LAYOUTS)}"
    )


def expand(resolved: str) -> list[str]:
    filesystem, path = fsspec.url_to_fs(resolved)
    found = sorted(filesystem.glob(path)) if "*" in path else [path] if filesystem.isfile(path) else []
    if not found:
        raise DataError(f"{resolved}: no such table; put the file there or correct the location")
    return [str(filesystem.unstrip_protocol(each)) if "://" in resolved else each for each in found]


def _open(path: str, mode: str = "rb", **options: Any) -> IO[Any]:
    """Text is opened so that bytes which are not UTF-8 survive until their row is judged."""
    if "b" not in mode:
        options |= {"encoding": "utf-8", "errors": "surrogateescape"}
    return fsspec.open(path, mode, **options).open()


def _row(table_name: str, number: int, record: Record) -> TableRow:
    if isinstance(record, str):
        return TableRow(table_name, number, problem=record)
    url, caption = (_text(record.get(field)) for field in ("url", "caption"))
    licence = _text(record.get("licence")) or None
    if not all(_is_unicode(text) for text in (url, caption, licence or "")):
        return TableRow(table_name, number, problem="undecodable")
    return TableRow(
        table_name,
        number,
        url,
        caption,
        _number(record.get("similarity")),
        _number(record.get("punsafe")),
        _number(record.get("pwatermark")),
        licence,
        problem="no_url" if not url else "empty_caption" if not caption else None,
    )


def _text(value: Any) -> str:
    """As one line; control characters become spaces."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="surrogateescape")
    return "" if value is None else " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", str(value)).split())


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _columns(path: str, table: Table, found: Iterable[str]) -> dict[str, str]:
    """Row field → column of this table. Raises DataError if it has no URL or no caption."""
    found = list(found)
    by_lower = {name.lower(): name for name in reversed(found)}
    columns = {}
    for field, known in COLUMN_NAMES.items():
        declared = {"url": table.url_column, "caption": table.caption_column}.get(field)
        if declared is not None and declared not in found:
            raise DataError(
                f"{path}: no column '{declared}', which {field}_column names. {did_you_mean(declared, found)}"
            )
        column = declared or next((by_lower[name] for name in known if name in by_lower), None)
        if column is not None:
            columns[field] = column
        elif field in ("url", "caption"):
            raise DataError(
                f"{path}: no {field} column; found {', '.join(found) or 'none'}, looked for {', '.join(known)}. "
                f"Name it with `{field}_column:` in the source"
            )
    return columns


def _read_parquet(path: str, table: Table) -> Iterator[Record]:
    with _open(path) as stream:
        try:
            file = pq.ParquetFile(stream)
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: not a readable Parquet file: {error}") from error
        columns = _columns(path, table, file.schema_arrow.names)
        for batch in file.iter_batches(_BATCH_ROWS, columns=sorted(set(columns.values()))):
            values = {field: _plain(batch.column(column)) for field, column in columns.items()}
            for row in zip(*values.values(), strict=True):
                yield dict(zip(values, row, strict=True))


def _plain(column: pa.Array) -> list[Any]:
    """Python values; text as bytes, because one that is not UTF-8 must not take its whole batch with it."""
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return (column.cast(pa.large_binary()) if is_text else column).to_pylist()


def _read_tsv(path: str, table: Table) -> Iterator[Record]:
    """CC3M (caption TAB url) and CC12M (url TAB caption): no header, and a quote is a quote."""
    with _open(path, "r", newline="\n") as stream:
        order = _tsv_order(path, [line.rstrip("\r\n").split("\t") for _, line in zip(range(100), stream, strict=False)])
        stream.seek(0)
        for number, line in enumerate(stream):
            fields = line.rstrip("\r\n").split("\t")
            if number == 0 and _is_header(fields):
                continue
            yield dict(zip(order, fields, strict=True)) if len(fields) == len(order) else "wrong_columns"


def _tsv_order(path: str, rows: list[list[str]]) -> list[str]:
    """Which of the two fields is the URL: the one that looks like one in most of the first rows."""
    pairs = [fields for fields in rows if len(fields) == 2]
    first, second = (sum(_looks_like_url(fields[column]) for fields in pairs) for column in (0, 1))
    if first == second:
        raise DataError(
            f"{path}: cannot tell which column is the URL: of the first {len(rows)} rows {len(pairs)} have two fields, "
            f"{first} with a URL in the first and {second} in the second; "
            "expected `caption TAB url` or `url TAB caption`"
        )
    return ["url", "caption"] if first > second else ["caption", "url"]


def _looks_like_url(text: str) -> bool:
    return text.strip().startswith(("http://", "https://", BASE_URL))


def _is_header(fields: list[str]) -> bool:
    known = {name for field in ("url", "caption") for name in COLUMN_NAMES[field]}
    return all(field.strip().lower() in known for field in fields)


def _read_sbu(path: str, table: Table) -> Iterator[Record]:
    """{"image_urls": […], "captions": […]}: parallel lists."""
    with _open(path, "r") as stream:
        try:
            content = json.load(stream)
        except ValueError as error:
            raise DataError(f"{path}: not valid JSON: {error}") from error
    keys = table.url_column or "image_urls", table.caption_column or "captions"
    urls, captions = (content.get(key) if isinstance(content, dict) else None for key in keys)
    if not isinstance(urls, list) or not isinstance(captions, list):
        found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path}: expected the lists {' and '.join(keys)}; found {found}")
    if len(urls) != len(captions):
        raise DataError(f"{path}: {len(urls)} {keys[0]} but {len(captions)} {keys[1]}; the lists must be parallel")
    return ({"url": url, "caption": caption} for url, caption in zip(urls, captions, strict=True))


def _read_capfilt(path: str, table: Table) -> Iterator[Record]:
    """[{"url": …, "caption": …}, …]."""
    with _open(path, "r") as stream:
        yield from _named(path, table, array_items(stream, path))


def _read_llava(path: str, table: Table) -> Iterator[Record]:
    """[{"id", "image", "conversations": [human, gpt]}, …]: `image` is a path below the base URL, and the first answer
    is the caption."""
    with _open(path, "r") as stream:
        for item in array_items(stream, path):
            if not (isinstance(item, dict) and "image" in item and isinstance(item.get("conversations"), list)):
                yield "wrong_columns"
                continue
            answers = [
                turn.get("value")
                for turn in item["conversations"]
                if isinstance(turn, dict) and turn.get("from") == "gpt"
            ]
            image = _text(item["image"])
            url = image if not image or _looks_like_url(image) else f"{BASE_URL}/{image.lstrip('/')}"
            yield {"url": url, "caption": answers[0] if answers else None}


def _read_jsonl(path: str, table: Table) -> Iterator[Record]:
    """One object per line."""

    def items() -> Iterator[Any]:
        with _open(path, "r", newline="\n") as stream:
            for line in stream:
                try:
                    yield json.loads(line)
                except ValueError:
                    yield _NOT_JSON

    return _named(path, table, items())


def _read_csv(path: str, table: Table) -> Iterator[Record]:
    """A header, then rows; quoting as in RFC 4180."""
    csv.field_size_limit(_LONGEST_FIELD)
    with _open(path, "r", newline="") as stream:
        lines = csv.reader(stream)
        header = [name.lstrip("\ufeff") for name in next(lines, [])]
        columns = {field: header.index(name) for field, name in _columns(path, table, header).items()}
        for line in lines:
            if len(line) == len(header):
                yield {field: line[position] for field, position in columns.items()}
            else:
                yield "wrong_columns"


def _named(path: str, table: Table, items: Iterator[Any]) -> Iterator[Record]:
    """Objects → records; the first object says which columns there are. `_NOT_JSON` stands for an unreadable one."""
    columns: dict[str, str] | None = None
    for item in items:
        if not isinstance(item, dict):
            yield "not_json" if item is _NOT_JSON else "wrong_columns"
            continue
        if columns is None:
            columns = _columns(path, table, item)
        yield {field: item.get(name) for field, name in columns.items()}


_LAYOUTS: dict[TableFormat, Callable[[str, Table], Iterator[Record]]] = {
    "laion_parquet": _read_parquet,
    "cc_tsv": _read_tsv,
    "sbu_json": _read_sbu,
    "capfilt_json": _read_capfilt,
    "llava_json": _read_llava,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
}
