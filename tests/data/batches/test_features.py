"""Features beside a mixture's images: how they are cut into pieces, found, and read back."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from tinygptv.data.batches import features as module
from tinygptv.data.batches.features import (
    INDEX,
    Features,
    count_pieces,
    details,
    images_of,
    index_images,
    piece_name,
    references,
    write_index,
    write_piece,
)
from tinygptv.data.mixtures.mixing import MixedSamples, mix
from tinygptv.errors import DataError
from tinygptv.sample import ImageReference
from tinygptv.store.artifacts import Manifest, Outcome, Store

SHAPE = (2, 3)


@pytest.fixture
def mixed(store: Store, pairs: Manifest) -> Manifest:
    """Thirty pairs in two shards."""
    return mix(store, "tiny_pairs", pairs)


def made(store: Store, index: pa.Table, dtype: torch.dtype) -> Features:
    """Features whose first number is the image's place in the index."""

    def build(folder: Path) -> Outcome:
        start = 0
        for piece in range(count_pieces(index)):
            rows = images_of(index, piece).num_rows
            values = torch.arange(start, start + rows, dtype=dtype)[:, None, None].expand(-1, *SHAPE)
            write_piece(folder / piece_name(piece), rows, SHAPE, dtype, values.split(7))
            start += rows
        write_index(folder / INDEX, index)
        return Outcome(details=details(SHAPE, dtype))

    return Features(store, store.make("features/made_up@0", "test", {}, [], build).artifact)


def test_a_shard_has_a_piece_with_its_images_in_its_order(store: Store, mixed: Manifest) -> None:
    index = index_images(store, mixed.artifact, None)
    assert [images_of(index, piece)["path"].unique().to_pylist() for piece in range(count_pieces(index))] == [
        ["00000.tar"],
        ["00001.tar"],
    ]
    assert [images_of(index, piece).num_rows for piece in range(2)] == [20, 10]
    first = images_of(index, 0)
    assert first["offset"].to_pylist() == sorted(first["offset"].to_pylist())
    assert first["row"].to_pylist() == list(range(20))


@pytest.mark.usefixtures("small_corpus")
def test_image_files_share_pieces_and_an_image_many_samples_show_is_there_once(
    store: Store, pairs: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILES_PER_PIECE", 25)
    mixture = mix(store, "tiny_multitask", pairs)
    index = index_images(store, mixture.artifact, None)
    sizes = [images_of(index, piece).num_rows for piece in range(count_pieces(index))]
    assert sum(sizes) == index.num_rows < mixture.rows_out
    assert max(sizes) == 25
    assert len(set(references(store, index))) == index.num_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_image_of_a_mixture_is_found_again(store: Store, mixed: Manifest, dtype: torch.dtype) -> None:
    index = index_images(store, mixed.artifact, None)
    features = made(store, index, dtype)
    assert len(features) == 30
    samples = MixedSamples(store, mixed.artifact).samples([(0, position) for position in range(30)])
    read = features.stack([features.read(sample.images[0], sample.key) for sample in samples])
    assert (read.shape, read.dtype) == ((30, *SHAPE), dtype)
    assert read[:, 0, 0].tolist() == list(range(30))
    assert features.stack([]).shape == (0, *SHAPE)


@pytest.mark.parametrize(
    "change", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:100])], ids=["gone", "cut"]
)
def test_a_piece_that_is_lost_or_cut_is_named(store: Store, mixed: Manifest, change: Callable[[Path], None]) -> None:
    index = index_images(store, mixed.artifact, None)
    features = made(store, index, torch.float32)
    change(store.folder("features/made_up@0") / "00001.safetensors")
    features.read(references(store, images_of(index, 0))[0], "there")
    with pytest.raises(DataError, match=r"00001\.safetensors: damaged"):
        features.read(references(store, images_of(index, 1))[0], "lost")


def test_an_image_without_features_is_named(store: Store, mixed: Manifest) -> None:
    features = made(store, index_images(store, mixed.artifact, None), torch.float32)
    with pytest.raises(DataError, match=r"holds no features of /nowhere.jpg at byte 0, key7"):
        features.read(ImageReference("/nowhere.jpg"), "key7")


def test_features_that_were_never_made_are_named(store: Store) -> None:
    with pytest.raises(DataError, match="features/none@0: no such features; run `encode` first"):
        Features(store, "features/none@0")
