"""Access to finished artifacts for verification and repair: local or S3 folders, read file by file.

Unlike `Store.folder`, this neither trusts the manifest of an artifact on S3 nor keeps a local copy.
"""

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path, PurePosixPath

from tinygptv.data.shards.shards import SIDECAR
from tinygptv.store.artifacts import MANIFEST, Manifest, Store

DRAFTS = ".drafts"


class ArtifactFolder(ABC):
    """One artifact's folder. `name` is its path or URL."""

    name: str

    @abstractmethod
    def local_file(self, file: str) -> AbstractContextManager[Path]:
        """A local copy of one file for the duration of the context; the path does not exist if the file is missing."""

    @abstractmethod
    def opened(self) -> AbstractContextManager[Path]:
        """All files in a local folder in which they may be changed."""

    @abstractmethod
    def write_back(self, folder: Path, files: Collection[str], manifest: Manifest) -> None:
        """Replace files of the artifact by those of the opened folder."""

    @abstractmethod
    def invalidate(self) -> None:
        """Remove the manifest, so that the artifact no longer counts as complete."""

    def store(self, manifest: Manifest) -> Store | None:
        """The workdir of the artifact; None if the artifact was moved out of one."""
        workdir = self.name.removesuffix(f"/{manifest.artifact}")
        return None if workdir == self.name else Store(workdir)


def artifact_folders(root: str) -> Iterator[ArtifactFolder]:
    """Artifact folders at or below a path or an `s3://` URL: those with a manifest, and those with a sidecar, which
    shows that they had one."""
    if "://" not in root:
        for folder, below, files in os.walk(Path(root).resolve()):
            below[:] = sorted(name for name in below if name != DRAFTS)
            if MANIFEST in files or SIDECAR in files:
                below.clear()
                yield _LocalFolder(Path(folder))
        return
    from tinygptv.store.s3 import S3Storage

    root = root.rstrip("/")
    found = map(PurePosixPath, S3Storage(root).names())
    claiming = {path.parent for path in found if path.name in (MANIFEST, SIDECAR)}
    for place in sorted(claiming):
        if claiming.isdisjoint(place.parents):
            yield _S3Folder(f"{root}/{place}".removesuffix("/."))


class _LocalFolder(ArtifactFolder):
    def __init__(self, folder: Path) -> None:
        self._folder, self.name = folder, str(folder)

    def local_file(self, file: str) -> AbstractContextManager[Path]:
        return nullcontext(self._folder / file)

    def opened(self) -> AbstractContextManager[Path]:
        return nullcontext(self._folder)

    def write_back(self, folder: Path, files: Collection[str], manifest: Manifest) -> None:
        """Nothing to do: the files were changed in place."""

    def invalidate(self) -> None:
        (self._folder / MANIFEST).unlink(missing_ok=True)


class _S3Folder(ArtifactFolder):
    def __init__(self, address: str) -> None:
        from tinygptv.store.s3 import S3Storage

        self.name = address
        parent, _, self._folder = address.rpartition("/")
        self._storage = S3Storage(parent)

    @contextmanager
    def local_file(self, file: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / PurePosixPath(file).name
            self._storage.get(f"{self._folder}/{file}", path)
            yield path

    @contextmanager
    def opened(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as scratch:
            for name in self._storage.names(f"{self._folder}/"):
                (Path(scratch) / name).parent.mkdir(parents=True, exist_ok=True)
                self._storage.get(name, Path(scratch) / name)
            yield Path(scratch) / self._folder

    def write_back(self, folder: Path, files: Collection[str], manifest: Manifest) -> None:
        self._storage.remove([f"{self._folder}/{MANIFEST}"])
        self._storage.upload(folder, {file: (folder / file).stat().st_size for file in files}, self._folder)
        self._storage.put(f"{self._folder}/{MANIFEST}", (folder / MANIFEST).read_bytes())
        if store := self.store(manifest):
            store.drop_copy(manifest.artifact)

    def invalidate(self) -> None:
        self._storage.remove([f"{self._folder}/{MANIFEST}"])
