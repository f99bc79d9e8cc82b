"""A bounded folder of contents by their SHA-256, which any number of processes on a machine share.

What is in it is known by what it is, so an object that changed on S3 cannot be mistaken for what it was, and equal
images of several artifacts are kept once. Contents lie in sixteen drawers, by the first digit of their hash, that are
each bounded and locked for themselves: whoever makes room in one holds up few others.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from tinygptv.store.artifacts import storage_errors

_DRAWERS = 16
_PARTIAL = ".partial"
_LEFT = 0.9
"""Share of a drawer's room that stays in use when room is made: so it is looked through once for many contents."""


class ContentCache:
    """At most `room_bytes` of contents, of which those used longest ago go first. With no room nothing is kept.

    What is larger than a drawer, a sixteenth of the room, is not kept either.
    """

    def __init__(self, folder: Path, room_bytes: int) -> None:
        self._folder, self._room = folder, room_bytes // _DRAWERS

    def get(self, digest: str) -> bytes | None:
        """A content, as whole as it was put; None if it is not here. A damaged one is thrown away."""
        path = self._path(digest)
        try:
            with path.open("rb") as stream:
                content = stream.read()
                os.utime(stream.fileno())
        except FileNotFoundError:
            return None
        if hashlib.sha256(content).hexdigest() == digest:
            return content
        with _alone(path.parent):
            path.unlink(missing_ok=True)
        return None

    def put(self, digest: str, content: bytes) -> None:
        """Keep a content that has this hash. Raises StorageError if the disk refuses it."""
        path = self._path(digest)
        if len(content) > self._room:
            return
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(path.parent) as lock:
                if path.exists():
                    return
                held = _noted(lock)
                if held is None or held + len(content) > self._room:
                    held = self._make_room(path.parent, len(content))
                # Noted before it is true: who is killed in between leaves room unused, until room is made again.
                _note(lock, held + len(content))
                partial = path.parent / _PARTIAL
                partial.write_bytes(content)
                partial.rename(path)

    def _path(self, digest: str) -> Path:
        return self._folder / digest[0] / digest

    def _make_room(self, drawer: Path, wanted: int) -> int:
        """Remove what was used longest ago until so many bytes find room; how many are left."""
        (drawer / _PARTIAL).unlink(missing_ok=True)
        files = sorted((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path) for entry in os.scandir(drawer))
        held = sum(size for _, size, _ in files)
        if held + wanted > self._room:
            for _, size, path in files:
                if held == 0 or held + wanted <= _LEFT * self._room:
                    break
                Path(path).unlink()  # whoever reads it has it open, and reads on
                held -= size
        return held


@contextmanager
def _alone(drawer: Path) -> Iterator[TextIOWrapper]:
    """A drawer's lock, which ends with its process; the file says how much the drawer holds."""
    with drawer.with_suffix(".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def _noted(lock: TextIOWrapper) -> int | None:
    """How many bytes the drawer holds at most; None if nobody has counted."""
    lock.seek(0)
    noted = lock.read()
    return int(noted) if noted else None


def _note(lock: TextIOWrapper, held: int) -> None:
    lock.truncate(0)
    lock.write(f"{held}")
    lock.flush()
