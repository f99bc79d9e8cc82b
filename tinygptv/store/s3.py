"""S3 as a place for a workdir: as it is, not as a file system.

An upload may die half-way, a request may fail for a moment, a listing may lag behind, and no lock ends with its
process. So requests are repeated with growing pauses, files are fetched by the names and sizes that their manifest
states and never by a listing, what was uploaded is measured before anything refers to it, and who works alone holds a
lease: a small object, written on condition, that expires unless it is renewed.
"""

import contextlib
import errno
import functools
import json
import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import aiohttp
import fsspec
from botocore.exceptions import HTTPClientError, IncompleteReadError

from tinygptv.errors import StorageError
from tinygptv.store.storage import taken, this_process

T = TypeVar("T")
logger = logging.getLogger(__name__)

ATTEMPTS = 5
LEASE_SECONDS = 60.0
_FIRST_PAUSE_SECONDS = 0.2
_LEASES = ".leases"
_TRANSFERS = 16
_TRANSIENT = (OSError, HTTPClientError, IncompleteReadError, aiohttp.ClientError)
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_CONFLICTS = ("PreconditionFailed", "ConditionalRequestConflict")


class S3Storage:
    """`s3://bucket/prefix`, at Amazon or any service that speaks the same protocol, conditional puts included."""

    def __init__(self, workdir: str) -> None:
        self._workdir = workdir
        self._files = fsspec.filesystem("s3", use_listings_cache=False)
        self._bucket, _, self._prefix = workdir.removeprefix("s3://").partition("/")

    def read(self, name: str) -> bytes | None:
        """The bytes of an object, or None."""
        try:
            content: bytes = _patiently(f"reading {name}", lambda: self._files.cat_file(self._url(name)))
        except FileNotFoundError:
            return None
        return content

    def read_range(self, name: str, offset: int, length: int) -> bytes | None:
        """So many bytes of an object, fewer if it ends before; None if there is no such object."""

        def ask() -> bytes:
            try:
                content: bytes = self._files.cat_file(self._url(name), start=offset, end=offset + length)
            except OSError as error:
                if error.errno == errno.EINVAL:  # no byte of it lies there
                    return b""
                raise
            return content

        try:
            return _patiently(f"reading {name} from byte {offset}", ask)
        except FileNotFoundError:
            return None

    def read_tagged(self, name: str) -> tuple[bytes | None, str]:
        """An object with an ETag that is not newer than it, so that `swap` may refuse in vain but never overwrites."""
        head = self._head(name)
        content = self.read(name) if head else None
        return content, head["ETag"] if head and content is not None else ""

    def swap(self, name: str, content: bytes, tag: str) -> bool:
        """A conditional put. One whose answer was lost is recognised by what is there afterwards."""
        condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
        request = {"Bucket": self._bucket, "Key": self._key(name), "Body": content} | condition
        try:
            _patiently(f"writing {name}", lambda: self._files.call_s3("put_object", **request))
        except OSError as error:
            if not isinstance(error, FileNotFoundError) and not _is_conflict(error):
                raise
            return self.read(name) == content
        return True

    def glob(self, pattern: str) -> list[str]:
        """Names of objects that match, sorted; what was written a moment ago may be missing."""
        found = _patiently(f"listing {pattern}", lambda: self._files.glob(self._url(pattern)))
        root = f"{self._bucket}/{self._prefix}".rstrip("/")
        return sorted(str(PurePosixPath(path).relative_to(root)) for path in found)

    def names(self, prefix: str = "") -> list[str]:
        """Names of all objects that begin with a prefix, sorted; what was written a moment ago may be missing."""
        found = _patiently(f"listing {self._url(prefix)}", lambda: self._files.find(self._url(prefix)))
        root = f"{self._bucket}/{self._prefix}".rstrip("/")
        return sorted(str(PurePosixPath(path).relative_to(root)) for path in found)

    def get(self, name: str, path: Path) -> bool:
        """Get one object into a file, as it is; whether there was one."""
        size = self._size(name)

        def fetch() -> None:
            self._files.get_file(self._url(name), str(path))
            if not _has_size(path, size or 0):
                raise OSError(f"{name} did not arrive whole")

        if size is not None:
            _patiently(f"fetching {name}", fetch)
        return size is not None

    def put(self, name: str, content: bytes) -> None:
        """Write one object; it appears whole or not at all."""
        _patiently(f"writing {name}", lambda: self._files.pipe_file(self._url(name), content))

    def remove(self, names: list[str]) -> None:
        """Remove objects, the first one first."""
        for name in names:
            request = {"Bucket": self._bucket, "Key": self._key(name)}
            _patiently(f"removing {name}", functools.partial(self._files.call_s3, "delete_object", **request))

    def upload(self, folder: Path, sizes: Mapping[str, int], place: str) -> None:
        """Put files (name → bytes) of a folder under `place`, many side by side, and measure what arrived."""

        def put(name: str) -> None:
            # Parts whose completion was carried out, but not answered, are unknown to S3 when it is asked for again.
            with contextlib.suppress(FileNotFoundError):
                self._files.put_file(str(folder / name), self._url(f"{place}/{name}"))
            if self._size(f"{place}/{name}") != sizes[name]:
                raise OSError(f"{name} did not arrive whole")

        _side_by_side(lambda name: _patiently(f"uploading {place}/{name}", lambda: put(name)), sizes)

    def fetch(self, place: str, sizes: Mapping[str, int], folder: Path) -> None:
        """Get the named files (name → bytes) of `place` into a folder, many side by side, and measure them."""

        def get(name: str) -> None:
            self._files.get_file(self._url(f"{place}/{name}"), str(folder / name))
            if not _has_size(folder / name, sizes[name]):
                raise OSError(f"{name} did not arrive whole")

        waiting = [name for name in sizes if not _has_size(folder / name, sizes[name])]
        for name in waiting:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _side_by_side(lambda name: _patiently(f"fetching {place}/{name}", lambda: get(name)), waiting)

    @contextlib.contextmanager
    def exclusive(self, name: str, doing: str) -> Iterator[Callable[[], None]]:
        """A lease, renewed by a thread while it is held; it expires a minute after its process stopped renewing it."""
        lease = _Lease(self, f"{_LEASES}/{name}.json", name, doing)
        lease.take()
        stop = threading.Event()
        renewing = threading.Thread(target=lease.renew_until, args=(stop,), daemon=True)
        renewing.start()
        try:
            yield lease.check
        finally:
            stop.set()
            renewing.join()
            lease.give_back()

    def holders(self, prefix: str) -> dict[str, str]:
        """Names that begin so and were ever held alone, and the host that held each last."""
        found = {}
        for document in self.names(f"{_LEASES}/{prefix}"):
            if content := self.read(document):
                name = document.removeprefix(f"{_LEASES}/").removesuffix(".json")
                found[name] = _Held(**json.loads(content)).host
        return found

    def _head(self, name: str) -> dict[str, Any] | None:
        def ask() -> dict[str, Any]:
            answer: dict[str, Any] = self._files.call_s3("head_object", Bucket=self._bucket, Key=self._key(name))
            return answer

        try:
            return _patiently(f"looking at {name}", ask)
        except FileNotFoundError:
            return None

    def _size(self, name: str) -> int | None:
        head = self._head(name)
        return int(head["ContentLength"]) if head else None

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}".lstrip("/")

    def _url(self, name: str) -> str:
        return f"{self._workdir}/{name}"


