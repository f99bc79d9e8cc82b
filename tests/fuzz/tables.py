"""Tables in every layout, whole and damaged: all rows are accounted for, and no caption stands beside another's URL.

Every row carries its token in URL and caption, so that a damaged one is not taken for another. A case is whole, or
damaged in one of three ways: anywhere, after which a table may be refused, but nothing worse may happen; within one
line, which may cost only that line; or one of two parallel lists lacks an item, and then no pair can be trusted.
"""

import csv
import io
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tinygptv.data.tables.readers import read_table
from tinygptv.definitions.source import Table, TableFormat
from tinygptv.errors import DataError

Row = tuple[str, str]
"""URL and caption."""

_TOKEN = re.compile(r"\bt[0-9a-f]{16}\b")
_WORDS = (
    "a",
    "cat",
    "on",
    "the",
    "été",
    "日本",
    "💩",
    '"quoted"',
    "it's",
    "50%",
    "a,b",
    "{x}",
    "[y]",
    "\\n",
    "\u00a0",
    "\u2028",
)
_BAD_BYTES = (
    b"\x00",
    b"\r",
    b"\n",
    b'"',
    b"'",
    b"\\",
    b"\t",
    b",",
    b"\xff",
    b"\xc3",
    b"\xef\xbb\xbf",
    b"{",
    b"]",
    b"\x1a",
    b"\x85",
)
_LINE_KEEPING = frozenset(range(256)) - frozenset(b'\r\n"\t,')
"""Bytes that end no line, field or quoted text."""


class Layout(NamedTuple):
    """How rows are written: files by name, the first of which is read. Its rows may be lines, or two parallel lists."""

    format: TableFormat
    write: Callable[[Sequence[Row], Random], dict[str, bytes]]
    is_lines: bool = False
    shorten: Callable[[dict[str, bytes], Random], dict[str, bytes]] | None = None


def cases(random: Random) -> bytes:
    """A description on one line, as JSON, and the bytes of the files behind it."""
    layout = random.choice(_LAYOUTS)
    count = random.choice((1, 2, 3, 10, 50, 300))
    files = layout.write([_row(number, random) for number in range(count)], random)
    damage, bad_row = random.choice(("", "", "anywhere", "anywhere", "line", "list")), None
    name = random.choice(sorted(files))
    if damage == "anywhere":
        for _ in range(random.choice((1, 1, 1, 2, 5, 30))):
            files[name] = _changed(files[name], random)
    elif damage == "line" and layout.is_lines and count > 3:
        files[name], bad_row = _with_a_bad_line(files[name], random)
    elif damage == "list" and layout.shorten and count > 3:
        files = layout.shorten(files, random)
    else:
        damage = ""
    said = {
        "format": layout.format,
        "says_format": random.random() < 0.7,
        "rows": count,
        "damage": damage,
        "bad_row": bad_row,
        "files": {each: len(content) for each, content in files.items()},
    }
    return json.dumps(said).encode() + b"\n" + b"".join(files.values())


def check(data: bytes) -> None:
    """Read it, and hold what comes out against what was written."""
    described, _, content = data.partition(b"\n")
    said = json.loads(described)
    with tempfile.TemporaryDirectory(prefix="fuzz-tables-") as folder:
        for name, size in said["files"].items():
            (Path(folder) / name).write_bytes(content[:size])
            content = content[size:]
        path = Path(folder) / next(iter(said["files"]))
        table = Table(location=str(path), format=said["format"] if said["says_format"] else None)
        try:
            found = [row for batch in read_table(table, str(path)) for row in batch.to_pylist()]
        except DataError as error:
            assert said["damage"] in ("anywhere", "list"), f"a good table cannot be read: {error}"
            assert folder in str(error), f"the message does not say which file it is about: {error}"
            return
    assert said["damage"] != "list", "one list lacks an item, and pairs were made of what follows it"
    _check_rows(found, said)


