"""What every engine does as a process: it ends with its parent, says how far it is, and how it failed.

An engine is started as `python -m MODULE FOLDER SETTINGS`. Once it reads `GO` it turns each FOLDER/todo/NNNNN.jsonl
into FOLDER/done/NNNNN.results, in order, leaving alone what is there already (see `results`); what it needs is loaded
by then, while others plan.
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
"""An engine that ends with one of these as its exit code found no room for its results."""

GO = b"go"
"""What is written to an engine when all that it is asked for is in FOLDER/todo."""

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_PROGRESS_SECONDS = 0.5
_IN_HAND = "in_hand"
_POSITION, _NOTHING = struct.Struct("<q"), -1


class Settings(BaseModel):
    """What the process is told."""

    download: Download
    allow_private: bool
    parent: int
    suspects: list[int] = []
    """Positions of pictures that were being decoded when an engine crashed: to be decoded one at a time."""
    guilty: list[int] = []
    """Those over which an engine has crashed twice: not to be decoded."""


class Progress:
    """Counts results into FOLDER/progress/<process id>, for the process that watches."""

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


class InHand:
    """Lets so many threads decode at a time, each of which holds whole pictures in memory, and notes which pictures:
    `FOLDER/in_hand` outlives a process that crashes over one of them."""

    def __init__(self, folder: Path, places: int, suspects: Iterable[int]) -> None:
        with (folder / _IN_HAND).open("w+b") as stream:
            stream.truncate(places * _POSITION.size)
            # What is written here outlives a process that crashes, without a call to the kernel for each picture.
            self._noted = mmap.mmap(stream.fileno(), places * _POSITION.size)
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._places, self._alone, self._suspects = places, threading.Lock(), frozenset(suspects)
        for place in range(places):
            self._note(place, _NOTHING)

    def _note(self, place: int, position: int) -> None:
        _POSITION.pack_into(self._noted, place * _POSITION.size, position)
        if position == _NOTHING:
            self._free.put(place)

    @contextlib.contextmanager
    def decoding(self, position: int) -> Iterator[None]:
        """While the picture of a position is decoded; a suspect is alone in this."""
        is_suspect = position in self._suspects
        with self._alone if is_suspect else contextlib.nullcontext():
            taken = [self._free.get() for _ in range(self._places if is_suspect else 1)]
        self._note(taken[0], position)
        try:
            yield
        finally:
            for place in taken:
                self._note(place, _NOTHING)


def in_hand(folder: Path) -> set[int]:
    """The positions of the pictures that an engine was decoding when it ended."""
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
    """Have the kernel end this process when its parent ends, and end it now if that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that wanted this download is gone")
