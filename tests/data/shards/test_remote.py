"""Training reads images that lie on S3 as it reads those here, through a cache that keeps its bound; faults are met."""

import functools
import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import s3fs
import torch
from transformers import PreTrainedTokenizerFast

from tests.faulty_s3 import Faults
from tinygptv.data.batches.batching import Batch, Loader, UnusableSampleError, load_tokenizer
from tinygptv.data.batches.loading import PrefetchedBatches
from tinygptv.data.mixtures.mixing import MixedSamples, mix
from tinygptv.data.pictures.pixels import ImageReader, read_bytes
from tinygptv.data.shards import remote
from tinygptv.data.shards.remote import cache_bytes, read_remote
from tinygptv.data.shards.shards import SIDECAR, ShardWriter, content_hash, read_image, sidecar_rows
from tinygptv.definitions.recipe import Inputs
from tinygptv.errors import DataError, DefinitionError, StorageError
from tinygptv.sample import ImageReference, Sample, Turn
from tinygptv.store.artifacts import Manifest, Outcome, Store

COUNT, STEPS, KIB = 40, 6, 1 / 2**20
"""Pictures; steps of eight; and what TINYGPTV_CACHE_GIB calls a KiB."""


@dataclass
class Pairs:
    """The same pairs in a workdir here and in one on S3, of which this machine holds nothing."""

    here: Store
    there: Store
    manifest: Manifest
    mixture: str

    def loader(self, store: Store, tokenizer: PreTrainedTokenizerFast) -> Loader:
        return open_loader(store.workdir, self.mixture, tokenizer)

    def images(self) -> list[ImageReference]:
        rows = sidecar_rows(self.here.folder(self.manifest.artifact))
        address = f"{self.there.workdir}/{self.manifest.artifact}"
        return [ImageReference(f"{address}/{row['shard']}", row["offset"], row["length"]) for row in rows]

    def contents(self) -> list[bytes]:
        folder = self.here.folder(self.manifest.artifact)
        return [read_image(folder, row) for row in sidecar_rows(folder)]


def open_loader(workdir: str, mixture: str, tokenizer: PreTrainedTokenizerFast) -> Loader:
    settings = Inputs(image_size=16, max_text_tokens=32, template=None, end_symbol="###")
    return Loader(
        Store(workdir), mixture, settings, tokenizer, num_image_tokens=2, global_batch_size=8, seed=5, replacing=True
    )


@pytest.fixture
def pairs(
    tmp_path: Path, faulty_s3_workdir: str, monkeypatch: pytest.MonkeyPatch, picture: Callable[..., bytes]
) -> Iterator[Pairs]:
    def build(folder: Path) -> Outcome:
        with ShardWriter(folder, samples_per_shard=15) as writer:
            for number in range(COUNT):
                image = picture(60 + number, 50, number)
                row = {"key": f"{number:09d}", "caption": f"picture {number}", "sha256": content_hash(image)}
                writer.write(row, image)
        return Outcome(rows_in=COUNT, rows_out=COUNT)

    here, there = Store(str(tmp_path / "here")), Store(faulty_s3_workdir)
    for store in (here, there):
        manifest = store.make("filtered/made_up@1", "test", {}, [], build)
        mixture = mix(store, "tiny_pairs", manifest).artifact
    monkeypatch.setenv("TINYGPTV_CACHE", str(tmp_path / "elsewhere"))
    remote.open_shards.cache_clear()
    yield Pairs(here, Store(faulty_s3_workdir), manifest, mixture)
    remote.open_shards.cache_clear()


def assert_same(found: Batch, expected: Batch) -> None:
    for name in (field.name for field in fields(Batch)):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert torch.equal(ours, theirs) if isinstance(theirs, torch.Tensor) else ours == theirs, name


def held(folder: Path) -> int:
    """Bytes of images that a cache keeps."""
    return sum(file.stat().st_size for file in folder.glob("images/?/*"))


@pytest.mark.parametrize("gib", ["1", f"{50 * KIB}", "0"], ids=["all", "some", "nothing"])
def test_batches_from_s3_are_those_from_disk_to_the_bit_and_the_bound_holds(
    pairs: Pairs,
    byte_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gib: str,
) -> None:
    monkeypatch.setenv("TINYGPTV_CACHE_GIB", gib)
    here, there = (pairs.loader(store, byte_tokenizer) for store in (pairs.here, pairs.there))
    for step in range(STEPS):
        for rank in range(2):
            ours, theirs = there.micro_batches(step, rank, 2, 3), here.micro_batches(step, rank, 2, 3)
            for found, expected in zip(ours, theirs, strict=True):
                assert_same(found, expected)
            assert held(tmp_path / "elsewhere") <= float(gib) * 2**30
    assert not list((tmp_path / "elsewhere").rglob("*.tar"))