@dataclass(frozen=True)
class _Held:
    """What the lease object says; an empty `holder`: it was given back. `expires` is in seconds since 1970."""

    holder: str
    host: str
    pid: int
    doing: str
    token: str
    expires: float

    def is_over(self) -> bool:
        """Whether somebody else may take it: given back, expired, or its process on this very machine is gone."""
        if not self.holder or time.time() > self.expires:
            return True
        return self.host == os.uname().nodename and not Path(f"/proc/{self.pid}").exists()


class _Lease:
    """One process's claim to a name; whoever cannot renew it in time has lost it."""

    def __init__(self, storage: S3Storage, document: str, name: str, doing: str) -> None:
        self._storage, self._document, self._name, self._doing = storage, document, name, doing
        self._token, self._tag, self._sure_until = uuid.uuid4().hex, "", 0.0

    def take(self) -> None:
        """Raises StorageError, naming the holder, if another process has it."""
        content, self._tag = self._storage.read_tagged(self._document)
        held = None if content is None else _Held(**json.loads(content))
        if held and not held.is_over():
            seconds = max(0, round(held.expires - time.time()))
            raise taken(self._name, f"{held.holder} is {held.doing} (its hold lasts {seconds} s unless renewed)")
        if not self._write(LEASE_SECONDS):
            raise taken(self._name, "another process took it a moment ago")

    def renew_until(self, stop: threading.Event) -> None:
        """Renew three times per term; a failure to do so only shows when the term is over."""
        while not stop.wait(LEASE_SECONDS / 3):
            try:
                if not self._write(LEASE_SECONDS):
                    self._sure_until = 0.0
                    return
            except StorageError as error:
                logger.warning("%s: the lease could not be renewed (%s)", self._name, error)

    def check(self) -> None:
        """Raises StorageError if somebody else may have taken over."""
        if time.monotonic() > self._sure_until:
            raise StorageError(f"{self._name}: the lease on it was lost; start the same command again")

    def give_back(self) -> None:
        """Let the next one have it at once."""
        if self._sure_until:
            self._write(0.0)

    def _write(self, seconds: float) -> bool:
        holder = this_process() if seconds else ""
        held = _Held(holder, os.uname().nodename, os.getpid(), self._doing, self._token, time.time() + seconds)
        written, started = json.dumps(asdict(held)).encode(), time.monotonic()
        if not self._storage.swap(self._document, written, self._tag):
            return False
        found, self._tag = self._storage.read_tagged(self._document)
        self._sure_until = started + seconds
        return found == written


def _side_by_side(transfer: Callable[[str], None], names: Iterable[str]) -> None:
    """Each file has a patience of its own: one that fails does not send the others on their way again."""
    with ThreadPoolExecutor(_TRANSFERS) as pool:
        list(pool.map(transfer, names))


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _is_conflict(error: BaseException) -> bool:
    """Whether a conditional request was refused because somebody else was faster."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") in _CONFLICTS


def _patiently(what: str, request: Callable[[], T]) -> T:
    """Repeat what fails for a moment, with growing pauses; what would fail again alike is raised at once.

    Raises StorageError when patience ends.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return request()
        except _TRANSIENT as error:
            if isinstance(error, (*_FINAL, StorageError)) or _is_conflict(error):
                raise
            found = str(error) or type(error).__name__
        logger.info("%s: %s (attempt %d of %d)", what, found, attempt, ATTEMPTS)
        if attempt < ATTEMPTS:
            time.sleep(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1))
    raise StorageError(f"{what}: failed {ATTEMPTS} times, lastly: {found}; finished work is kept, try again later")
