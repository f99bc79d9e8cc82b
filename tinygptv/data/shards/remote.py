"""Images in shards on S3, brought to this machine one by one.

Training draws at random over all shards, so a step of 512 samples touches hundreds of them: to bring whole shards would
move a thousand images for every one that is used, or take a disk that holds them all. But an artifact's sidecar says
where in its shard each image lies, so one request for a range brings one image and nothing else. Only the manifest and
the sidecar come whole, once per machine.

- *Bounded.* What was brought is kept by its content hash, in at most $TINYGPTV_CACHE_GIB of disk (20 unless said; 0
  keeps nothing) below $TINYGPTV_CACHE, which all processes of a machine share: see `content_cache`. An epoch shows
  nothing twice, so a bound below the size of the images saves little more than what stages and ranks have in common:
  then each image costs a request per epoch, and it is the number of requests in flight that keeps up with training.
- *Ahead.* The images of a step are asked for side by side (`ImagesAhead`), while the first of them are decoded. Steps
  ahead are made by the profile's `loader_workers`, at most `loading.AHEAD` each: whoever trains slowly holds back what
  is fetched, and at no time is more on its way than one step's share for each worker.
- *Whole.* A connection that is lost is tried again, with patience. What arrives is compared with the sidecar's hash of
  the image, and the sidecar with the manifest's, before anything of it is used or kept.
"""

import functools
import itertools
import math
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from tinygptv.data.shards.content_cache import ContentCache
from tinygptv.data.shards.shards import SIDECAR, content_hash
from tinygptv.errors import DataError, DefinitionError
from tinygptv.sample import ImageReference
from tinygptv.store.artifacts import MANIFEST, Manifest, cache_folder, sha256_of, storage_errors

CACHE_GIB = "TINYGPTV_CACHE_GIB"
SIDE_BY_SIDE = 16
"""Requests that a process has on their way."""

_DEFAULT_GIB = 20.0


def is_remote(image: ImageReference) -> bool:
    """Whether an image lies on S3."""
    return image.path.startswith("s3://")


def read_remote(image: ImageReference, key: str) -> bytes:
    """An image as it is stored on S3, from there or from the cache.

    Raises DataError, naming object and key, if it is not what was written; StorageError if S3 stays away.
    """
    artifact, _, shard = image.path.rpartition("/")
    return open_shards(artifact).read(shard, image, key)


@functools.cache
def open_shards(artifact: str) -> "RemoteShards":
    """The shards of the artifact at this address, opened once per process."""
    return RemoteShards(artifact, ContentCache(cache_folder() / "images", cache_bytes()))


def cache_bytes() -> int:
    """How much of the images on S3 this machine keeps. Raises DefinitionError for what is no amount."""
    told = os.environ.get(CACHE_GIB, _DEFAULT_GIB)
    try:
        gib = float(told)
    except ValueError:
        gib = -1.0
    if not 0 <= gib < math.inf:
        raise DefinitionError(f"{CACHE_GIB}={told}: want GiB of disk for images from S3, as 50; 0 keeps none")
    return int(gib * 2**30)


class RemoteShards:
    """One artifact's shards on S3: where each image lies, and what it must be."""

    def __init__(self, address: str, cache: ContentCache) -> None:
        """Fetches the sidecar, unless this machine has it. Raises DataError if the artifact is not whole."""
        from tinygptv.store.s3 import S3Storage  # slow to import, and most images lie here

        self._address, self._cache, self._storage = address, cache, S3Storage(address)
        index = self._index()
        self._offsets, self._digests = index["offset"].to_numpy(), index["sha256"]
        shards = index["shard"].chunk(0) if index.num_rows else pa.array([], pa.string()).dictionary_encode()
        names, codes = shards.dictionary.to_pylist(), shards.indices.to_numpy()
        ends = np.searchsorted(codes, np.arange(len(names)), side="right").tolist()
        self._rows = {name: range(*rows) for name, rows in zip(names, itertools.pairwise([0, *ends]), strict=True)}

    def read(self, shard: str, image: ImageReference, key: str) -> bytes:
        """The bytes of an image in a shard; `key` names the sample that shows it, for errors."""
        digest = self._digest(shard, image, key)
        content = self._cache.get(digest)
        if content is None:
            content = self._storage.read_range(shard, image.offset, image.length)
            if content is None:
                raise DataError(f"{image.path}, {key}: this shard is missing; `tinygptv repair` may restore it")
            if content_hash(content) != digest:
                cut = f"only {len(content)} of" if len(content) < image.length else "other than the"
                raise DataError(
                    f"{image.path}, {key}: {cut} {image.length} bytes that were written at byte {image.offset}; the "
                    "object was cut, damaged or replaced: `tinygptv repair` may restore it"
                )
            self._cache.put(digest, content)
        return content

    def _digest(self, shard: str, image: ImageReference, key: str) -> str:
        rows = self._rows.get(shard, range(0))
        row = rows.start + int(np.searchsorted(self._offsets[rows.start : rows.stop], image.offset))
        if row not in rows or self._offsets[row] != image.offset:
            raise DataError(f"{image.path}, {key}: {SIDECAR} knows no image at byte {image.offset}; mix again")
        return str(self._digests[row])

    def _index(self) -> pa.Table:
        """shard, offset and sha256 of every image, in this order; mapped, so that processes have it in common."""
        text = self._storage.read(MANIFEST)
        try:
            entry = Manifest.model_validate_json(text or b"").files[SIDECAR]
        except (ValidationError, KeyError):
            raise DataError(f"{self._address}: no complete artifact with a {SIDECAR}; make it again") from None
        path = cache_folder() / "indices" / f"{entry.sha256}.arrow"
        if not path.exists():
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._fetch_index(path, entry.sha256)
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def _fetch_index(self, path: Path, digest: str) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetching-") as folder:
            sidecar, index = Path(folder) / SIDECAR, Path(folder) / path.name
            if not self._storage.get(SIDECAR, sidecar) or sha256_of(sidecar) != digest:
                raise DataError(
                    f"{self._address}/{SIDECAR}: missing or not what was written; `tinygptv repair` may restore it"
                )
            table = pq.read_table(sidecar, columns=["shard", "offset", "sha256"])
            table = table.sort_by([("shard", "ascending"), ("offset", "ascending")]).combine_chunks()
            table = table.set_column(0, "shard", table["shard"].dictionary_encode())
            with pa.ipc.new_file(index, table.schema) as writer:
                writer.write_table(table)
            index.rename(path)


class ImagesAhead:
    """Images on S3 that are fetched side by side while others are decoded."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(SIDE_BY_SIDE, "images")
        self._expected: dict[ImageReference, Future[bytes]] = {}

    def expect(self, images: Iterable[tuple[ImageReference, str]]) -> None:
        """Begin to fetch images, each with its sample's key; those expected before are let go."""
        for future in self._expected.values():
            future.cancel()
        self._expected = {
            image: self._pool.submit(read_remote, image, key) for image, key in dict(images).items() if is_remote(image)
        }

    def read(self, image: ImageReference, key: str) -> bytes:
        """An image, waited for if it is on its way. Raises as `read_remote`."""
        expected = self._expected.get(image)
        return read_remote(image, key) if expected is None else expected.result()
