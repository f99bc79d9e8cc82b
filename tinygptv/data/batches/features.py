"""What a model's frozen parts make of a mixture's images, computed once: where it lies, written and read back.

    index.parquet        every image once (root, path, offset, length), in the order of the features; `piece` and `row`
    00000.safetensors    a piece: `features` (rows, T, D) of the images of a shard, or of a thousand image files

A piece belongs to a shard as a column does to a table: it has the same images in the same order. Pieces are complete or
absent, so any number of processes can write them, and reading one image touches a row of one file. An image that only
forgotten samples show has no features; those of one that could not be read are no numbers.
"""

import functools
import json
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tinygptv.data.mixtures.mixing import SAMPLES, root_place
from tinygptv.errors import DataError
from tinygptv.sample import ImageReference
from tinygptv.store.artifacts import Store

INDEX = "index.parquet"
FILES_PER_PIECE = 1000
"""Image files that are in no shard share a piece with so many of their folder, at most."""

_PLACE = ["root", "path", "offset", "length"]
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""By the names that safetensors has for them."""


def piece_name(piece: int) -> str:
    """The file of a piece."""
    return f"{piece:05d}.safetensors"


def index_images(store: Store, mixture: str, masked: NDArray[np.bool_] | None) -> pa.Table:
    """The index of a mixture's images, but for those that only `masked` rows of its table show."""
    table = pq.read_table(store.file(mixture, SAMPLES), columns=["images"])
    if masked is not None:
        table = table.filter(pa.array(~masked))
    shown = pa.Table.from_struct_array(table["images"].combine_chunks().flatten())
    images = shown.group_by(_PLACE).aggregate([]).sort_by([(name, "ascending") for name in _PLACE]).combine_chunks()
    return _with_pieces(images)


def _with_pieces(images: pa.Table) -> pa.Table:
    count = images.num_rows
    in_shard = images["length"].to_numpy() > 0
    new_root = _changes(images["root"])
    begins = np.where(in_shard, new_root | _changes(images["path"]), new_root | np.diff(in_shard, prepend=True))
    begins |= ~in_shard & (_place_within(begins) % FILES_PER_PIECE == 0)
    piece, row = np.cumsum(begins) - 1, _place_within(begins)
    assert len(piece) == count
    return images.append_column("piece", pa.array(piece, pa.int32())).append_column("row", pa.array(row, pa.int32()))


def _changes(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Where a value differs from the one before; the first does."""
    if not len(column):
        return np.empty(0, dtype=np.bool_)
    return np.concatenate([[True], pc.not_equal(column[1:], column[:-1]).to_numpy()])


def _place_within(begins: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How far each row is from the last one that begins something."""
    place = np.arange(len(begins))
    return place - np.maximum.accumulate(np.where(begins, place, 0)) if len(begins) else place


def count_pieces(index: pa.Table) -> int:
    """How many pieces an index is cut into."""
    return index["piece"][-1].as_py() + 1 if index.num_rows else 0


def images_of(index: pa.Table, piece: int) -> pa.Table:
    """The rows of an index that make up a piece."""
    start, stop = np.searchsorted(index["piece"].to_numpy(), [piece, piece + 1])
    return index.take(np.arange(start, stop))


def references(store: Store, images: pa.Table) -> list[ImageReference]:
    """The images of some rows of an index, where they lie now."""
    places = {root: root_place(store, root) for root in pc.unique(images["root"]).to_pylist()}
    return [
        ImageReference(f"{places[row['root']]}/{row['path']}", row["offset"], row["length"])
        for row in images.select(_PLACE).to_pylist()
    ]


def write_index(path: Path, index: pa.Table) -> None:
    """Write what `index_images` gave."""
    pq.write_table(index, path, compression="zstd")


def details(shape: Sequence[int], dtype: torch.dtype) -> dict[str, Any]:
    """What the manifest says of features of this shape, (T, D)."""
    return {"shape": list(shape), "dtype": next(name for name, known in _DTYPES.items() if known == dtype)}


def write_piece(path: Path, rows: int, shape: tuple[int, int], dtype: torch.dtype, parts: Iterable[Tensor]) -> None:
    """Write `rows` features of (T, D), given some at a time, as safetensors; the file has its name once it is whole."""
    layout = details((rows, *shape), dtype) | {"data_offsets": [0, rows * shape[0] * shape[1] * dtype.itemsize]}
    header = json.dumps({"features": layout})
    text = header.encode() + b" " * (-len(header) % 8)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for part in parts:
            stream.write(part.contiguous().view(torch.uint8).numpy().data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(path)


def count_unreadable(piece: Path) -> int:
    """How many images of a piece could not be read."""
    with safe_open(piece, "pt") as tensors:
        return int(tensors.get_slice("features")[:, 0, 0].isnan().sum())


class Features:
    """Finished features, found by where an image lies; pieces are fetched and opened when they are first needed."""

    def __init__(self, store: Store, artifact: str) -> None:
        """Raises DataError if the artifact is not complete."""
        made = store.find(artifact)
        if made is None:
            raise DataError(f"{store.workdir}/{artifact}: no such features; run `encode` first")
        self._store, self._artifact = store, artifact
        self._shape, self._dtype = made.details["shape"], _DTYPES[made.details["dtype"]]
        index = pq.read_table(store.file(artifact, INDEX)).combine_chunks()
        self._offsets, self._pieces, self._rows = (index[name].to_numpy() for name in ("offset", "piece", "row"))
        starts = np.flatnonzero(_changes(index["root"]) | _changes(index["path"]))
        files = (image.path for image in references(store, index.take(starts)))
        self._files = dict(zip(files, zip(starts, [*starts[1:], index.num_rows], strict=True), strict=True))
        self._open = functools.cache(self._opened)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, image: ImageReference) -> bool:
        return self._place(image) is not None

    def read(self, image: ImageReference, key: str) -> Tensor:
        """(T, D) in the type in which they are stored. Raises DataError, naming file and key, if there are none."""
        place = self._place(image)
        if place is None:
            raise DataError(
                f"{self._artifact}: holds no features of {image.path} at byte {image.offset}, {key}; it was forgotten, "
                "or the mixture is another one"
            )
        features = self._open(int(self._pieces[place]))(int(self._rows[place]))
        if features[0, 0].isnan():
            raise DataError(f"{image.path}, {key}: could not be read when its features were computed")
        return features

    def stack(self, features: Sequence[Tensor]) -> Tensor:
        """I times (T, D) -> (I, T, D), also of none."""
        return torch.stack(list(features)) if features else torch.empty(0, *self._shape, dtype=self._dtype)

    def _place(self, image: ImageReference) -> int | None:
        """The image's row in the index."""
        if image.path not in self._files:
            return None
        start, stop = self._files[image.path]
        place = int(start + np.searchsorted(self._offsets[start:stop], image.offset))
        return place if place < stop and self._offsets[place] == image.offset else None

    def _opened(self, piece: int) -> Callable[[int], Tensor]:
        """A piece, mapped: row -> (T, D). Raises DataError if the file is damaged."""
        path = self._store.file(self._artifact, piece_name(piece))
        try:
            features = safe_open(path, "pt").get_slice("features")
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: damaged ({error}); remove {path.parent} to have it made again") from error
        return lambda row: features[row]