def _check_rows(found: list[dict], said: dict) -> None:
    assert [row["table_row"] for row in found] == list(range(len(found))), "rows are not numbered one by one"
    for row in found:
        shown = f"row {row['table_row']}: {row['url']!r}, {row['caption']!r}"
        assert row["problem"] is None or row["found"] is not None, f"{shown} has a problem that nothing is shown of"
        assert row["problem"] or (row["url"] and row["caption"]), f"{shown} lacks something, and has no problem"
    if said["damage"] != "anywhere":
        _check_pairs([row for row in found if not row["problem"]], said)
        assert len(found) == said["rows"], f"{said['rows']} rows are read as {len(found)}"


def _check_pairs(kept: list[dict], said: dict) -> None:
    """Every row that is not damaged is there, with its own caption."""
    tokens = {_token(number): number for number in range(said["rows"])}
    seen = set()
    for row in kept:
        url, caption = ({tokens[t] for t in _TOKEN.findall(row[name]) if t in tokens} for name in ("url", "caption"))
        assert url == caption or not (url and caption), f"the URL of row {url} has the caption of row {caption}"
        seen |= url & caption
    lost = set(range(said["rows"])) - seen - {said["bad_row"]}
    assert not lost, f"rows {sorted(lost)} are lost, and only row {said['bad_row']} is damaged"


def _token(number: int) -> str:
    return "t" + sha256(b"%d" % number).hexdigest()[:16]


def _row(number: int, random: Random) -> Row:
    words = [random.choice(_WORDS) for _ in range(random.randint(0, 8))]
    words.insert(random.randint(0, len(words)), _token(number))
    return f"http://{random.choice('abc')}.example/{_token(number)}.jpg?a={random.choice('12é')}&b", " ".join(words)


def _changed(content: bytes, random: Random) -> bytes:
    """Damaged in one place."""
    start = random.randint(0, len(content))
    end = min(len(content), start + random.choice((1, 1, 2, 8, 100, 5000)))
    match random.randrange(6):
        case 0:
            return content[:start] + bytes([random.randrange(256)]) + content[start + 1 :]
        case 1:
            return content[:start] + content[end:]
        case 2:
            return content[:start] + random.choice(_BAD_BYTES) * random.choice((1, 1, 2, 50)) + content[start:]
        case 3:
            return content[:end] + content[start:]
        case 4:
            return content[:start]
        case _:
            piece = content[start:end]
            place = random.randint(0, len(content))
            return content[:place] + piece + content[place:]


def _with_a_bad_line(content: bytes, random: Random) -> tuple[bytes, int]:
    """With bytes of one line changed for ones that end nothing; and the row of that line, behind the first ones, from
    which the layout is recognised."""
    lines = content.split(b"\n")
    row = random.randrange(2, len(lines) - 2)
    is_headed = not _TOKEN.search(lines[0].decode("utf-8", "replace"))
    line = bytearray(lines[row])
    for _ in range(random.choice((1, 1, 3))):
        place = random.randrange(len(line))
        if line[place] in _LINE_KEEPING:
            line[place] = random.choice(sorted(_LINE_KEEPING))
    lines[row] = bytes(line)
    return b"\n".join(lines), row - is_headed


def _ended(lines: Sequence[str], random: Random) -> bytes:
    end = random.choice(("\n", "\n", "\r\n"))
    return (end.join(lines) + end * random.randint(0, 1)).encode()


def _tsv(rows: Sequence[Row], random: Random) -> dict[str, bytes]:
    is_url_first = random.random() < 0.5
    lines = ["\t".join(row if is_url_first else row[::-1]) for row in rows]
    header = [] if random.random() < 0.7 else ["url\tcaption" if is_url_first else "caption\turl"]
    return {"t.tsv": _ended([*header, *lines], random)}


def _csv(rows: Sequence[Row], random: Random) -> dict[str, bytes]:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator=random.choice(("\n", "\r\n")), quoting=random.choice((0, 1)))
    extra = random.choice(([], ["punsafe"], ["width", "height"]))
    writer.writerows([["url", "caption", *extra], *([*row, *("7" for _ in extra)] for row in rows)])
    return {"t.csv": random.choice((b"", b"\xef\xbb\xbf")) + stream.getvalue().encode()}


