"""Files of a table as they lie → bytes as the readers want them: unpacked, in UTF-8 without a byte order mark, and with
lines that end in a line feed. Nothing is read whole."""

import codecs
import io
import lzma
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import fsspec
import pyarrow as pa

from tinygptv.definitions.source import NONE, Compression, Table
from tinygptv.errors import DataError

_HEAD_BYTES = 1 << 20
_CHUNK = 1 << 18
_COMPRESSIONS: dict[bytes, Compression] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_FOREIGN = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook; unpack it, or save the sheet as CSV",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
    b"\x89HDF": "an HDF5 file; export the table as Parquet",
    b"Obj\x01": "an Avro file; convert it to Parquet",
    b"ORC": "an ORC file; convert it to Parquet",
    b"\x80\x04\x95": "a pickle, which can run code when it is read; export the table as Parquet",
    b"%PDF": "a PDF; a table of text or Parquet is needed",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; run `git lfs pull`",
    b"<!DOCTYPE html": "a web page, perhaps of a login; download the file itself",
    b"<!doctype html": "a web page, perhaps of a login; download the file itself",
    b"<html": "a web page, perhaps of a login; download the file itself",
}
_BINARY = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")
"""How Parquet, Arrow files and Arrow streams begin: they are no text."""

_MARKS = {
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_FEW_ZEROS, _MANY_ZEROS = 0.1, 0.5
"""Of every second byte, where they are letters and where they are the other halves of Latin ones."""
_SHORTEST = 20
_NO_TEXT = "table-bytes"
_DAMAGED = (EOFError, OSError, lzma.LZMAError)


class Coding(NamedTuple):
    """How the text of a file is packed and encoded, and whether its lines end in a carriage return alone, as on old
    Macs."""

    compression: Compression
    encoding: str
    ends_in_cr: bool = False

    def __str__(self) -> str:
        packed = "" if self.compression == NONE else f"{self.compression}, "
        return f"{packed}{self.encoding}{', lines end in CR' if self.ends_in_cr else ''}"


class Head(NamedTuple):
    """The beginning of a file: of its bytes, unpacked; and of its text, in UTF-8, empty if it is not read as text."""

    coding: Coding
    unpacked: bytes
    text: bytes
    is_whole: bool


def open_bytes(path: str) -> IO[Any]:
    """A local path or a URL fsspec can open, as it lies."""
    return fsspec.open(path, "rb").open()


def read_head(path: str, table: Table) -> Head:
    """The beginning of a file and its coding: as the table declares it, or as magic bytes and byte order marks say.

    Raises DataError if it is packed in a way that cannot be read in pieces, or is something known that is no table.
    """
    with open_bytes(path) as stream:
        first = stream.read(512)
    found = [kind for magic, kind in _COMPRESSIONS.items() if first.startswith(magic)]
    compression: Compression = table.compression or (found[0] if found else "none")
    with _unpacked(path, compression) as unpacked:
        head = unpacked.read(_HEAD_BYTES)
    _refuse_foreign(path, compression, head)
    is_whole = len(head) < _HEAD_BYTES
    if head.startswith(_BINARY):
        return Head(Coding(compression, "utf-8"), head, b"", is_whole)
    encoding = _encoding(head, table)
    text = _utf8(encoding, head, is_whole)
    ends_in_cr = b"\n" not in text and re.search(rb"\r[^\n]", text) is not None
    return Head(Coding(compression, encoding, ends_in_cr), head, _line_feeds(text) if ends_in_cr else text, is_whole)


@contextmanager
def open_coded(path: str, coding: Coding) -> Iterator[io.BufferedReader]:
    """The bytes of a file in UTF-8. What is not text in its encoding becomes a byte that is not UTF-8 either, so that
    it costs its own row. Raises DataError, on reading, where packed data are damaged."""
    with _unpacked(path, coding.compression) as unpacked:
        yield io.BufferedReader(_Recoded(unpacked, coding), _CHUNK)


@contextmanager
def open_text(path: str, coding: Coding) -> Iterator[IO[str]]:
    """The same as text, lines as they are; bytes that are not UTF-8 become surrogates."""
    with open_coded(path, coding) as stream:
        yield io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="\n")


