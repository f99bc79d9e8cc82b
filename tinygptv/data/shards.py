"""Shards: WebDataset tars anyone can read, and the Parquet sidecar that says what lies where.

A sample is three adjacent members, `key.jpg`, `key.txt` (the caption) and `key.json` (the sidecar row). Headers are
plain USTAR with fixed times and owners, so the same samples give the same bytes; and because the sidecar holds each
image's offset, reading one needs neither a tar reader nor the rest of the shard.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from tinygptv.definitions.filters import SIDECAR_COLUMNS
from tinygptv.errors import DataError

SIDECAR = "sidecar.parquet"
_ARROW = {
    "VARCHAR": pa.string(),
    "BIGINT": pa.int64(),
    "INTEGER": pa.int32(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
}
SCHEMA = pa.schema(
    [(name, _ARROW[kind]) for name, kind in SIDECAR_COLUMNS.items()]
    + [("shard", pa.string()), ("offset", pa.int64()), ("length", pa.int64())]
)
"""Sidecar rows: what a filter may ask about, then where the image's bytes are: file, offset, length (bytes)."""

_KEY = re.compile(r"[0-9A-Za-z_-]{1,80}")
_ROWS_PER_GROUP = 10_000


def content_hash(image: bytes) -> str:
    """What the sidecar calls `sha256`: of the stored image's bytes."""
    return hashlib.sha256(image).hexdigest()


class ShardWriter:
    """Writes samples to `00000.tar`, `00001.tar`, … and their rows to `sidecar.parquet`, in the order given."""

    def __init__(self, folder: Path, samples_per_shard: int) -> None:
        self._folder, self._samples_per_shard = folder, samples_per_shard
        self._sidecar = pq.ParquetWriter(folder / SIDECAR, SCHEMA, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._shard: tarfile.TarFile | None = None
        self._last_key = ""
        self.count = 0

    def write(self, row: Mapping[str, Any], image: bytes) -> None:
        """Append one sample; `row` has columns of a filter's sidecar (absent: NULL), `image` is a JPEG."""
        key = row["key"]
        if not _KEY.fullmatch(key) or key == self._last_key:
            raise DataError(f"key {key!r}: need letters, digits, - or _ (a dot would split it), and no key twice")
        if self.count % self._samples_per_shard == 0:
            self._next_shard()
        assert self._shard is not None
        described = {name: row.get(name) for name in SIDECAR_COLUMNS}
        offset = self._add(f"{key}.jpg", image)
        self._add(f"{key}.txt", row["caption"].encode())
        self._add(f"{key}.json", json.dumps(described, ensure_ascii=False, sort_keys=True).encode())
        shard = Path(str(self._shard.name)).name
        self._rows.append(described | {"shard": shard, "offset": offset, "length": len(image)})
        self._last_key = key
        self.count += 1
        if len(self._rows) == _ROWS_PER_GROUP:
            self._write_rows()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._shard is not None:
            self._shard.close()
        self._write_rows()
        self._sidecar.close()

    def _next_shard(self) -> None:
        if self._shard is not None:
            self._shard.close()
        path = self._folder / f"{self.count // self._samples_per_shard:05d}.tar"
        self._shard = tarfile.TarFile(path, "w", format=tarfile.USTAR_FORMAT)

    def _add(self, name: str, content: bytes) -> int:
        """Append one member; returns the offset of its content."""
        assert self._shard is not None
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(content), 0o644
        offset = self._shard.offset + tarfile.BLOCKSIZE
        self._shard.addfile(header, io.BytesIO(content))
        return offset

    def _write_rows(self) -> None:
        self._sidecar.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
        self._rows = []


def sidecar_rows(folder: Path, batch_rows: int = 10_000) -> Iterator[dict[str, Any]]:
    """The rows of an artifact's sidecar, in the order they were written."""
    for batch in pq.ParquetFile(folder / SIDECAR).iter_batches(batch_rows):
        yield from batch.to_pylist()


def read_image(folder: Path, row: Mapping[str, Any]) -> bytes:
    """The bytes of one sidecar row's image. Raises DataError if the shard no longer holds what was written."""
    path = folder / row["shard"]
    try:
        with path.open("rb") as stream:
            stream.seek(row["offset"])
            image = stream.read(row["length"])
    except FileNotFoundError:
        raise DataError(f"{path}: this shard is missing; remove {folder} to have it made again") from None
    if len(image) != row["length"] or content_hash(image) != row["sha256"]:
        raise DataError(
            f"{path}: {row['key']}.jpg at byte {row['offset']} is not what was written (truncated or damaged); "
            f"remove {folder} to have it made again"
        )
    return image
