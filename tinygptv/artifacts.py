"""Artifacts: folders that are complete or absent, named after what made them, on disk or on S3.

Every arrow of the journey leaves one folder behind. It is built in a draft beside its final place, its
`manifest.json` is written last and says what, from what, how many, how many dropped and why; then the draft is renamed
(local) or uploaded with the manifest as its last object (S3). A manifest's presence therefore means *complete*:
resuming, caching and lineage all read that one file. The name ends in a hash of the resolved definition and of the
parents' names, so a changed threshold gives a new folder, never a mixed one.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
from pydantic import BaseModel, ConfigDict, ValidationError

from tinygptv.errors import DataError, StorageError

MANIFEST = "manifest.json"
_HASH_LENGTH = 10


class FileEntry(BaseModel):
    """One file of an artifact: size in bytes and content hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    bytes: int
    sha256: str


class Outcome(BaseModel):
    """What building an artifact counted. `rows_in = rows_out + sum(drops)` always holds where rows are counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    rows_in: int = 0
    rows_out: int = 0
    drops: dict[str, int] = {}
    details: dict[str, Any] = {}


class Manifest(BaseModel):
    """The last file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    artifact: str
    made_by: str
    definition: dict[str, Any]
    parents: list[str]
    rows_in: int
    rows_out: int
    drops: dict[str, int]
    details: dict[str, Any]
    files: dict[str, FileEntry]
    seconds: float
    created: str


def fingerprint(*values: Any) -> str:
    """A short stable hash of JSON-like values."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]


def artifact_name(place: str, definition: dict[str, Any], parents: list[str]) -> str:
    """`filtered/laion-web_pairs` → `filtered/laion-web_pairs@3f1c…`."""
    return f"{place}@{fingerprint(definition, sorted(parents))}"


def sha256_of(path: Path) -> str:
    """Content hash of one file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def storage_errors(place: str | Path) -> Iterator[None]:
    """Turn the operating system's refusals into errors a user can act on."""
    advice = {
        errno.ENOSPC: "the disk is full; free some space, then start the same command again: finished work is kept",
        errno.EDQUOT: "the disk quota is used up; free some space, then start the same command again",
        errno.EACCES: "permission denied; choose a workdir you may write to",
        errno.EPERM: "permission denied; choose a workdir you may write to",
        errno.EROFS: "the file system is read-only; choose another workdir",
        errno.ENOTDIR: "a part of this path is a file; choose another workdir",
    }
    try:
        yield
    except OSError as error:
        if error.errno in advice:
            raise StorageError(f"{place}: {advice[error.errno]}") from error
        raise


