"""A bounded on-disk cache of contents by SHA-256, shared by any number of processes on a machine.

Contents are addressed by hash, so a changed object on S3 is never mistaken for the original, and images shared by
several artifacts are stored once. Sixteen buckets, by the first hex digit, are bounded and locked independently, so an
eviction blocks few other processes.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from tinygptv.store.artifacts import storage_errors

_BUCKETS = 16
_PARTIAL = ".partial"
_FILL_AFTER_EVICTION = 0.9
"""Fill level of a bucket after an eviction, so that one scan makes room for many contents."""


class ContentCache:
    """Holds at most `room_bytes` of contents and evicts the least recently used. With a size of 0 nothing is kept.

    Contents larger than a bucket, a sixteenth of the total, are not kept either.
    """

    def __init__(self, folder: Path, room_bytes: int) -> None:
        self._folder, self._room = folder, room_bytes // _BUCKETS

    def get(self, digest: str) -> bytes | None:
        """The content with this hash, or None. A damaged file is deleted."""
        path = self._path(digest)
        try:
            with path.open("rb") as stream:
                content = stream.read()
                os.utime(stream.fileno())
        except FileNotFoundError:
            return None
        if hashlib.sha256(content).hexdigest() == digest:
            return content
        with _locked(path.parent):
            path.unlink(missing_ok=True)
        return None

    def put(self, digest: str, content: bytes) -> None:
        """Store a content with this hash. Raises StorageError if it cannot be written."""
        path = self._path(digest)
        if len(content) > self._room:
            return
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.parent) as lock:
                if path.exists():
                    return
                held = _recorded_size(lock)
                if held is None or held + len(content) > self._room:
                    held = self._make_room(path.parent, len(content))
                # Recorded before writing: a process killed in between leaves space unused until the next eviction.
                _record_size(lock, held + len(content))
                partial = path.parent / _PARTIAL
                partial.write_bytes(content)
                partial.rename(path)

    def _path(self, digest: str) -> Path:
        return self._folder / digest[0] / digest

    def _make_room(self, bucket: Path, wanted: int) -> int:
        """Evict the least recently used contents until `wanted` bytes fit; returns the bytes left."""
        (bucket / _PARTIAL).unlink(missing_ok=True)
        files = sorted((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path) for entry in os.scandir(bucket))
        held = sum(size for _, size, _ in files)
        if held + wanted > self._room:
            for _, size, path in files:
                if held == 0 or held + wanted <= _FILL_AFTER_EVICTION * self._room:
                    break
                Path(path).unlink()  # concurrent readers have it open and are not affected
                held -= size
        return held


@contextmanager
def _locked(bucket: Path) -> Iterator[TextIOWrapper]:
    """Lock a bucket until the context or the process ends; the lock file records the bucket's size."""
    with bucket.with_suffix(".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def _recorded_size(lock: TextIOWrapper) -> int | None:
    """The recorded upper bound of the bucket's bytes; None if not recorded yet."""
    lock.seek(0)
    noted = lock.read()
    return int(noted) if noted else None


def _record_size(lock: TextIOWrapper, held: int) -> None:
    lock.truncate(0)
    lock.write(f"{held}")
    lock.flush()
