"""How much memory this process and all its descendants hold together, at most."""

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_SAMPLE_SECONDS = 0.05
_PROC = Path("/proc")


class PeakMemory:
    """Watches while its context lasts; `bytes` is the most resident memory seen, None where there is no /proc.

    Pages that processes share count once for each of them.
    """

    def __init__(self) -> None:
        self.bytes: int | None = None
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if _PROC.is_dir():
            self.bytes = 0
            self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._done.set()
        if self.bytes is not None:
            self._watcher.join()

    def _watch(self) -> None:
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        while self.bytes is not None:
            self.bytes = max(self.bytes, page_bytes * sum(map(_resident_pages, _tree(os.getpid()))))
            if self._done.wait(_SAMPLE_SECONDS):
                return


def _tree(process: int) -> list[int]:
    """A process and its descendants; each of its threads may have started some."""
    found = [process]
    for children in (_PROC / str(process) / "task").glob("*/children"):
        for child in _read(children).split():
            found += _tree(int(child))
    return found


def _resident_pages(process: int) -> int:
    fields = _read(_PROC / str(process) / "statm").split()
    return int(fields[1]) if fields else 0


def _read(path: Path) -> str:
    """A file's content; nothing if its process has ended meanwhile."""
    try:
        return path.read_text()
    except OSError:
        return ""