def test_workers_that_make_steps_ahead_fetch_the_same(
    pairs: Pairs, byte_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    byte_tokenizer.save_pretrained(tmp_path / "tokenizer")
    here = pairs.loader(pairs.here, byte_tokenizer)
    opened = functools.partial(open_with_saved, pairs.there.workdir, pairs.mixture, tmp_path / "tokenizer")
    ahead = PrefetchedBatches(here.sources, opened, 2, 60, pytest.fail)
    for step in range(STEPS):
        assert_same(ahead.micro_batches(step, 0, 1, 8)[0], here.batch(step))


def open_with_saved(workdir: str, mixture: str, tokenizer: Path) -> Loader:
    return open_loader(workdir, mixture, load_tokenizer(tokenizer))


def test_an_image_is_fetched_once_per_machine_and_a_shard_never(
    pairs: Pairs, byte_tokenizer: PreTrainedTokenizerFast, faults: Faults
) -> None:
    for _ in range(2):
        loader = pairs.loader(pairs.there, byte_tokenizer)
        for step in range(COUNT // 8):  # an epoch
            loader.batch(step)
        remote.open_shards.cache_clear()
    got = [request for request in faults.asked if request.startswith("GET ") and request.endswith(".tar")]
    assert len(got) == COUNT


def test_an_artifact_that_is_here_is_not_asked_for(
    pairs: Pairs, byte_tokenizer: PreTrainedTokenizerFast, faults: Faults
) -> None:
    store = Store(pairs.there.workdir)
    store.folder(pairs.manifest.artifact)
    asked = len(faults.asked)
    image = MixedSamples(store, pairs.mixture).samples([(0, 0)])[0].images[0]
    read_bytes(image, "key")
    assert Path(image.path).is_file()
    assert not [request for request in faults.asked[asked:] if request.endswith(".tar")]


def test_what_fails_for_a_moment_is_asked_for_again(pairs: Pairs, faults: Faults) -> None:
    artifact = pairs.manifest.artifact
    faults.failing = {
        f"GET {artifact}/manifest.json": ["500"],
        f"GET {artifact}/{SIDECAR}": ["cut", "500"],
        f"GET {artifact}/00000.tar": ["500", "cut", "answer lost"],
    }
    assert [read_remote(image, "key") for image in pairs.images()] == pairs.contents()
    assert not any(faults.failing.values())


def test_an_s3_that_stays_away_ends_the_training_and_is_no_fault_of_a_sample(
    pairs: Pairs, byte_tokenizer: PreTrainedTokenizerFast, faults: Faults
) -> None:
    loader = pairs.loader(pairs.there, byte_tokenizer)
    faults.failing = {"GET filtered/made_up@1/00001.tar": ["500"] * 1000}
    with pytest.raises(StorageError, match=r"reading 00001\.tar from byte \d+: failed 5 times") as raised:
        for step in range(STEPS):
            loader.batch(step)
    assert not isinstance(raised.value, UnusableSampleError)


def replace_shard(pairs: Pairs, change: Callable[[bytes], bytes]) -> s3fs.S3FileSystem:
    files = s3fs.S3FileSystem(use_listings_cache=False)
    address = f"{pairs.there.workdir}/{pairs.manifest.artifact}/00000.tar"
    files.pipe_file(address, change(files.cat_file(address)))
    return files


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda shard: shard[:800], r"only \d+ of \d+ bytes that were written at byte 512"),
        (lambda shard: shard[:512], r"only 0 of \d+ bytes that were written at byte 512"),
        (lambda shard: shard[:600] + bytes([shard[600] ^ 1]) + shard[601:], r"other than the \d+ bytes"),
    ],
    ids=["cut within", "cut before", "flipped"],
)
def test_an_object_that_is_not_what_was_written_is_named_and_nothing_of_it_is_kept(
    pairs: Pairs, tmp_path: Path, change: Callable[[bytes], bytes], told: str
) -> None:
    replace_shard(pairs, change)
    with pytest.raises(DataError, match=rf"^s3://.*/00000\.tar, key7: {told}.*`tinygptv repair`"):
        read_remote(pairs.images()[0], "key7")
    assert held(tmp_path / "elsewhere") == 0


