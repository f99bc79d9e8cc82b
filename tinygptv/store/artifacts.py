"""Artifacts: folders that are complete or absent, named after what made them, on disk or on S3.

Every arrow of the journey leaves one folder behind. It is built in a draft beside its final place, its
`manifest.json` is written last and says what, from what, how many, how many dropped and why; then the draft is renamed
(local) or uploaded with the manifest as its last object (S3). A manifest's presence therefore means *complete*:
resuming, caching and lineage all read that one file. The name ends in a hash of the resolved definition and of the
parents' names, so a changed threshold gives a new folder, never a mixed one.

Beside the artifacts lie a few documents, which change: see `storage.py`.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tinygptv.errors import DataError, DefinitionError, StorageError, TinyGPTVError
from tinygptv.store.storage import LocalStorage, Storage

if TYPE_CHECKING:
    from tinygptv.store.s3 import S3Storage

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
        errno.EFBIG: "a file may not grow any further; raise the limit (ulimit -f), then start the same command again",
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
    """All artifacts and documents below one `workdir`: a local path or `s3://bucket/prefix`.

    Work always happens on local disk. For S3 the finished folders are uploaded, and fetched again into a local cache
    ($TINYGPTV_CACHE, by default ~/.cache/tinygptv) when a later arrow reads them.
    """

    def __init__(self, workdir: str) -> None:
        self.workdir = workdir.rstrip("/")
        self.is_remote = "://" in workdir
        self._places: dict[str, str] = {}
        self._s3: S3Storage | None = None
        self._storage: Storage
        if self.is_remote:
            self.local_root = cache_folder() / fingerprint(self.workdir)
            self._storage = self._s3 = _s3_storage(self.workdir)
        else:
            self.local_root = Path(self.workdir).absolute()
            self._storage = LocalStorage(self.local_root)

    def __repr__(self) -> str:
        return f"Store({self.workdir!r})"

    def find(self, artifact: str) -> Manifest | None:
        """The manifest of a complete artifact, or None. Raises DataError if the manifest is damaged."""
        text = self._storage.read(f"{artifact}/{MANIFEST}")
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
        manifest = self.find(artifact) if self._s3 else None
        if self._s3 is None or manifest is None:
            raise DataError(f"{self.workdir}/{artifact}: no such artifact; run the step that makes it first")
        with storage_errors(local):
            local.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=local.parent, prefix=".fetching-") as fetching:
                whole = Path(fetching) / local.name
                self._s3.fetch(artifact, {name: entry.bytes for name, entry in manifest.files.items()}, whole)
                _write_manifest(whole, manifest)
                # Another process may have fetched it meanwhile; its copy is as good.
                if not (local / MANIFEST).is_file():
                    whole.rename(local)
        return local

    def file(self, artifact: str, name: str) -> Path:
        """One file of a complete artifact; on S3 only that one is fetched. Raises DataError if it is not there."""
        local, alone = self.local_root / artifact / name, self.local_root / ".files" / artifact / name
        if local.is_file() or self._s3 is None:
            return local if local.is_file() else self.folder(artifact) / name
        manifest = self.find(artifact)
        if manifest is None or name not in manifest.files:
            raise DataError(f"{self.workdir}/{artifact}/{name}: no such file; run the step that makes it first")
        with storage_errors(alone):
            self._s3.fetch(artifact, {name: manifest.files[name].bytes}, self.local_root / ".files" / artifact)
        return alone

    def place(self, artifact: str) -> str:
        """Where the files of a complete artifact lie: a folder on this machine, or else an address on S3.

        The same for as long as this store is used. Raises DataError if the artifact is absent.
        """
        if artifact not in self._places:
            here = (self.local_root / artifact / MANIFEST).is_file()
            if not here and self.find(artifact) is None:
                raise DataError(f"{self.workdir}/{artifact}: no such artifact; run the step that makes it first")
            self._places[artifact] = str(self.local_root / artifact) if here else f"{self.workdir}/{artifact}"
        return self._places[artifact]

    def names(self, pattern: str) -> list[str]:
        """Names of complete artifacts that begin as `pattern` says (it may have wildcards), sorted."""
        found = self._storage.glob(f"{pattern}*/{MANIFEST}")
        return [name.removesuffix(f"/{MANIFEST}") for name in found]

    def read(self, document: str) -> str | None:
        """The text of a document, or None if there is none yet."""
        content = self._storage.read(document)
        return None if content is None else content.decode()

    def documents(self, prefix: str, suffix: str) -> list[str]:
        """What stands between prefix and suffix in the names of the documents that have both, sorted."""
        found = self._storage.glob(f"{prefix}*{suffix}")
        return [name.removeprefix(prefix).removesuffix(suffix) for name in found]

    def update(self, document: str, change: Callable[[str | None], str]) -> None:
        """Replace a document by what `change` makes of its latest text; called again if somebody else was faster."""
        with storage_errors(f"{self.workdir}/{document}"):
            while True:
                content, tag = self._storage.read_tagged(document)
                before = None if content is None else content.decode()
                after = change(before)
                if after == before or self._storage.swap(document, after.encode(), tag):
                    return

    def exclusive(self, name: str, doing: str) -> AbstractContextManager[Callable[[], None]]:
        """Hold `name` alone while `doing` something; see `Storage.exclusive`."""
        return self._storage.exclusive(name, doing)

    def begun_elsewhere(self, prefix: str) -> dict[str, str]:
        """Unfinished artifacts whose names begin so, and the machine whose disk holds their draft; none but on S3."""
        held = self._s3.holders(prefix) if self._s3 else {}
        here = os.uname().nodename
        return {name: host for name, host in held.items() if host != here and self.find(name) is None}

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
        if another process, on this machine or another one, is building the same artifact.
        """
        if manifest := self.find(artifact):
            return manifest
        draft = self._draft_folder(artifact)
        with storage_errors(draft):
            _create(draft)
            with self.exclusive(artifact, "making it") as check:
                if manifest := self.find(artifact):
                    return manifest
                manifest = _built(draft, artifact)
                if manifest is None:
                    started = time.monotonic()
                    try:
                        outcome = build(draft)
                    except TinyGPTVError:
                        # What was refused before anything was written is no attempt to go on from.
                        with contextlib.suppress(OSError):
                            draft.rmdir()
                        raise
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
                    _write_manifest(draft, manifest)
                self._publish(draft, manifest, check)
        return manifest

    def discard(self, artifact: str) -> None:
        """Remove an artifact that nothing refers to any more: first its manifest, so that it is never half there."""
        manifest = self.find(artifact)
        if manifest is None:
            return
        if self._s3:
            self._s3.remove([f"{artifact}/{name}" for name in (MANIFEST, *manifest.files)])
        final = self.local_root / artifact
        if final.is_dir():
            (final / MANIFEST).unlink()
            shutil.rmtree(final)

    def drop_copy(self, artifact: str) -> None:
        """Let an artifact on S3 be fetched anew, because its files there have changed."""
        if self._s3:
            for copy in (self.local_root / artifact, self.local_root / ".files" / artifact):
                shutil.rmtree(copy, ignore_errors=True)

    def draft(self, artifact: str) -> Path:
        """Where an unfinished artifact is being built; may not exist."""
        return self._draft_folder(artifact)

    def _draft_folder(self, artifact: str) -> Path:
        return self.local_root / ".drafts" / artifact

    def _publish(self, draft: Path, manifest: Manifest, check: Callable[[], None]) -> None:
        if self._s3:
            sizes = {name: entry.bytes for name, entry in manifest.files.items()}
            check()
            self._s3.upload(draft, sizes, manifest.artifact)
            check()
            self._s3.put(f"{manifest.artifact}/{MANIFEST}", manifest.model_dump_json(indent=2).encode())
        final = self.local_root / manifest.artifact
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            shutil.rmtree(final)
        draft.rename(final)


