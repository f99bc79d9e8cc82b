"""Shards: WebDataset tars anyone can read, and the Parquet sidecar that says what lies where.

A sample is three adjacent members, `key.jpg`, `key.txt` (the caption) and `key.json` (the sidecar row). The same
samples give the same bytes, and because the sidecar holds each image's offset, reading one needs neither a tar reader
nor the rest of the shard. It also holds the hash of each member, so that of a damaged shard the damaged samples are
known. A shard has its name once it is whole and on disk; until then it is `.partial`.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from tinygptv.data.columns.arrow import RowGroups, parquet
from tinygptv.data.shards import tar
from tinygptv.definitions.filters import SCORE_COLUMNS, SIDECAR_COLUMNS
from tinygptv.errors import DataError

SIDECAR = "sidecar.parquet"
_ARROW = {
    "VARCHAR": pa.string(),
    "VARCHAR[]": pa.list_(pa.string()),
    "BIGINT": pa.int64(),
    "INTEGER": pa.int32(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
}
_PLACE = {
    "shard": pa.string(),
    "offset": pa.int64(),
    "length": pa.int64(),
    "text_sha256": pa.string(),
    "json_sha256": pa.string(),
}


def column_schema(columns: Mapping[str, str]) -> pa.Schema:
    """Columns with DuckDB types, as Arrow has them."""
    return pa.schema([(name, _ARROW[kind]) for name, kind in columns.items()])


SCHEMA = pa.unify_schemas([column_schema(SIDECAR_COLUMNS), pa.schema(list(_PLACE.items()))])
"""Sidecar rows: what a filter may ask about, then where the image's bytes are: file, offset, length (bytes), and the
content hashes of the other two members; the image's is `sha256`."""

_KEY = re.compile(r"[0-9A-Za-z_-]{1,80}")
_PARTIAL = ".partial"
_ROWS_PER_GROUP = 10_000


def content_hash(content: bytes) -> str:
    """What the sidecar's hashes are: of the image it is called `sha256`."""
    return hashlib.sha256(content).hexdigest()


def sample_members(row: Mapping[str, Any], image: bytes) -> dict[str, bytes]:
    """The files of one sample by extension: the image, the caption, and what its sidecar row says of it."""
    described = {name: value for name, value in row.items() if name not in _PLACE}
    return {
        "jpg": image,
        "txt": row["caption"].encode(),
        "json": json.dumps(described, ensure_ascii=False, sort_keys=True).encode(),
    }


def sample_bytes(row: Mapping[str, Any], image: bytes) -> bytes:
    """One sample as it lies in a shard: a function of its sidecar row and its image, and of nothing else."""
    return b"".join(tar.entries(row["key"], sample_members(row, image)))


class Shard:
    """One tar in the making; it appears under its name when it is finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys: set[str] = set()
        self._size = 0
        self._stream = _partial(path).open("wb", buffering=1 << 20)

    def add(self, key: str, members: Mapping[str, bytes]) -> int:
        """Append a sample's files; returns the offset of the first one's content. Raises DataError for a bad key."""
        if not _KEY.fullmatch(key) or key in self._keys:
            raise DataError(f"key {key!r}: need letters, digits, - or _ (a dot would split it), and no key twice")
        self._keys.add(key)
        offset = self._size + tar.BLOCK
        written = tar.entries(key, members)
        self._stream.writelines(written)
        self._size += sum(map(len, written))
        return offset

    def finish(self) -> None:
        """Close the archive and give it its name."""
        with self._stream:
            self._stream.write(tar.END)
        _publish(self.path)

    def abandon(self) -> None:
        """Leave it unfinished."""
        self._stream.close()


class ShardWriter:
    """Writes samples to `00000.tar`, `00001.tar`, … and their rows to `sidecar.parquet`, in the order given.

    `columns` are those of a sidecar, or more of them, with their DuckDB types.
    """

    def __init__(self, folder: Path, samples_per_shard: int, columns: Mapping[str, str] = SIDECAR_COLUMNS) -> None:
        self._folder, self._samples_per_shard, self._columns = folder, samples_per_shard, columns
        self._schema = pa.unify_schemas([column_schema(columns), pa.schema(list(_PLACE.items()))])
        self._sidecar = pq.ParquetWriter(_partial(folder / SIDECAR), self._schema, compression="zstd")
        self._rows = RowGroups(self._sidecar, self._schema)
        self._shard: Shard | None = None
        self.count = 0

    def write(self, row: Mapping[str, Any], image: bytes) -> None:
        """Append one sample; `row` has the sidecar's columns (absent: NULL), `image` is a JPEG."""
        if self._shard is None:
            self._shard = Shard(self._folder / f"{self.count // self._samples_per_shard:05d}.tar")
        described = {name: row.get(name) for name in self._columns}
        members = sample_members(described, image)
        where = {
            "shard": self._shard.path.name,
            "offset": self._shard.add(row["key"], members),
            "length": len(image),
            "text_sha256": content_hash(members["txt"]),
            "json_sha256": content_hash(members["json"]),
        }
        self._rows.add(described | where)
        self.count += 1
        if self.count % self._samples_per_shard == 0:
            self._finish_shard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._sidecar:
            if error is None:
                self._finish_shard()
                self._rows.finish()
            elif self._shard is not None:
                self._shard.abandon()
        if error is None:
            _publish(self._folder / SIDECAR)

    def _finish_shard(self) -> None:
        if self._shard is not None:
            self._shard.finish()
            self._shard = None


def carried_columns(sidecar: Path) -> dict[str, str]:
    """The columns that a source took along, with their DuckDB types: what a sidecar has beside those of every one."""
    kinds = {arrow: kind for kind, arrow in _ARROW.items()}
    usual = {*SCHEMA.names, *SCORE_COLUMNS}
    return {field.name: kinds[field.type] for field in pq.read_schema(sidecar) if field.name not in usual}


def sidecar_rows(folder: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of an artifact's sidecar, or some columns of them, in the order they were written."""
    with parquet(folder / SIDECAR) as sidecar:
        for batch in sidecar.iter_batches(_ROWS_PER_GROUP, columns=columns):
            yield from batch.to_pylist()


def shard_rows(folder: Path, shard: str) -> list[dict[str, Any]]:
    """The sidecar's rows of one shard."""
    return list(pq.read_table(folder / SIDECAR, filters=[("shard", "==", shard)]).to_pylist())


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


def _partial(path: Path) -> Path:
    return path.with_name(path.name + _PARTIAL)


def _publish(path: Path) -> None:
    """Give a file its name once its content is on disk."""
    partial = _partial(path)
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    partial.rename(path)
