"""An engine's results for one shard: a log with one record per URL, appended as answers arrive.

A log is named `.part` until it holds a result for every URL of its shard; then it is synced and renamed. A killed
process therefore loses only what it had not written: the next one truncates a torn record and continues. Readers follow
the log while it grows.
"""

import contextlib
import json
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tinygptv.errors import DataError

_RECORD = struct.Struct("<4sqIII")  # mark, position, bytes of facts, bytes of picture, crc32 of both
_MARK = b"TGR2"


class FetchRequest(NamedTuple):
    """One URL to fetch for the row at `position`, with what an earlier fetch learned about it."""

    position: int
    url: str
    etag: str | None = None
    last_modified: str | None = None
    content_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one URL: `failure` says why there is no picture, or is None.

    `is_unchanged`: the server said so or sent identical bytes; `jpeg` is then empty. `status` to `content_sha256`
    describe the last response; `hops` are the addresses of its redirects, including the final one. The rest describes
    the picture as received (`original_…`) and as stored.
    """

    position: int
    failure: str | None = None
    is_unchanged: bool = False
    status: int | None = None
    final_url: str | None = None
    hops: list[str] | None = None
    etag: str | None = None
    last_modified: str | None = None
    retry_after: float | None = None
    attempts: int = 1
    content_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    original_format: str | None = None
    reencoded: bool | None = None
    phash: int | None = None
    jpeg: bytes = b""


_FACTS = tuple(field.name for field in fields(Result) if field.name not in ("position", "jpeg"))


def write_request(path: Path, asked: list[FetchRequest]) -> None:
    """Write a shard's requests, atomically."""
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(one) + "\n" for one in asked))
    partial.rename(path)


def read_request(path: Path) -> list[FetchRequest]:
    """A shard's requests."""
    with path.open() as lines:
        return [FetchRequest(*json.loads(line)) for line in lines]


class ResultLog:
    """The growing results of one shard of `size` URLs; `known` holds the positions already present when it was opened.

    Any thread may append. A complete log is renamed to `path`. The file is closed between writes, because there may be
    thousands of shards.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size, self._lock = path, size, threading.Lock()
        self._partial = path.with_suffix(".part")
        self.known: set[int] = set()
        if self._partial.exists():
            with self._partial.open("r+b") as stream:
                end = 0
                while (result := _read_record(stream)) is not None:
                    self.known.add(result.position)
                    end = stream.tell()
                stream.truncate(end)
        self._count = size if path.exists() else len(self.known)
        if self.is_complete and not path.exists():
            self._partial.touch()
            self._finish()

    @property
    def is_complete(self) -> bool:
        """Whether every URL has its result."""
        return self._count == self._size

    def take_known(self) -> set[int]:
        """Return `known` and release it."""
        known, self.known = self.known, set()
        return known

    def append(self, result: Result) -> bool:
        """Write one result; returns whether it was the last. Raises OSError if the disk is full."""
        facts = json.dumps({n: value for n in _FACTS if (value := getattr(result, n)) is not None}).encode()
        check = zlib.crc32(result.jpeg, zlib.crc32(facts))
        head = _RECORD.pack(_MARK, result.position, len(facts), len(result.jpeg), check)
        left = memoryview(head + facts + result.jpeg)
        with self._lock:
            assert not self.is_complete
            descriptor = os.open(self._partial, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                while left:
                    left = left[os.write(descriptor, left) :]
            finally:
                os.close(descriptor)
            self._count += 1
            if self.is_complete:
                self._finish()
            return self.is_complete

    def _finish(self) -> None:
        with self._partial.open("rb") as stream:
            os.fsync(stream.fileno())
        self._partial.rename(self._path)


class Results(Mapping[int, Result]):
    """The results of one shard by row position; each is read, including its picture, on access.

    While the engine is still writing, a lookup of a missing position calls `wait` until it arrives; `wait` raises if it
    never will.
    """

    def __init__(self, path: Path, wait: Callable[[], None] | None = None) -> None:
        self._path, self._wait = path, wait
        self._stream: FileIO | None = None
        self._places: dict[int, int] = {}
        self._end = 0

    def __getitem__(self, position: int) -> Result:
        """Raises DataError if the record is damaged."""
        while position not in self._places:
            if self._read_on() and position not in self._places:
                raise KeyError(position)
        assert self._stream is not None
        self._stream.seek(self._places[position])
        result = _read_record(self._stream)
        if result is None:
            raise DataError(f"{self._path}: what was fetched is damaged on disk; remove this file to fetch it again")
        return result

    def __iter__(self) -> Iterator[int]:
        while not self._read_on():
            pass
        return iter(self._places)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _read_on(self) -> bool:
        """Index newly written records, waiting once if there are none. Returns whether the log is complete."""
        is_complete, known = self._path.exists(), len(self._places)
        self._stream = self._stream or _open_first(self._path.with_suffix(".part"), self._path)
        if self._stream is not None:
            size = os.fstat(self._stream.fileno()).st_size
            while (record := self._next_record(size)) is not None:
                position, length = record
                self._places[position] = self._end
                self._end += length
        if is_complete or len(self._places) > known:
            return is_complete
        assert self._wait is not None
        self._wait()
        return False

    def _next_record(self, size: int) -> tuple[int, int] | None:
        """Position and size of the next record, or None while part of it is missing: it is still being written, or a
        killed engine left it torn and its successor will overwrite it."""
        assert self._stream is not None
        self._stream.seek(self._end)
        head = self._stream.read(_RECORD.size)
        if len(head) < _RECORD.size:
            return None
        mark, position, facts_length, jpeg_length, _ = _RECORD.unpack(head)
        length = _RECORD.size + facts_length + jpeg_length
        return (position, length) if mark == _MARK and self._end + length <= size else None


def _open_first(*paths: Path) -> FileIO | None:
    """Open the first of these files that exists."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            return path.open("rb", buffering=0)  # a buffer could hold bytes that have been overwritten since
    return None


def _read_record(stream: BinaryIO | FileIO) -> Result | None:
    """The record at the stream's position, or None if there is no intact one."""
    head = stream.read(_RECORD.size)
    if len(head) < _RECORD.size:
        return None
    mark, position, facts_length, jpeg_length, check = _RECORD.unpack(head)
    if mark != _MARK:
        return None
    facts, jpeg = stream.read(facts_length), stream.read(jpeg_length)
    if len(jpeg) < jpeg_length or zlib.crc32(jpeg, zlib.crc32(facts)) != check:
        return None
    return Result(position, jpeg=jpeg, **json.loads(facts))
