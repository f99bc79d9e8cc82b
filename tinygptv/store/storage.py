"""Where a workdir lies: a folder on this machine, or a prefix on S3 (`s3.py`).

Beside whole artifacts both keep a few small documents that several processes change: which version is current, what is
to be forgotten. A document is replaced whole, and only by someone who has seen its latest text: `swap` fails if it
changed meanwhile. `exclusive` lets one process at a time do what must not be done twice.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from tinygptv.errors import StorageError


class Storage(Protocol):
    """What a store asks of the place its workdir is in. Names are relative, with `/`."""

    def read(self, name: str) -> bytes | None:
        """The bytes of a file or document, or None."""

    def read_tagged(self, name: str) -> tuple[bytes | None, str]:
        """A document with the tag of its present state, for `swap`; the tag of an absent one is empty."""

    def swap(self, name: str, content: bytes, tag: str) -> bool:
        """Replace a document if its state still has this tag; whether that was so."""

    def glob(self, pattern: str) -> list[str]:
        """Names of files that match, sorted."""

    def exclusive(self, name: str, doing: str) -> AbstractContextManager[Callable[[], None]]:
        """Hold `name` alone, and say what for. Gives a function that raises StorageError if the hold was lost.

        Raises StorageError, naming the holder, if another process has it.
        """


class LocalStorage:
    """A folder on this machine, or one that it shares with others."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str) -> bytes | None:
        """The bytes of a file or document, or None."""
        path = self._root / name
        return path.read_bytes() if path.is_file() else None

    def read_tagged(self, name: str) -> tuple[bytes | None, str]:
        """A document with the hash of its content."""
        content = self.read(name)
        return content, "" if content is None else hashlib.sha256(content).hexdigest()

    def swap(self, name: str, content: bytes, tag: str) -> bool:
        """Compare and rename, under a lock that ends with its process."""
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(f"{name}.swap").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.read_tagged(name)[1] != tag:
                return False
            partial = path.with_name(f".{path.name}.partial")
            with partial.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            partial.rename(path)
        return True

    def glob(self, pattern: str) -> list[str]:
        """Names of files that match, sorted."""
        return sorted(str(path.relative_to(self._root)) for path in self._root.glob(pattern) if path.is_file())

    @contextlib.contextmanager
    def exclusive(self, name: str, doing: str) -> Iterator[Callable[[], None]]:
        """A lock that ends with its process, so that a killed run never blocks the next; it cannot be lost."""
        with self._lock(name).open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise taken(name, lock.read()) from None
            lock.truncate(0)
            lock.write(f"{this_process()} is {doing}")
            lock.flush()
            yield lambda: None

    def _lock(self, name: str) -> Path:
        path = self._root / ".locks" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def this_process() -> str:
    """This process, in words that tell people where to look."""
    return f"process {os.getpid()} on {os.uname().nodename}"


def taken(name: str, holder: str) -> StorageError:
    """The error of whoever comes second."""
    return StorageError(f"{name}: {holder or 'another process is at it'}; wait until it is done")
