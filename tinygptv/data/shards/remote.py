"""Random access to images in shards on S3.

Training draws at random from all shards, so a step of 512 samples touches hundreds of them: fetching whole shards would
transfer a thousand images for each one used, or need a disk for all of them. But an artifact's sidecar locates each
image in its shard, so one range request fetches exactly one image. Only the manifest and the sidecar are fetched whole,
once per machine.

- *Bounded.* Fetched images are cached by content hash, in at most $TINYGPTV_CACHE_GIB of disk (default 20; 0 disables
  the cache) below $TINYGPTV_CACHE, shared by all processes of a machine: see `content_cache`. An epoch uses no image
  twice, so a cache smaller than all images saves little more than what stages and ranks share: each image then costs
  one request per epoch, and throughput depends on the number of requests in flight.
- *Prefetched.* The images of a step are requested concurrently (`ImagePrefetcher`) while the first of them are decoded.
  Coming steps are prepared by the profile's `loader_workers`, at most `loading.PREFETCH_STEPS` each, so slow training
  throttles fetching, and each worker has at most one step's share of requests in flight.
- *Verified.* Lost connections are retried with backoff. Images are checked against the sidecar's hash, and the sidecar
  against the manifest's, before they are used or cached.
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
MAX_CONCURRENT_REQUESTS = 16
"""Concurrent requests per process."""

_DEFAULT_GIB = 20.0


def is_remote(image: ImageReference) -> bool:
    """Whether an image is on S3."""
    return image.path.startswith("s3://")


def read_remote(image: ImageReference, key: str) -> bytes:
    """An image from S3 or from the cache.

    Raises DataError, naming object and key, if it is not what was written; StorageError if S3 is unavailable.
    """
    artifact, _, shard = image.path.rpartition("/")
    return open_shards(artifact).read(shard, image, key)


@functools.cache
def open_shards(artifact: str) -> "RemoteShards":
    """The shards of the artifact at this URL, opened once per process."""
    return RemoteShards(artifact, ContentCache(cache_folder() / "images", cache_bytes()))


def cache_bytes() -> int:
    """The size limit of the image cache in bytes. Raises DefinitionError for an invalid setting."""
    value = os.environ.get(CACHE_GIB, _DEFAULT_GIB)
    try:
        gib = float(value)
    except ValueError:
        gib = -1.0
    if not 0 <= gib < math.inf:
        raise DefinitionError(f"{CACHE_GIB}={value}: want GiB of disk for cached S3 images, e.g. 50; 0 keeps none")
    return int(gib * 2**30)


class RemoteShards:
    """One artifact's shards on S3: the location and hash of each image."""

    def __init__(self, address: str, cache: ContentCache) -> None:
        """Fetches the sidecar unless it is cached. Raises DataError if the artifact is incomplete."""
        from tinygptv.store.s3 import S3Storage  # slow to import, and most images are local

        self._address, self._cache, self._storage = address, cache, S3Storage(address)
        index = self._index()
        self._offsets, self._digests = index["offset"].to_numpy(), index["sha256"]
        shards = index["shard"].chunk(0) if index.num_rows else pa.array([], pa.string()).dictionary_encode()
        names, codes = shards.dictionary.to_pylist(), shards.indices.to_numpy()
        ends = np.searchsorted(codes, np.arange(len(names)), side="right").tolist()
        self._rows = {name: range(*rows) for name, rows in zip(names, itertools.pairwise([0, *ends]), strict=True)}

    def read(self, shard: str, image: ImageReference, key: str) -> bytes:
        """The bytes of an image in a shard; `key` is its sample's key, for errors."""
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
            raise DataError(f"{image.path}, {key}: {SIDECAR} has no image at byte {image.offset}; mix again")
        return str(self._digests[row])

    def _index(self) -> pa.Table:
        """shard, offset and sha256 of every image, sorted; memory-mapped, so processes share it."""
        text = self._storage.read(MANIFEST)
        try:
            entry = Manifest.model_validate_json(text or b"").files[SIDECAR]
        except (ValidationError, KeyError):
            raise DataError(f"{self._address}: no complete artifact with a {SIDECAR}; rebuild it") from None
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


class ImagePrefetcher:
    """Fetches images from S3 concurrently while others are decoded."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS, "images")
        self._requested: dict[ImageReference, Future[bytes]] = {}

    def prefetch(self, images: Iterable[tuple[ImageReference, str]]) -> None:
        """Start fetching images, given with their sample's key; earlier ones that have not started are cancelled."""
        for future in self._requested.values():
            future.cancel()
        self._requested = {
            image: self._pool.submit(read_remote, image, key) for image, key in dict(images).items() if is_remote(image)
        }

    def read(self, image: ImageReference, key: str) -> bytes:
        """An image, waiting for it if it is being fetched. Raises as `read_remote`."""
        expected = self._requested.get(image)
        return read_remote(image, key) if expected is None else expected.result()
