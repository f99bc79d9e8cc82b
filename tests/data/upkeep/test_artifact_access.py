"""What lies on S3 is verified and repaired as what lies here is, and complete or absent at every moment."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs

from tinygptv.cli.main import main
from tinygptv.data.shards.shards import SIDECAR, ShardWriter, content_hash
from tinygptv.data.upkeep.artifact_access import places
from tinygptv.data.upkeep.repair import repair
from tinygptv.data.upkeep.verify import verify
from tinygptv.store.artifacts import MANIFEST, Outcome, Store
from tinygptv.store.s3 import S3Storage

RAW, FILTERED = "raw/made_up@1", "filtered/made_up@2"


@pytest.fixture
def objects(s3_workdir: str, picture: Callable[..., bytes]) -> s3fs.S3FileSystem:
    """Two artifacts on S3, three of whose five pictures are in both; nothing of them is left on this machine."""
    images = [picture(40, 30, number) for number in range(5)]

    def build(count: int) -> Callable[[Path], Outcome]:
        def write(folder: Path) -> Outcome:
            with ShardWriter(folder, 2) as shards:
                for number, image in enumerate(images[:count]):
                    row = {"key": f"key{number}", "url": f"http://a/{number}", "caption": "made up"}
                    shards.write(row | {"sha256": content_hash(image)}, image)
            (folder / "gallery").mkdir()
            (folder / "gallery" / "notes.txt").write_text("made up")
            return Outcome(rows_in=count, rows_out=count)

        return write

    store = Store(s3_workdir)
    for artifact, count in ((RAW, 5), (FILTERED, 3)):
        store.make(artifact, "test", {}, [], build(count))
    shutil.rmtree(store.local_root)
    return s3fs.S3FileSystem(use_listings_cache=False)


def damage(objects: s3fs.S3FileSystem, address: str, start: int = 600) -> bytes:
    """Flip a byte of an object; what it was before."""
    before: bytes = objects.cat_file(address)
    objects.pipe_file(address, before[:start] + bytes([before[start] ^ 1]) + before[start + 1 :])
    return before


def test_every_artifact_below_an_address_is_found_and_nothing_is_kept_of_it(
    objects: s3fs.S3FileSystem, s3_workdir: str
) -> None:
    objects.pipe_file(f"{s3_workdir}/published/x.json", b"{}")
    found = verify(s3_workdir)
    assert (found.artifacts, found.samples, found.damages) == (2, 8, [])
    assert verify(f"{s3_workdir}/raw/").artifacts == verify(f"{s3_workdir}/{RAW}").artifacts == 1
    assert not Store(s3_workdir).local_root.exists()


def test_what_is_flipped_cut_and_missing_on_s3_is_named_with_its_samples(
    objects: s3fs.S3FileSystem, s3_workdir: str
) -> None:
    damage(objects, f"{s3_workdir}/{RAW}/00000.tar")
    objects.pipe_file(f"{s3_workdir}/{RAW}/00001.tar", objects.cat_file(f"{s3_workdir}/{RAW}/00001.tar")[:700])
    objects.rm_file(f"{s3_workdir}/{RAW}/gallery/notes.txt")
    objects.rm_file(f"{s3_workdir}/{FILTERED}/{MANIFEST}")
    found = verify(s3_workdir)
    assert {one.path.removeprefix(f"{s3_workdir}/"): one.keys for one in found.damages} == {
        f"{RAW}/00000.tar": ("key0",),
        f"{RAW}/00001.tar": ("key2", "key3"),
        f"{RAW}/gallery/notes.txt": (),
        f"{FILTERED}/{MANIFEST}": (),
    }


def test_a_repair_on_s3_restores_every_byte_and_puts_the_manifest_last(
    objects: s3fs.S3FileSystem, s3_workdir: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = Store(s3_workdir).folder(RAW)
    before = {file: damage(objects, f"{s3_workdir}/{RAW}/{file}") for file in ("00000.tar", SIDECAR)}
    put: list[str] = []

    def upload(storage: S3Storage, folder: Path, sizes: dict[str, int], place: str) -> None:
        put.extend([place, *sizes])
        assert not objects.exists(f"{s3_workdir}/{RAW}/{MANIFEST}")
        original(storage, folder, sizes, place)

    original = S3Storage.upload
    monkeypatch.setattr(S3Storage, "upload", upload)
    assert main(["repair", s3_workdir]) == 0
    line, last = capsys.readouterr().out.splitlines()
    assert line == f"{s3_workdir}/{RAW}: restored {SIDECAR}, 00000.tar and with them 1 samples"
    assert json.loads(last)["damaged"] == 1
    assert put == ["made_up@1", SIDECAR, "00000.tar"]
    assert {file: objects.cat_file(f"{s3_workdir}/{RAW}/{file}") for file in before} == before
    assert main(["verify", s3_workdir]) == 0
    assert not stale.exists(), "a copy fetched meanwhile may be of the damaged files"


def test_a_lost_picture_is_taken_from_another_artifact_on_s3(objects: s3fs.S3FileSystem, s3_workdir: str) -> None:
    whole = objects.cat_file(f"{s3_workdir}/{RAW}/00000.tar")
    objects.rm_file(f"{s3_workdir}/{RAW}/00000.tar")
    assert [(done.samples, done.given_up) for done in repair(s3_workdir)] == [(2, None)]
    assert objects.cat_file(f"{s3_workdir}/{RAW}/00000.tar") == whole


def test_what_cannot_be_restored_on_s3_is_no_artifact_any_more(objects: s3fs.S3FileSystem, s3_workdir: str) -> None:
    objects.pipe_file(f"{s3_workdir}/{RAW}/00002.tar", b"cut")
    (done,) = repair(f"{s3_workdir}/{RAW}")
    assert done.given_up is not None and "nowhere else (key4 is one)" in done.given_up
    assert Store(s3_workdir).find(RAW) is None
    assert Store(s3_workdir).find(FILTERED) is not None


def test_neighbours_are_no_part_of_a_place(objects: s3fs.S3FileSystem, s3_workdir: str) -> None:
    objects.pipe_file(f"{s3_workdir}/{RAW}0/other.txt", b"of another folder whose name begins alike")
    (place,) = places(f"{s3_workdir}/{RAW}")
    with place.opened() as folder:
        names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {*(f"0000{n}.tar" for n in range(3)), SIDECAR, MANIFEST, "gallery/notes.txt"}