def _objects(rows: Sequence[Row], random: Random) -> list[dict]:
    url, caption = random.choice((("url", "caption"), ("URL", "TEXT")))
    extra = random.choice(({}, {"similarity": 0.3}, {"width": 64, "height": "64"}, {"nsfw": None, "uid": "x"}))
    return [{url: row[0], caption: row[1], **extra} for row in rows]


def _dumped(value: object, random: Random) -> str:
    return json.dumps(value, ensure_ascii=random.random() < 0.5, indent=random.choice((None, None, 1)))


def _jsonl(rows: Sequence[Row], random: Random) -> dict[str, bytes]:
    is_ascii = random.random() < 0.5
    lines = [json.dumps(each, ensure_ascii=is_ascii) for each in _objects(rows, random)]
    return {"t.jsonl": _ended(lines, random)}


def _capfilt(rows: Sequence[Row], random: Random) -> dict[str, bytes]:
    return {"t.json": _dumped(_objects(rows, random), random).encode()}


def _sbu(rows: Sequence[Row], random: Random) -> dict[str, bytes]:
    members: dict[str, list] = {"image_urls": [row[0] for row in rows], "captions": [row[1] for row in rows]}
    if random.random() < 0.3:
        members = {"info": [1, {"a": []}], **dict(reversed(members.items()))}
    return {"t.json": _dumped(members, random).encode()}


def _shorter_sbu(files: dict[str, bytes], random: Random) -> dict[str, bytes]:
    members = json.loads(files["t.json"])
    items = members[random.choice(("image_urls", "captions"))]
    del items[random.randrange(len(items))]
    return {"t.json": _dumped(members, random).encode()}


def _url_list(rows: Sequence[Row], random: Random) -> dict[str, bytes]:
    urls, captions = (_ended([row[place] for row in rows], random) for place in (0, 1))
    return {"t_urls.txt": urls, "t_captions.txt": captions}


def _shorter_list(files: dict[str, bytes], random: Random) -> dict[str, bytes]:
    name = random.choice(sorted(files))
    lines = files[name].splitlines(keepends=True)
    del lines[random.randrange(len(lines) - 1)]
    return files | {name: b"".join(lines)}


def _llava(rows: Sequence[Row], random: Random) -> dict[str, bytes]:
    question = {"from": "human", "value": "<image>\nWhat is it?"}
    items = [
        {"id": str(number), "image": row[0], "conversations": [question, {"from": "gpt", "value": row[1]}]}
        for number, row in enumerate(rows)
    ]
    return {"t.json": _dumped(items, random).encode()}


def _arrow_table(rows: Sequence[Row], random: Random) -> pa.Table:
    kind = random.choice((pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())))
    columns = {"URL": [row[0] for row in rows], "TEXT": [row[1] for row in rows]}
    table = pa.table({name: pa.array(values, pa.string()).cast(kind) for name, values in columns.items()})
    return table if random.random() < 0.5 else table.append_column("similarity", pa.array([0.3] * len(rows)))


def _parquet(rows: Sequence[Row], random: Random) -> dict[str, bytes]:
    stream = io.BytesIO()
    pq.write_table(
        _arrow_table(rows, random),
        stream,
        compression=random.choice(("none", "snappy", "zstd", "gzip")),
        row_group_size=random.choice((1, 7, 1000)),
        data_page_version=random.choice(("1.0", "2.0")),
        use_dictionary=random.random() < 0.5,
        write_page_checksum=random.random() < 0.3,
    )
    return {"t.parquet": stream.getvalue()}


def _arrow(rows: Sequence[Row], random: Random) -> dict[str, bytes]:
    stream = io.BytesIO()
    table = _arrow_table(rows, random)
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=random.choice((1, 7, 1000)))
    return {"t.arrow": stream.getvalue()}


_LAYOUTS = (
    Layout("laion_parquet", _parquet),
    Layout("arrow", _arrow),
    Layout("cc_tsv", _tsv, is_lines=True),
    Layout("sbu_json", _sbu, shorten=_shorter_sbu),
    Layout("sbu_urls", _url_list, shorten=_shorter_list),
    Layout("capfilt_json", _capfilt),
    Layout("llava_json", _llava),
    Layout("jsonl", _jsonl, is_lines=True),
    Layout("csv", _csv, is_lines=True),
)
