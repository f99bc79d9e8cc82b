"""What every engine does as a process: it ends with its parent, says how far it is, and how it failed.

An engine is started as `python -m MODULE FOLDER SETTINGS` and turns each FOLDER/todo/NNNNN.jsonl into
FOLDER/done/NNNNN.results, in order, leaving alone what is there already (see `results`).
"""

import ctypes
import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from tinygptv.definitions.source import Download

STORAGE_FAILURES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""An engine that ends with one of these as its exit code found no room for its results."""

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_PROGRESS_SECONDS = 0.5


class Settings(BaseModel):
    """What the process is told."""

    download: Download
    allow_private: bool
    parent: int


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


def run_engine(fetch_all: Callable[[Path, Settings], None]) -> None:
    """The body of an engine's `__main__`."""
    folder, settings = Path(sys.argv[1]), Settings.model_validate(json.loads(sys.argv[2]))
    end_with_parent(settings.parent)
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
