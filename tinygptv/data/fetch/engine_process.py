"""What all engine processes share: they exit with their parent, report progress, and report how they failed.

An engine is started as `python -m MODULE FOLDER SETTINGS` and loads its imports while the parent still plans. Once it
reads `GO` it turns each FOLDER/todo/NNNNN.jsonl into FOLDER/done/NNNNN.results, in order, skipping those that exist
(see `results`).
"""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import queue
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel

from tinygptv.definitions.source import Download

STORAGE_FAILURES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Exit codes of an engine that could not store its results."""

GO = b"go"
"""Written to an engine's stdin once all requests are in FOLDER/todo."""

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_PROGRESS_SECONDS = 0.5
_IN_HAND = "in_hand"
_POSITION, _NOTHING = struct.Struct("<q"), -1


class Settings(BaseModel):
    """An engine's settings, passed on its command line."""

    download: Download
    allow_private: bool
    parent: int
    suspects: list[int] = []
    """Positions of pictures that were being decoded when an engine crashed; they are decoded one at a time."""
    guilty: list[int] = []
    """Positions of pictures that crashed an engine twice; they are not decoded."""


class Progress:
    """Counts results into FOLDER/progress/<process id>, for the watching process."""

    def __init__(self, folder: Path) -> None:
        self._path, self._lock = folder / "progress" / str(os.getpid()), threading.Lock()
        self._count, self._written = 0, 0.0

    def add(self) -> None:
        """One more result."""
        with self._lock:
            self._count += 1
            if time.monotonic() - self._written > _PROGRESS_SECONDS:
                self._path.write_text(str(self._count))
                self._written = time.monotonic()


class DecodingSlots:
    """Limits how many threads decode at once (each holds whole pictures in memory) and records which pictures.

    `FOLDER/in_hand` survives a crash, so the parent learns which picture caused it.
    """

    def __init__(self, folder: Path, slots: int, suspects: Iterable[int]) -> None:
        with (folder / _IN_HAND).open("w+b") as stream:
            stream.truncate(slots * _POSITION.size)
            # A memory map survives a crash of the process without a system call per picture.
            self._noted = mmap.mmap(stream.fileno(), slots * _POSITION.size)
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._slots, self._alone, self._suspects = slots, threading.Lock(), frozenset(suspects)
        for slot in range(slots):
            self._note(slot, _NOTHING)

    def _note(self, slot: int, position: int) -> None:
        _POSITION.pack_into(self._noted, slot * _POSITION.size, position)
        if position == _NOTHING:
            self._free.put(slot)

    @contextlib.contextmanager
    def decoding(self, position: int) -> Iterator[None]:
        """Hold a slot while the picture at `position` is decoded; a suspect takes all slots."""
        is_suspect = position in self._suspects
        with self._alone if is_suspect else contextlib.nullcontext():
            taken = [self._free.get() for _ in range(self._slots if is_suspect else 1)]
        self._note(taken[0], position)
        try:
            yield
        finally:
            for slot in taken:
                self._note(slot, _NOTHING)


def decoding_positions(folder: Path) -> set[int]:
    """Positions of the pictures that an engine was decoding when it ended."""
    try:
        noted = (folder / _IN_HAND).read_bytes()
    except FileNotFoundError:
        return set()
    return {position for (position,) in _POSITION.iter_unpack(noted)} - {_NOTHING}


def run_engine(fetch_all: Callable[[Path, Settings], None]) -> None:
    """The body of an engine's `__main__`."""
    folder, settings = Path(sys.argv[1]), Settings.model_validate(json.loads(sys.argv[2]))
    end_with_parent(settings.parent)
    if sys.stdin.buffer.read() != GO:
        return
    try:
        fetch_all(folder, settings)
    except OSError as error:
        if error.errno not in STORAGE_FAILURES:
            raise
        sys.exit(error.errno)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; exit now if the parent is already gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent process of this download is gone")
