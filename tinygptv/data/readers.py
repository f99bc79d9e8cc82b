"""Tables of URL+caption pairs, in the layouts their publishers chose → batches of rows.

Nothing is read whole. A record that cannot be used is still a row: it comes out with a `problem`, its line and what
stands there, so that what goes in is always what comes out plus what was dropped.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tinygptv.data.guard import BASE_URL
from tinygptv.data.json_stream import array_items, member_items
from tinygptv.data.table_rows import Bad, Records, records_of, rows_of
from tinygptv.data.text_lines import csv_records, every_line, line_batches, open_bytes, open_text
from tinygptv.definitions.source import Table, TableFormat
from tinygptv.errors import DataError, did_you_mean

COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "url": ("url", "image_url", "img_url"),
    "caption": ("caption", "text", "alt_text"),
    "uid": ("uid", "sample_id", "hash"),
    "similarity": ("similarity", "clip_b32_similarity_score", "clip_l14_similarity_score"),
    "punsafe": ("punsafe",),
    "pwatermark": ("pwatermark",),
    "nsfw": ("nsfw",),
    "licence": ("license", "licence"),
    "table_width": ("width", "original_width"),
    "table_height": ("height", "original_height"),
    "table_sha256": ("sha256",),
}
"""Row field → the column names, in lower case, under which published tables carry it; the first one found counts."""

_MAGIC: dict[bytes, TableFormat] = {b"PAR1": "laion_parquet", b"\xff\xff\xff\xff": "arrow"}
_BATCH_ROWS = 10_000
_ARROW_STATE = "state.json"


def read_table(table: Table, resolved: str) -> Iterator[pa.RecordBatch]:
    """The rows (`table_rows.ROWS`) of the table at `resolved`: a path or a URL fsspec can open, `*` for several files
    in order, a folder of Parquet files, or one that Hugging Face `datasets` saved.

    Problems: `no_url`, `empty_caption`, `undecodable` (not UTF-8), `wrong_columns`, `not_json`, `not_text`,
    `bad_quotes`. Raises DataError if there is no such file, its layout is unknown, or it lacks a needed column.
    """
    for path in expand(resolved):
        layout = table.format or recognise(path)
        name, first_row = PurePosixPath(path).stem, 0
        for records in _LAYOUTS[layout](path, table):
            if records.count:
                yield rows_of(records, name, first_row)
                first_row += records.count


def recognise(path: str) -> TableFormat:
    """The layout of the table at `path`, from its first bytes and, for plain text, its name."""
    with open_bytes(path) as stream:
        head = stream.read(1 << 16)
    for magic, layout in _MAGIC.items():
        if head.startswith(magic):
            return layout
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \r\n\t")
    first_line = text.partition("\n")[0]
    found: TableFormat | None = None
    if text.startswith("["):
        found = "llava_json" if '"conversations"' in text else "capfilt_json"
    elif text.startswith("{"):
        found = "sbu_json" if '"image_urls"' in text[:1000] or not _is_json(first_line) else "jsonl"
    elif "\t" in first_line:
        found = "cc_tsv"
    elif path.endswith(".txt") and _looks_like_url(first_line):
        found = "sbu_urls"
    elif path.endswith(".csv") and "," in first_line:
        found = "csv"
    if found:
        return found
    raise DataError(
        f"{path}: not a known table layout (it begins with {first_line[:60]!r}); "
        f"name it with `format:`, one of {', '.join(_LAYOUTS)}"
    )


def expand(resolved: str) -> list[str]:
    """The files behind one location, in order. Raises DataError if there is none."""
    filesystem, path = fsspec.url_to_fs(resolved)
    if "*" in path:
        found = sorted(filesystem.glob(path))
    elif filesystem.isfile(f"{path}/{_ARROW_STATE}"):
        parts = json.loads(filesystem.cat_file(f"{path}/{_ARROW_STATE}"))["_data_files"]
        found = [f"{path}/{part['filename']}" for part in parts]
    elif filesystem.isdir(path):
        found = sorted(filesystem.glob(f"{path}/*.parquet"))
    else:
        found = [path] if filesystem.isfile(path) else []
    if not found:
        raise DataError(f"{resolved}: no such table; put the file there or correct the location")
    return [str(filesystem.unstrip_protocol(each)) if "://" in resolved else each for each in found]


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


def _read_parquet(path: str, table: Table) -> Iterator[Records]:
    with open_bytes(path) as stream:
        try:
            # Without these two a whole row group is held, which in LAION's tables is the whole file.
            file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: not a readable Parquet file: {error}") from error
        columns = _columns(path, table, file.schema_arrow.names)
        for batch in file.iter_batches(_BATCH_ROWS, columns=sorted(set(columns.values()))):
            yield Records({field: batch.column(column) for field, column in columns.items()})


def _read_arrow(path: str, table: Table) -> Iterator[Records]:
    """A data file of a folder saved by Hugging Face `datasets`: an Arrow stream, readable without that library."""
    with open_bytes(path) as stream:
        try:
            batches = pa.ipc.open_stream(stream)
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: not a readable Arrow stream: {error}") from error
        columns = _columns(path, table, batches.schema.names)
        for batch in batches:
            yield Records({field: batch.column(column) for field, column in columns.items()})


def _read_tsv(path: str, table: Table) -> Iterator[Records]:
    """CC3M (caption TAB url) and CC12M (url TAB caption): no header, and a quote is a quote."""
    order: tuple[str, str] | None = None
    first_line = 1
    for batch in line_batches(path):
        lines = batch
        if order is None:
            order = _tsv_order(path, lines[:100])
            if _is_header(lines[0].as_py()):
                first_line, lines = 2, lines[1:]
        fields = pc.split_pattern(lines, "\t")
        good = pc.equal(pc.list_value_length(fields), 2)
        pairs = pc.if_else(good, fields, pa.scalar([b"", b""], fields.type)).flatten()
        columns = {field: pairs.take(pa.array(range(place, 2 * len(lines), 2))) for place, field in enumerate(order)}
        problems = pc.if_else(good, pa.scalar(None, pa.string()), "wrong_columns")
        yield Records(columns, problems, pa.array(range(first_line, first_line + len(lines))), lines)
        first_line += len(lines)


def _tsv_order(path: str, lines: pa.Array) -> tuple[str, str]:
    """Which of the two fields is the URL: the one that looks like one in most of the first rows."""
    rows = [line.decode("utf-8", "replace").split("\t") for line in lines.to_pylist()]
    pairs = [fields for fields in rows if len(fields) == 2]
    first, second = (sum(_looks_like_url(fields[column]) for fields in pairs) for column in (0, 1))
    if first == second:
        raise DataError(
            f"{path}: cannot tell which column is the URL: of the first {len(rows)} rows {len(pairs)} have two fields, "
            f"{first} with a URL in the first and {second} in the second; "
            "expected `caption TAB url` or `url TAB caption`"
        )
    return ("url", "caption") if first > second else ("caption", "url")


def _looks_like_url(text: str) -> bool:
    return text.strip().startswith(("http://", "https://", BASE_URL))


def _is_header(line: bytes) -> bool:
    known = {name for field in ("url", "caption") for name in COLUMN_NAMES[field]}
    return all(field.strip().lower() in known for field in line.decode("utf-8", "replace").split("\t"))


def _read_url_list(path: str, table: Table) -> Iterator[Records]:
    """SBU as first published: a file of URLs and, named `captions` instead of `urls`, one of captions, line by line."""
    folder, slash, name = path.rpartition("/")
    captions = f"{folder}{slash}{name.replace('urls', 'captions')}"
    if captions == path or not fsspec.url_to_fs(captions)[0].isfile(captions):
        raise DataError(
            f"{path}: a list of URLs needs its captions, line by line, in a file beside it that is called the same but "
            "with `captions` for `urls`"
        )
    return _parallel(path, ("URLs", every_line(path)), ("captions", every_line(captions)))


def _read_sbu(path: str, table: Table) -> Iterator[Records]:
    """{"image_urls": […], "captions": […]}: parallel lists, each read by a stream of its own."""
    url, caption = table.url_column or "image_urls", table.caption_column or "captions"
    with open_text(path) as first, open_text(path) as second:
        urls, captions = member_items(first, path, url), member_items(second, path, caption)
        yield from _parallel(path, (url, urls), (caption, captions))


def _parallel(path: str, urls: tuple[str, Iterator[Any]], captions: tuple[str, Iterator[Any]]) -> Iterator[Records]:
    """Two named lists, item by item. Raises DataError at the end of the shorter: then no pair can be trusted."""
    missing = object()

    def pairs() -> Iterator[tuple[int, Any]]:
        for number, pair in enumerate(itertools.zip_longest(urls[1], captions[1], fillvalue=missing), start=1):
            if missing in pair:
                (_, rest), (shorter, _) = (captions, urls) if pair[0] is missing else (urls, captions)
                more = 1 + sum(1 for _ in rest)
                raise DataError(
                    f"{path}: {shorter} ends after {number - 1} items, {more} before the other; "
                    "the lists must be parallel"
                )
            yield number, dict(zip(_PAIR, pair, strict=True))

    return records_of(pairs(), _PAIR)


def _read_capfilt(path: str, table: Table) -> Iterator[Records]:
    """[{"url": …, "caption": …}, …]."""
    with open_text(path) as stream:
        yield from _named(path, table, array_items(stream, path))


def _read_llava(path: str, table: Table) -> Iterator[Records]:
    """[{"id", "image", "conversations": [human, gpt]}, …]: `image` is a path below the base URL, and the first answer
    is the caption."""
    with open_text(path) as stream:
        yield from records_of(enumerate((_llava_pair(item) for item in array_items(stream, path)), start=1), _PAIR)


def _llava_pair(item: Any) -> Any:
    if not (isinstance(item, dict) and "image" in item and isinstance(item.get("conversations"), list)):
        return Bad("wrong_columns", repr(item))
    turns = item["conversations"]
    answers = [turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") == "gpt"]
    image = item["image"]
    if isinstance(image, str) and image.strip() and not _looks_like_url(image):
        image = f"{BASE_URL}/{image.strip().lstrip('/')}"
    return {"url": image, "caption": answers[0] if answers else None}


def _read_jsonl(path: str, table: Table) -> Iterator[Records]:
    """One object per line."""
    return _named(path, table, (_parsed(line) for line in every_line(path)))


def _parsed(line: bytes) -> Any:
    text = line.decode("utf-8", "surrogateescape")
    try:
        return json.loads(text)
    except ValueError:
        return Bad("not_json", text)


def _named(path: str, table: Table, items: Iterator[Any]) -> Iterator[Records]:
    """Items → records; the first object says which columns there are."""
    head = []
    for item in items:
        head.append(item)
        if isinstance(item, dict):
            break
    objects = [item for item in head if isinstance(item, dict)]
    columns = _columns(path, table, objects[0]) if objects else _PAIR
    return records_of(enumerate(itertools.chain(head, items), start=1), columns)


def _read_csv(path: str, table: Table) -> Iterator[Records]:
    """A header, then rows."""
    with open_text(path) as stream:
        records = csv_records(stream)
        _, header = next(records, (1, []))
        if isinstance(header, Bad):
            raise DataError(f"{path}: a quote in the header is never closed: {header.source[:60]!r}")
        objects = ((line, _object(header, fields)) for line, fields in records)
        yield from records_of(objects, _columns(path, table, header))


def _object(header: list[str], fields: list[str] | Bad) -> Any:
    if isinstance(fields, Bad):
        return fields
    same = len(fields) == len(header)
    return dict(zip(header, fields, strict=True)) if same else Bad("wrong_columns", ",".join(fields))


_PAIR = {"url": "url", "caption": "caption"}
_LAYOUTS: dict[TableFormat, Callable[[str, Table], Iterator[Records]]] = {
    "laion_parquet": _read_parquet,
    "arrow": _read_arrow,
    "cc_tsv": _read_tsv,
    "sbu_json": _read_sbu,
    "sbu_urls": _read_url_list,
    "capfilt_json": _read_capfilt,
    "llava_json": _read_llava,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
}