class Store:
    """All artifacts below one `workdir`: a local path or `s3://bucket/prefix`.

    Work always happens on local disk. For S3 the finished folders are uploaded, and fetched again into a local cache
    ($TINYGPTV_CACHE, by default ~/.cache/tinygptv) when a later arrow reads them.
    """

    def __init__(self, workdir: str) -> None:
        self.workdir = workdir.rstrip("/")
        self.is_remote = "://" in workdir
        if self.is_remote:
            cache = Path(os.environ.get("TINYGPTV_CACHE", Path.home() / ".cache" / "tinygptv"))
            self.local_root = (cache / fingerprint(self.workdir)).absolute()
            protocol = workdir.split("://", 1)[0]
            self._remote = fsspec.filesystem(protocol, **({"use_listings_cache": False} if protocol == "s3" else {}))
        else:
            self.local_root = Path(self.workdir).absolute()

    def __repr__(self) -> str:
        return f"Store({self.workdir!r})"

    def find(self, artifact: str) -> Manifest | None:
        """The manifest of a complete artifact, or None. Raises DataError if the manifest is damaged."""
        text = self._read_manifest(artifact)
        if text is None:
            return None
        try:
            return Manifest.model_validate_json(text)
        except ValidationError as error:
            raise DataError(
                f"{self.workdir}/{artifact}/{MANIFEST}: not a manifest ({error.error_count()} problems); "
                "remove this folder to have it made again"
            ) from error

    def folder(self, artifact: str) -> Path:
        """A local folder holding the complete artifact, fetched first if it lies on S3. Raises DataError if absent."""
        local = self.local_root / artifact
        if (local / MANIFEST).is_file():
            return local
        if not self.is_remote or self._read_manifest(artifact) is None:
            raise DataError(f"{self.workdir}/{artifact}: no such artifact; run the step that makes it first")
        with storage_errors(local):
            draft = self._draft_folder(artifact)
            shutil.rmtree(draft, ignore_errors=True)
            self._remote.get(f"{self.workdir}/{artifact}", str(draft), recursive=True)
            local.parent.mkdir(parents=True, exist_ok=True)
            draft.rename(local)
        return local

    def names(self, prefix: str) -> list[str]:
        """Names of complete artifacts whose name starts with `prefix`, sorted."""
        parent = prefix.rsplit("/", 1)[0]
        if self.is_remote:
            found = self._remote.glob(f"{self.workdir}/{prefix}*/{MANIFEST}")
            return sorted(f"{parent}/{Path(path).parent.name}" for path in found)
        return sorted(
            f"{parent}/{path.parent.name}" for path in self.local_root.glob(f"{prefix}*/{MANIFEST}") if path.is_file()
        )

    def make(
        self,
        artifact: str,
        made_by: str,
        definition: dict[str, Any],
        parents: list[str],
        build: Callable[[Path], Outcome],
    ) -> Manifest:
        """The artifact's manifest: found if it is complete, else built in a draft folder and published.

        `build` gets the draft folder, which keeps what an interrupted earlier attempt left there. Raises StorageError
        if another process is building the same artifact.
        """
        if manifest := self.find(artifact):
            return manifest
        draft = self._draft_folder(artifact)
        with storage_errors(draft):
            _create(draft)
            with self._exclusive(artifact):
                if manifest := self.find(artifact):
                    return manifest
                started = time.monotonic()
                outcome = build(draft)
                manifest = Manifest(
                    artifact=artifact,
                    made_by=made_by,
                    definition=definition,
                    parents=parents,
                    **outcome.model_dump(),
                    files=_inventory(draft),
                    seconds=round(time.monotonic() - started, 3),
                    created=datetime.now(UTC).isoformat(timespec="seconds"),
                )
                self._publish(draft, manifest)
        return manifest

    def draft(self, artifact: str) -> Path:
        """Where an unfinished artifact is being built; may not exist."""
        return self._draft_folder(artifact)

    def _draft_folder(self, artifact: str) -> Path:
        return self.local_root / ".drafts" / artifact

    def _read_manifest(self, artifact: str) -> str | None:
        if self.is_remote:
            try:
                return self._remote.cat_file(f"{self.workdir}/{artifact}/{MANIFEST}").decode()
            except FileNotFoundError:
                return None
        path = self.local_root / artifact / MANIFEST
        return path.read_text() if path.is_file() else None

    def _publish(self, draft: Path, manifest: Manifest) -> None:
        partial = draft / f"{MANIFEST}.partial"
        with partial.open("w") as stream:
            stream.write(manifest.model_dump_json(indent=2))
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(draft / MANIFEST)
        if self.is_remote:
            place = f"{self.workdir}/{manifest.artifact}"
            names = list(manifest.files)
            # Given as lists, many small files travel side by side.
            self._remote.put([str(draft / name) for name in names], [f"{place}/{name}" for name in names])
            self._remote.put_file(str(draft / MANIFEST), f"{place}/{MANIFEST}")
        final = self.local_root / manifest.artifact
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            shutil.rmtree(final)
        draft.rename(final)

    @contextlib.contextmanager
    def _exclusive(self, artifact: str) -> Iterator[None]:
        """A lock that ends with its process, so that a killed run never blocks the next."""
        lock = self._draft_folder(artifact).with_suffix(".lock")
        with lock.open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(
                    f"{self.workdir}/{artifact}: another process is making it; wait for it, or choose another run name"
                ) from None
            yield


def _create(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        # The file system has a parent that takes no folders, as /proc does.
        raise StorageError(f"{folder}: this folder cannot be created; choose another workdir") from error


def _inventory(folder: Path) -> dict[str, FileEntry]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): FileEntry(bytes=f.stat().st_size, sha256=sha256_of(f)) for f in files}