def cache_folder() -> Path:
    """Where copies of what lies on S3 are kept on this machine."""
    return Path(os.environ.get("TINYGPTV_CACHE", Path.home() / ".cache" / "tinygptv")).absolute()


def _s3_storage(workdir: str) -> "S3Storage":
    if not workdir.startswith("s3://"):
        raise DefinitionError(f"workdir '{workdir}': want a path or s3://bucket/prefix")
    from tinygptv.store.s3 import S3Storage

    return S3Storage(workdir)


def _built(draft: Path, artifact: str) -> Manifest | None:
    """The manifest of a draft that was finished but never published, as when its upload failed; None if there is none,
    or if a file is not as it says."""
    try:
        manifest = Manifest.model_validate_json((draft / MANIFEST).read_text())
    except (FileNotFoundError, ValidationError):
        return None
    return manifest if (manifest.artifact, manifest.files) == (artifact, _inventory(draft)) else None


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    """Last of all files, and whole: its presence means that the others are."""
    partial = folder / f"{MANIFEST}.partial"
    with partial.open("w") as stream:
        stream.write(manifest.model_dump_json(indent=2))
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(folder / MANIFEST)


def _create(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        # The file system has a parent that takes no folders, as /proc does.
        raise StorageError(f"{folder}: this folder cannot be created; choose another workdir") from error


def _inventory(folder: Path) -> dict[str, FileEntry]:
    """Every file but the manifest, which is about them, each safely on disk."""
    os.sync()  # once for all: a call for each of ten thousand files takes minutes
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {str(file.relative_to(folder)): _entry(file) for file in files}


def _entry(path: Path) -> FileEntry:
    return FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))