def test_a_shard_that_is_gone_is_named_and_its_samples_are_replaced(
    pairs: Pairs, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    s3fs.S3FileSystem().rm_file(f"{pairs.there.workdir}/{pairs.manifest.artifact}/00000.tar")
    loader = pairs.loader(pairs.there, byte_tokenizer)
    replaced = [one for step in range(5) for one in loader.batch(step).replaced]
    assert {one.key for one in replaced} >= {f"{number:09d}" for number in range(15)}
    assert all("00000.tar" in one.reason and "this shard is missing" in one.reason for one in replaced)


def test_a_sidecar_that_was_changed_is_refused(pairs: Pairs, tmp_path: Path) -> None:
    address = f"{pairs.there.workdir}/{pairs.manifest.artifact}/{SIDECAR}"
    files = s3fs.S3FileSystem()
    files.pipe_file(address, files.cat_file(address) + b" ")
    with pytest.raises(DataError, match=rf"{SIDECAR}: missing or not what was written"):
        read_remote(pairs.images()[0], "key")
    assert not [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()]


def test_an_artifact_without_a_manifest_is_named(pairs: Pairs) -> None:
    s3fs.S3FileSystem().rm_file(f"{pairs.there.workdir}/{pairs.manifest.artifact}/manifest.json")
    with pytest.raises(DataError, match="filtered/made_up@1: no complete artifact"):
        read_remote(pairs.images()[0], "key")


def test_a_place_that_the_sidecar_does_not_know_is_named(pairs: Pairs) -> None:
    image = pairs.images()[0]
    for wrong in (ImageReference(image.path, 513, 10), ImageReference(image.path.replace("00000", "77777"), 512, 10)):
        with pytest.raises(DataError, match=r"key7: sidecar\.parquet has no image at byte"):
            read_remote(wrong, "key7")


def read_all(images: list[ImageReference], digests: list[str]) -> None:
    for image, digest in zip(images, digests, strict=True):
        assert hashlib.sha256(read_remote(image, "key")).hexdigest() == digest


def test_two_processes_share_the_cache_and_one_killed_while_it_fetches_harms_nobody(
    pairs: Pairs, faults: Faults, tmp_path: Path
) -> None:
    images, digests = pairs.images(), [hashlib.sha256(content).hexdigest() for content in pairs.contents()]
    faults.failing = {"GET filtered/made_up@1/00001.tar": ["held"]}
    context = multiprocessing.get_context("spawn")
    first, second = (context.Process(target=read_all, args=(images, digests)) for _ in range(2))
    first.start()
    assert faults.held.wait(60)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.join(10)
    faults.released.set()
    second.start()
    second.join(60)
    assert second.exitcode == 0
    got = [request for request in faults.asked if request.startswith("GET ") and request.endswith(".tar")]
    assert len(got) == COUNT + 1, "the second found what the first had brought"
    kept = list((tmp_path / "elsewhere").glob("images/?/*"))
    assert sorted(file.name for file in kept) == sorted(digests)
    assert all(hashlib.sha256(file.read_bytes()).hexdigest() == file.name for file in kept)


def test_images_that_are_expected_are_fetched_side_by_side(pairs: Pairs, faults: Faults) -> None:
    images = pairs.images()[:3]
    faults.failing = {"GET filtered/made_up@1/00000.tar": ["held", "held", "held"]}
    reader = ImageReader(16)
    reader.prefetch([Sample("key", tuple(images), (Turn("", ""),))])
    assert faults.held.wait(30)
    faults.released.set()
    assert all(reader.read(image, "key").shape == (3, 16, 16) for image in images)
    assert faults.failing["GET filtered/made_up@1/00000.tar"] == []


@pytest.mark.parametrize("told", ["much", "-1", "nan", "inf", ""])
def test_a_bound_that_is_no_amount_is_refused(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("TINYGPTV_CACHE_GIB", told)
    with pytest.raises(DefinitionError, match=f"TINYGPTV_CACHE_GIB={told}: want GiB of disk"):
        cache_bytes()


def test_the_bound_is_in_gib_and_twenty_unless_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINYGPTV_CACHE_GIB", raising=False)
    assert cache_bytes() == 20 * 2**30
    monkeypatch.setenv("TINYGPTV_CACHE_GIB", "0.5")
    assert cache_bytes() == 2**29
