"""What is damaged is made whole where its bytes can be found again, to the bit; and given up, aloud, where not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tinygptv.cli.main import main
from tinygptv.data.forget.tombstones import bury, tombstone
from tinygptv.data.shards.shards import SIDECAR, ShardWriter, content_hash, sidecar_rows
from tinygptv.data.upkeep.repair import Rows, repair
from tinygptv.data.upkeep.verify import verify
from tinygptv.store.artifacts import MANIFEST, Manifest, Outcome, Store

NAMES = ["raw/made_up@1", "filtered/made_up@2"]


@pytest.fixture
def images(picture: Callable[..., bytes]) -> list[bytes]:
    return [picture(40, 30, number) for number in range(5)]


@pytest.fixture
def folders(store: Store, images: list[bytes]) -> tuple[Path, Path]:
    """Five raw samples, of which the first three are filtered ones too; two a shard."""

    def build(count: int) -> Callable[[Path], Outcome]:
        def write(folder: Path) -> Outcome:
            with ShardWriter(folder, 2) as shards:
                for number, image in enumerate(images[:count]):
                    row = {
                        "key": f"key{number}",
                        "url": f"http://a/{number}.jpg",
                        "caption": f"picture {number}, naïve",
                    }
                    shards.write(row | {"sha256": content_hash(image), "similarity": 0.25}, image)
            (folder / "notes.txt").write_text("made up")
            return Outcome(rows_in=count, rows_out=count)

        return write

    for name, count in zip(NAMES, (5, 3), strict=True):
        store.make(name, "test", {}, [], build(count))
    raw, filtered = (store.folder(name) for name in NAMES)
    return raw, filtered


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def overwrite(path: Path, start: int, length: int = 8) -> None:
    content = bytearray(path.read_bytes())
    content[start : start + length] = bytes(byte ^ 0xFF for byte in content[start : start + length])
    path.write_bytes(content)


def place_of(folder: Path, key: str) -> tuple[Path, int]:
    (row,) = (row for row in sidecar_rows(folder) if row["key"] == key)
    return folder / row["shard"], row["offset"]


def test_a_picture_is_taken_from_another_artifact(folders: tuple[Path, Path]) -> None:
    for damaged in folders:
        before = contents(damaged)
        overwrite(*place_of(damaged, "key1"))
        (done,) = repair(str(damaged))
        assert (done.files, done.samples, done.given_up) == (["00000.tar"], 1, None)
        assert contents(damaged) == before


@pytest.mark.parametrize("file", ["header", "caption", "json", "end"])
def test_all_but_the_picture_is_made_from_the_sidecar(folders: tuple[Path, Path], file: str) -> None:
    raw, _ = folders
    before = contents(raw)
    shard, offset = place_of(raw, "key4")
    content = shard.read_bytes()
    at = {
        "header": offset - 512 + 2,
        "caption": content.index(b"picture 4"),
        "json": content.index(b'"key": "key4"'),
        "end": len(content) - 5,
    }
    overwrite(shard, at[file], 4)
    (done,) = repair(str(raw))
    assert (done.samples, done.given_up) == (0 if file == "end" else 1, None)
    assert contents(raw) == before


def test_a_truncated_and_a_missing_shard_are_written_again(folders: tuple[Path, Path]) -> None:
    _, filtered = folders
    before = contents(filtered)
    (filtered / "00000.tar").write_bytes(before["00000.tar"][:100])
    (filtered / "00001.tar").unlink()
    (done,) = repair(str(filtered))
    assert (done.files, done.samples, done.given_up) == (["00000.tar", "00001.tar"], 3, None)
    assert contents(filtered) == before


@pytest.mark.parametrize("is_there", [True, False])
def test_the_sidecar_is_made_from_the_shards(folders: tuple[Path, Path], is_there: bool) -> None:
    raw, _ = folders
    before = contents(raw)
    (raw / SIDECAR).unlink()
    if is_there:
        (raw / SIDECAR).write_bytes(b"PAR1 was here")
    (done,) = repair(str(raw))
    assert (done.files, done.given_up) == ([SIDECAR], None)
    assert contents(raw) == before


def test_the_sidecar_and_a_picture_are_restored_together(folders: tuple[Path, Path]) -> None:
    raw, _ = folders
    before = contents(raw)
    overwrite(*place_of(raw, "key0"))
    (raw / SIDECAR).unlink()
    (done,) = repair(str(raw))
    assert (done.files, done.given_up) == ([SIDECAR, "00000.tar"], None)
    assert contents(raw) == before


def test_a_picture_is_fetched_again_only_if_it_is_nowhere_else(folders: tuple[Path, Path], images: list[bytes]) -> None:
    raw, _ = folders
    before = contents(raw)
    asked: list[str] = []

    def refetch(_: Store, manifest: Manifest, rows: Rows) -> dict[str, bytes]:
        asked.extend(f"{manifest.artifact} {row['url']}" for row in rows)
        return {content_hash(images[4]): images[4]}

    for key in ("key1", "key4"):
        overwrite(*place_of(raw, key))
    (done,) = repair(str(raw), refetch)
    assert (done.samples, done.given_up) == (2, None)
    assert asked == ["raw/made_up@1 http://a/4.jpg"]
    assert contents(raw) == before


def test_a_picture_that_is_to_be_forgotten_is_not_brought_back(folders: tuple[Path, Path], store: Store) -> None:
    raw, _ = folders
    overwrite(*place_of(raw, "key1"))
    bury(store, tombstone("url", "http://a/1.jpg", "asked for by the owner"))
    (done,) = repair(str(raw))
    assert done.given_up == "1 of the damaged pictures are to be forgotten (key1 is one)"
    assert store.find(NAMES[0]) is None


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("00001.tar", "1 of 2 pictures of 00001.tar are nowhere else (key3 is one)"),
        ("notes.txt", "notes.txt is not a shard"),
        (MANIFEST, "is no manifest"),
    ],
)
def test_what_cannot_be_restored_is_given_up(folders: tuple[Path, Path], store: Store, file: str, why: str) -> None:
    raw, _ = folders
    overwrite(*(place_of(raw, "key3") if file.endswith(".tar") else (raw / file, 1)))
    (done,) = repair(str(store.local_root))
    assert done.given_up is not None and why in done.given_up
    assert store.find(NAMES[0]) is None
    assert store.find(NAMES[1]) is not None
    assert [damage.place.name for damage in verify(str(store.local_root)).damages] == [str(raw)]


@pytest.mark.parametrize("damage", ["picture", "sidecar"])
def test_a_neighbour_that_is_damaged_as_well_is_no_help(folders: tuple[Path, Path], damage: str) -> None:
    raw, filtered = folders
    overwrite(*place_of(raw, "key1"))
    overwrite(*(place_of(filtered, "key1") if damage == "picture" else (filtered / SIDECAR, 0)))
    (done,) = repair(str(raw))
    assert done.given_up is not None and "nowhere else (key1 is one)" in done.given_up


def test_an_artifact_that_only_describes_pictures_has_none_to_give(folders: tuple[Path, Path], store: Store) -> None:
    raw, _ = folders

    def build(folder: Path) -> Outcome:
        shutil.copy(raw / SIDECAR, folder / SIDECAR)
        return Outcome(rows_in=5, rows_out=5)

    described = store.folder(store.make("described/made_up@1", "test", {}, [], build).artifact)
    overwrite(*place_of(raw, "key4"))
    (done,) = repair(str(store.local_root))
    assert done.given_up is not None and "nowhere else (key4 is one)" in done.given_up
    (described / SIDECAR).unlink()
    assert [done.given_up for done in repair(str(described))] == [
        "sidecar.parquet is damaged and there is no shard to make it from"
    ]


def test_what_disagrees_with_itself_is_given_up(folders: tuple[Path, Path]) -> None:
    raw, _ = folders
    manifest: dict[str, Any] = json.loads((raw / MANIFEST).read_text())
    (raw / MANIFEST).write_text(json.dumps(manifest | {"rows_out": 6, "rows_in": 6}))
    (done,) = repair(str(raw))
    assert done.given_up == "sidecar.parquet has 5 rows, but the manifest says 6"


def test_a_repaired_artifact_verifies_and_the_command_says_what_it_did(
    folders: tuple[Path, Path], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, filtered = folders
    overwrite(*place_of(filtered, "key2"))
    assert main(["repair", str(store.local_root)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines == [f"{filtered}: restored 00001.tar and with them 1 samples"]
    assert json.loads(last) == {"samples": 1, "damaged": 1, "given_up": []}
    assert main(["verify", str(store.local_root)]) == 0
    (raw / "notes.txt").unlink()
    assert main(["repair", str(store.local_root)]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["given_up"] == [str(raw)]
