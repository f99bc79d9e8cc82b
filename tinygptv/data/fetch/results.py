"""What an engine leaves of one shard: a log with one result per URL, appended as answers come.

A log is named `.part` until it holds a result for every URL of its shard; then it is synced and renamed. A process that
is killed therefore loses only what it had not written yet: the next one drops a torn last record and goes on. Whoever
waits for results reads them while the log grows.
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


class Asked(NamedTuple):
    """One URL to fetch for the row at `position`, and what is known of it from an earlier fetch."""

    position: int
    url: str
    etag: str | None = None
    last_modified: str | None = None
    content_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one URL: `failure` names why there is no picture, or is None.

    `is_unchanged`: the server says so, or sent the very bytes of last time; then there is no `jpeg` either. `status` to
    `content_sha256` are of the last response, `hops` the addresses that redirects led to, the last one included; the
    rest describes the picture as it came (`original_…`) and as stored.
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


def write_request(path: Path, asked: list[Asked]) -> None:
    """Write what a shard asks for, complete or absent."""
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(one) + "\n" for one in asked))
    partial.rename(path)


def read_request(path: Path) -> list[Asked]:
    """What a shard asks for."""
    with path.open() as lines:
        return [Asked(*json.loads(line)) for line in lines]


class ResultLog:
    """The growing results of one shard of `size` URLs; `known` are the positions that had one when it was opened.

    Any thread may append. The log that becomes whole takes its final name, `path`. Between two results its file is
    closed: there may be thousands of shards.
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
        if self.is_whole and not path.exists():
            self._partial.touch()
            self._finish()

    @property
    def is_whole(self) -> bool:
        """Whether every URL has its result."""
        return self._count == self._size

    def taken_known(self) -> set[int]:
        """What is `known`, which need not be kept here any longer."""
        known, self.known = self.known, set()
        return known

    def append(self, result: Result) -> bool:
        """Write one result; whether it was the last. Raises OSError if there is no room for it."""
        facts = json.dumps({n: value for n in _FACTS if (value := getattr(result, n)) is not None}).encode()
        check = zlib.crc32(result.jpeg, zlib.crc32(facts))
        head = _RECORD.pack(_MARK, result.position, len(facts), len(result.jpeg), check)
        left = memoryview(head + facts + result.jpeg)
        with self._lock:
            assert not self.is_whole
            descriptor = os.open(self._partial, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                while left:
                    left = left[os.write(descriptor, left) :]
            finally:
                os.close(descriptor)
            self._count += 1
            if self.is_whole:
                self._finish()
            return self.is_whole

    def _finish(self) -> None:
        with self._partial.open("rb") as stream:
            os.fsync(stream.fileno())
        self._partial.rename(self._path)


class Results(Mapping[int, Result]):
    """The results of one shard by row position; each is read, picture and all, when it is asked for.

    If the engine still writes them, one that is not there yet is waited for: `wait` is called until it is, and raises
    what keeps it from ever coming.
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
            """What is still written is waited for."""
        return iter(self._places)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _read_on(self) -> bool:
        """Learn what has been written since, waiting once if that is nothing; whether there is nothing to come."""
        is_whole, known = self._path.exists(), len(self._places)
        self._stream = self._stream or _open_first(self._path.with_suffix(".part"), self._path)
        if self._stream is not None:
            size = os.fstat(self._stream.fileno()).st_size
            while (record := self._whole_record(size)) is not None:
                position, length = record
                self._places[position] = self._end
                self._end += length
        if is_whole or len(self._places) > known:
            return is_whole
        assert self._wait is not None
        self._wait()
        return False

    def _whole_record(self, size: int) -> tuple[int, int] | None:
        """Position and bytes of the record behind the last known one, unless the first `size` bytes lack a part of
        it: it is being written, or what is left of an engine that was killed, which its successor writes over."""
        assert self._stream is not None
        self._stream.seek(self._end)
        head = self._stream.read(_RECORD.size)
        if len(head) < _RECORD.size:
            return None
        mark, position, facts_length, jpeg_length, _ = _RECORD.unpack(head)
        length = _RECORD.size + facts_length + jpeg_length
        return (position, length) if mark == _MARK and self._end + length <= size else None


def _open_first(*paths: Path) -> FileIO | None:
    """The first of these files that is there."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            return path.open("rb", buffering=0)  # a buffer would hold what has been written over since
    return None


def _read_record(stream: BinaryIO | FileIO) -> Result | None:
    """The record a stream stands at, or None if there is no intact one."""
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
