"""Where finished artifacts lie while somebody checks or mends them: folders here or on S3, looked at file by file.

Nothing of an artifact on S3 is believed to be as its manifest says, and no copy of it is kept: that is what
distinguishes this from `Store.folder`.
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


class Place(ABC):
    """One artifact's folder. `name` is its path or address."""

    name: str

    @abstractmethod
    def at_hand(self, file: str) -> AbstractContextManager[Path]:
        """One file as it is, on this machine, for as long as it is looked at; nothing is there if it is missing."""

    @abstractmethod
    def opened(self) -> AbstractContextManager[Path]:
        """All files as they are, in a folder on this machine in which they may be changed."""

    @abstractmethod
    def put_back(self, folder: Path, files: Collection[str], manifest: Manifest) -> None:
        """Let files of the opened folder take the place of those here."""

    @abstractmethod
    def give_up(self) -> None:
        """Take away the manifest, this artifact's claim to be complete."""

    def store(self, manifest: Manifest) -> Store | None:
        """The workdir that an artifact's name is relative to; None if the artifact was moved."""
        workdir = self.name.removesuffix(f"/{manifest.artifact}")
        return None if workdir == self.name else Store(workdir)


def places(root: str) -> Iterator[Place]:
    """Folders at or below a path or an `s3://` address that claim to be complete, and those whose sidecar says that
    they once did."""
    if "://" not in root:
        for folder, below, files in os.walk(Path(root).resolve()):
            below[:] = sorted(name for name in below if name != DRAFTS)
            if MANIFEST in files or SIDECAR in files:
                below.clear()
                yield _Here(Path(folder))
        return
    from tinygptv.store.s3 import S3Storage

    root = root.rstrip("/")
    found = map(PurePosixPath, S3Storage(root).names())
    claiming = {path.parent for path in found if path.name in (MANIFEST, SIDECAR)}
    for place in sorted(claiming):
        if claiming.isdisjoint(place.parents):
            yield _OnS3(f"{root}/{place}".removesuffix("/."))


class _Here(Place):
    def __init__(self, folder: Path) -> None:
        self._folder, self.name = folder, str(folder)

    def at_hand(self, file: str) -> AbstractContextManager[Path]:
        return nullcontext(self._folder / file)

    def opened(self) -> AbstractContextManager[Path]:
        return nullcontext(self._folder)

    def put_back(self, folder: Path, files: Collection[str], manifest: Manifest) -> None:
        """They were changed where they are."""

    def give_up(self) -> None:
        (self._folder / MANIFEST).unlink(missing_ok=True)


class _OnS3(Place):
    def __init__(self, address: str) -> None:
        from tinygptv.store.s3 import S3Storage

        self.name = address
        parent, _, self._folder = address.rpartition("/")
        self._storage = S3Storage(parent)

    @contextmanager
    def at_hand(self, file: str) -> Iterator[Path]:
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

    def put_back(self, folder: Path, files: Collection[str], manifest: Manifest) -> None:
        self._storage.remove([f"{self._folder}/{MANIFEST}"])
        self._storage.upload(folder, {file: (folder / file).stat().st_size for file in files}, self._folder)
        self._storage.put(f"{self._folder}/{MANIFEST}", (folder / MANIFEST).read_bytes())
        if store := self.store(manifest):
            store.drop_copy(manifest.artifact)

    def give_up(self) -> None:
        self._storage.remove([f"{self._folder}/{MANIFEST}"])
