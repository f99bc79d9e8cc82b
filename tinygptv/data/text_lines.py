"""Text files as lines, and as the records that CSV makes of them; bytes that are not UTF-8 survive until their row is
judged."""

import csv
from collections import deque
from collections.abc import Iterator
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from tinygptv.data.table_rows import Bad
from tinygptv.errors import DataError

_BLOCK_BYTES = 1 << 20
_LONGEST_LINE = 1 << 24
_MOST_LINES_IN_QUOTES = 100


def open_bytes(path: str) -> IO[Any]:
    """A local path or a URL fsspec can open."""
    return fsspec.open(path, "rb").open()


def open_text(path: str) -> IO[Any]:
    """As text without a byte order mark, lines as they are; bytes that are not UTF-8 become surrogates."""
    stream = fsspec.open(path, "r", encoding="utf-8", errors="surrogateescape", newline="\n").open()
    if stream.read(1) != "\ufeff":
        stream.seek(0)
    return stream


def line_batches(path: str) -> Iterator[pa.Array]:
    """The lines of a file, thousands at once, as bytes without their ends."""
    with open_bytes(path) as stream:
        rest = stream.read(_BLOCK_BYTES).removeprefix(b"\xef\xbb\xbf")
        while more := stream.read(_BLOCK_BYTES):
            whole, found, rest = (rest + more).rpartition(b"\n")
            if found:
                yield _split(whole)
            elif len(rest) > _LONGEST_LINE:
                raise DataError(f"{path}: a line is longer than {_LONGEST_LINE >> 20} MB; this is not a table of text")
        if rest:
            yield _split(rest.removesuffix(b"\n"))


def every_line(path: str) -> Iterator[bytes]:
    """The same lines one by one."""
    return (line for lines in line_batches(path) for line in lines.to_pylist())


def csv_records(stream: IO[str]) -> Iterator[tuple[int, list[str] | Bad]]:
    """Line number and fields of each record; quoting as in RFC 4180.

    A record takes further lines while it is inside quotes. A quote that nobody closes would swallow the rest of the
    file: after a hundred lines it is `bad_quotes`, which costs its own line and no other.
    """
    csv.field_size_limit(_LONGEST_LINE)
    waiting: deque[str] = deque()
    taken: list[str] = []

    def lines() -> Iterator[str]:
        while len(taken) < _MOST_LINES_IN_QUOTES and (line := waiting.popleft() if waiting else stream.readline()):
            taken.append(line)
            yield line

    number = 1
    while True:
        taken.clear()
        try:
            fields: list[str] | Bad | None = next(csv.reader(lines(), strict=True), None)
        except csv.Error:
            waiting.extendleft(reversed(taken[1:]))
            del taken[1:]
            fields = Bad("bad_quotes", taken[0])
        if fields is None:
            return
        yield number, fields
        number += len(taken)


def _split(text: bytes) -> pa.Array:
    text = text.replace(b"\r\n", b"\n").removesuffix(b"\r")
    return pc.split_pattern(pa.array([text], pa.binary()), "\n").flatten()