class _Unpacked:
    """A packed stream whose errors name its file."""

    def __init__(self, path: str, compression: Compression, stream: Any) -> None:
        self._path, self._compression, self._stream = path, compression, stream

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        try:
            return bytes(self._stream.read(size))
        except _DAMAGED as error:
            if self._compression == NONE:
                raise
            raise DataError(
                f"{self._path}: its {self._compression} data are damaged or end early ({error}); get the file again, "
                "or declare another `compression`"
            ) from error


@contextmanager
def _unpacked(path: str, compression: Compression) -> Iterator[_Unpacked]:
    with open_bytes(path) as stream:
        match compression:
            case "none":
                yield _Unpacked(path, compression, stream)
            case "xz":
                with lzma.LZMAFile(stream) as unpacked:
                    yield _Unpacked(path, compression, unpacked)
            case _:
                file = pa.PythonFile(stream, "r")
                yield _Unpacked(path, compression, pa.CompressedInputStream(file, compression))


class _Recoded(io.RawIOBase):
    """Unpacked bytes → UTF-8 with line feeds."""

    def __init__(self, unpacked: _Unpacked, coding: Coding) -> None:
        self._unpacked, self._coding = unpacked, coding
        self._decoder = _decoder(coding.encoding)
        self._left = memoryview(b"")
        self._is_first, self._is_over = True, False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase` has it."""
        while not self._left and not self._is_over:
            chunk = self._unpacked.read(_CHUNK)
            self._is_over = not chunk
            self._left = memoryview(self._recode(chunk))
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def _recode(self, chunk: bytes) -> bytes:
        text = chunk if self._decoder is None else _encoded(self._decoder.decode(chunk, final=not chunk))
        if self._is_first and text:
            text, self._is_first = text.removeprefix(codecs.BOM_UTF8), False
        return _line_feeds(text) if self._coding.ends_in_cr else text


def _utf8(encoding: str, head: bytes, is_whole: bool) -> bytes:
    decoder = _decoder(encoding)
    text = head if decoder is None else _encoded(decoder.decode(head, final=is_whole))
    return text.removeprefix(codecs.BOM_UTF8)


def _decoder(encoding: str) -> codecs.IncrementalDecoder | None:
    """None for UTF-8, whose bytes stay as they are."""
    if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii"):
        return None
    return codecs.getincrementaldecoder(encoding)(_NO_TEXT)


def _not_text(error: UnicodeError) -> tuple[str, int]:
    """One surrogate for what cannot be decoded: as UTF-8 it is a byte that is none."""
    assert isinstance(error, UnicodeDecodeError)
    return "\udc80", error.end


codecs.register_error(_NO_TEXT, _not_text)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")


def _line_feeds(text: bytes) -> bytes:
    return text.replace(b"\r", b"\n")


def _encoding(head: bytes, table: Table) -> str:
    """As declared, as a byte order mark says, or by the zeros of ASCII in UTF-16 without one; else UTF-8."""
    if table.encoding is not None:
        return table.encoding
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    zeros = [head[place:400:2].count(0) / max(1, len(head[place:400:2])) for place in (0, 1)]
    if len(head) > _SHORTEST and min(zeros) < _FEW_ZEROS and max(zeros) > _MANY_ZEROS:
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return "utf-8"


def _refuse_foreign(path: str, compression: Compression, head: bytes) -> None:
    inside = "" if compression == NONE else f"inside {compression}, "
    start = head.lstrip()[:64]
    what = next((what for magic, what in _FOREIGN.items() if start.startswith(magic)), None)
    if head[257:262] == b"ustar":
        what = "a tar archive; unpack it"
    if compression != NONE and head.startswith((b"PAR1", b"ARROW1")):
        what = "a Parquet or Arrow file, which needs random access; unpack it"
    if what is not None:
        raise DataError(f"{path}: {inside}this is {what}")
