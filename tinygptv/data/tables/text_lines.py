"""Text files as lines, and as the records that a dialect of CSV makes of them; bytes that are not UTF-8 survive until
their row is judged."""

import csv
import re
from collections import deque
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tinygptv.data.tables.table_bytes import Coding, open_coded
from tinygptv.errors import DataError

_BLOCK_BYTES = 1 << 20
_LONGEST_LINE = 1 << 24
_MOST_LINES_IN_QUOTES = 100


class Bad(NamedTuple):
    """In the place of an object: a record that could not be taken apart, why, and its text."""

    reason: str
    source: str


class Quoting(NamedTuple):
    """What separates fields, what stands around them, and what before a quote that is text: if None, another quote."""

    delimiter: str = ","
    quote: str | None = '"'
    escape: str | None = None


def line_batches(path: str, coding: Coding) -> Iterator[pa.Array]:
    """The lines of a file, thousands at once, as bytes without their ends."""
    with open_coded(path, coding) as stream:
        rest = stream.read(_BLOCK_BYTES)
        while more := stream.read(_BLOCK_BYTES):
            whole, found, rest = (rest + more).rpartition(b"\n")
            if found:
                yield _split(whole)
            elif len(rest) > _LONGEST_LINE:
                raise DataError(f"{path}: a line is longer than {_LONGEST_LINE >> 20} MB; this is not a table of text")
        if rest:
            yield _split(rest.removesuffix(b"\n"))


def every_line(path: str, coding: Coding) -> Iterator[bytes]:
    """The same lines one by one."""
    return (line for lines in line_batches(path, coding) for line in lines.to_pylist())


def csv_records(stream: IO[str], quoting: Quoting) -> Iterator[tuple[int, list[str] | Bad]]:
    """Line number and fields of each record; quoting as in RFC 4180, or with an escape character.

    A record takes further lines while it is inside quotes. A quote that nobody closes would swallow the rest of the
    file: after a hundred lines it is `bad_quotes`, which costs its own line and no other.
    """
    csv.field_size_limit(_LONGEST_LINE)
    waiting: deque[str] = deque()
    taken: list[str] = []
    parameters = _parameters(quoting)
    escaped = _escaped(quoting)

    def lines() -> Iterator[str]:
        while len(taken) < _MOST_LINES_IN_QUOTES and (line := waiting.popleft() if waiting else stream.readline()):
            taken.append(line)
            yield escaped.sub(_doubled, line) if escaped else line

    def _doubled(found: re.Match[str]) -> str:
        return found[1] * 2 if found[1] == quoting.quote else found[1]

    number = 1
    while True:
        taken.clear()
        try:
            fields: list[str] | Bad | None = next(csv.reader(lines(), strict=True, **parameters), None)
        except csv.Error:
            waiting.extendleft(reversed(taken[1:]))
            del taken[1:]
            fields = Bad("bad_quotes", taken[0])
        if fields is None:
            return
        yield number, fields
        number += len(taken)


def _parameters(quoting: Quoting) -> dict[str, Any]:
    if quoting.quote is None:
        return {"delimiter": quoting.delimiter, "quoting": csv.QUOTE_NONE, "escapechar": quoting.escape}
    return {"delimiter": quoting.delimiter, "quotechar": quoting.quote}


def _escaped(quoting: Quoting) -> re.Pattern[str] | None:
    """What an escape character protects inside quotes: a quote and itself. Python's own reader would take it away also
    from in front of anything else, as in a Windows path, which Spark writes as it is."""
    if quoting.quote is None or quoting.escape in (None, quoting.quote):
        return None
    escape, quote = re.escape(str(quoting.escape)), re.escape(quoting.quote)
    return re.compile(f"{escape}({escape}|{quote})")


def _split(text: bytes) -> pa.Array:
    text = text.replace(b"\r\n", b"\n").removesuffix(b"\r")
    return pc.split_pattern(pa.array([text], pa.binary()), "\n").flatten()
