"""Shards can be read by anyone, are the same bytes every time, and say so when they are damaged."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset

from tinygptv.data.shards.shards import SCHEMA, SIDECAR, ShardWriter, content_hash, read_image, sidecar_rows
from tinygptv.data.shards.tar import Archive
from tinygptv.definitions.filters import SIDECAR_COLUMNS
from tinygptv.errors import DataError


def sample(number: int, image: bytes) -> dict[str, Any]:
    return dict.fromkeys(SIDECAR_COLUMNS) | {
        "key": f"{number:020x}",
        "url": f"http://a.example/{number}.jpg",
        "caption": f"picture {number}, naïve",
        "table_name": "t",
        "table_row": number,
        "width": 40,
        "height": 30,
        "sha256": content_hash(image),
        "bytes": len(image),
        "similarity": 0.3,
        "punsafe": None,
        "pwatermark": None,
        "licence": "CC0-1.0",
    }


@pytest.fixture
def images(picture: Callable[..., bytes]) -> list[bytes]:
    return [picture(40, 30, number) for number in range(5)]


def write(folder: Path, images: list[bytes]) -> Path:
    folder.mkdir()
    with ShardWriter(folder, samples_per_shard=2) as shards:
        for number, image in enumerate(images):
            shards.write(sample(number, image), image)
    return folder


def test_webdataset_reads_what_was_written(tmp_path: Path, images: list[bytes]) -> None:
    folder = write(tmp_path / "a", images)
    tars = sorted(folder.glob("*.tar"))
    assert [tar.name for tar in tars] == ["00000.tar", "00001.tar", "00002.tar"]
    read = list(webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False))
    assert [item["jpg"] for item in read] == images
    assert [item["txt"].decode() for item in read] == [f"picture {number}, naïve" for number in range(5)]
    assert json.loads(read[3]["json"]) == sample(3, images[3])


def test_the_sidecar_points_at_each_image(tmp_path: Path, images: list[bytes]) -> None:
    folder = write(tmp_path / "a", images)
    rows = list(sidecar_rows(folder))
    assert list(rows[0]) == SCHEMA.names
    assert [read_image(folder, row) for row in rows] == images


def test_the_same_samples_give_the_same_bytes(tmp_path: Path, images: list[bytes]) -> None:
    first, second = write(tmp_path / "a", images), write(tmp_path / "b", images)
    names = sorted(path.name for path in first.iterdir())
    assert names == ["00000.tar", "00001.tar", "00002.tar", "sidecar.parquet"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_headers_are_plain_ustar(tmp_path: Path, images: list[bytes]) -> None:
    with tarfile.open(write(tmp_path / "a", images) / "00000.tar") as tar:
        assert all(member.mtime == 0 and not member.pax_headers for member in tar)


def test_a_shard_has_its_name_as_soon_as_it_is_whole_and_not_before(tmp_path: Path, images: list[bytes]) -> None:
    with pytest.raises(DataError), ShardWriter(tmp_path, 2) as shards:
        for number, named in enumerate(([], ["00000.tar"], ["00000.tar"])):
            shards.write(sample(number, images[number]), images[number])
            assert [path.name for path in tmp_path.glob("*.tar")] == named
        shards.write(sample(2, images[2]), images[2])
    assert not (tmp_path / "00001.tar").exists()
    assert not (tmp_path / SIDECAR).exists()


def test_the_sidecar_knows_the_hash_of_every_member(tmp_path: Path, images: list[bytes]) -> None:
    folder = write(tmp_path / "a", images)
    for row in sidecar_rows(folder):
        with Archive(folder / row["shard"]) as archive:
            contents = {name: archive.read(member) for name, member in archive.samples[row["key"]].items()}
        names = {"jpg": "sha256", "txt": "text_sha256", "json": "json_sha256"}
        assert {name: content_hash(contents[name]) for name in names} == {name: row[names[name]] for name in names}


@pytest.mark.parametrize("key", ["a.b", "", "a/b", "é"])
def test_a_key_that_readers_would_split_is_refused(tmp_path: Path, images: list[bytes], key: str) -> None:
    with ShardWriter(tmp_path, 2) as shards, pytest.raises(DataError, match="need letters, digits"):
        shards.write(sample(0, images[0]) | {"key": key}, images[0])


@pytest.mark.parametrize("between", [0, 1])
def test_a_key_is_not_written_twice_into_a_shard(tmp_path: Path, images: list[bytes], between: int) -> None:
    with ShardWriter(tmp_path, 3) as shards:
        for number in range(between + 1):
            shards.write(sample(number, images[number]), images[number])
        with pytest.raises(DataError, match="no key twice"):
            shards.write(sample(0, images[1]), images[1])


def test_a_truncated_shard_is_not_read(tmp_path: Path, images: list[bytes]) -> None:
    folder = write(tmp_path / "a", images)
    row = list(sidecar_rows(folder))[1]
    path = folder / row["shard"]
    path.write_bytes(path.read_bytes()[: row["offset"] + 10])
    with pytest.raises(DataError, match=r"00000\.tar: .*truncated or damaged"):
        read_image(folder, row)


def test_one_flipped_bit_is_found(tmp_path: Path, images: list[bytes]) -> None:
    folder = write(tmp_path / "a", images)
    row = next(sidecar_rows(folder))
    content = bytearray((folder / row["shard"]).read_bytes())
    content[row["offset"] + 50] ^= 1
    (folder / row["shard"]).write_bytes(content)
    with pytest.raises(DataError, match="not what was written"):
        read_image(folder, row)


def test_a_missing_shard_is_named(tmp_path: Path, images: list[bytes]) -> None:
    folder = write(tmp_path / "a", images)
    row = list(sidecar_rows(folder))[4]
    (folder / "00002.tar").unlink()
    with pytest.raises(DataError, match=r"00002\.tar: this shard is missing"):
        read_image(folder, row)
