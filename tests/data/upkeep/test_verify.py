"""Whatever is damaged in an artifact is found, named, and told apart from what is not."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tinygptv.cli.main import main
from tinygptv.data.shards.shards import SIDECAR, ShardWriter, content_hash, sidecar_rows
from tinygptv.data.upkeep.artifact_access import places
from tinygptv.data.upkeep.verify import Damage, verify
from tinygptv.errors import DataError
from tinygptv.store.artifacts import MANIFEST, Outcome, Store


@pytest.fixture
def artifact(store: Store, picture: Callable[..., bytes]) -> Path:
    """Five samples in three shards, two a shard, and a ledger."""

    def build(folder: Path) -> Outcome:
        with ShardWriter(folder, 2) as shards:
            for number in range(5):
                image = picture(40, 30, number)
                row = {"key": f"key{number}", "caption": f"picture {number}", "sha256": content_hash(image)}
                shards.write(row, image)
        (folder / "ledger.parquet").write_bytes(b"PAR1")
        return Outcome(rows_in=6, rows_out=5, drops={"http_404": 1})

    return store.folder(store.make("raw/made_up@1", "test", {}, [], build).artifact)


def damages(folder: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(damage.file, damage.problem, damage.keys) for damage in verify(str(folder)).damages]


def flip(path: Path, byte: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def edit_manifest(folder: Path, **values: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | values))


def test_what_is_whole_is_found_whole(artifact: Path, store: Store) -> None:
    for folder in (artifact, store.local_root):
        found = verify(str(folder))
        assert (found.artifacts, found.files, found.samples, found.damages) == (1, 5, 5, [])
        assert found.bytes == sum(path.stat().st_size for path in artifact.iterdir() if path.name != MANIFEST)


@pytest.mark.parametrize("seed", range(40))
def test_one_flipped_bit_anywhere_is_found_and_its_sample_named(artifact: Path, seed: int) -> None:
    chance = random.Random(seed)
    shard = chance.choice(sorted(artifact.glob("*.tar")))
    byte = chance.randrange(shard.stat().st_size)
    flip(shard, byte, chance.randrange(8))
    starts = {row["key"]: row["offset"] - 512 for row in sidecar_rows(artifact) if row["shard"] == shard.name}
    is_behind_all = byte >= shard.stat().st_size - 1024
    hit = () if is_behind_all else (max((key for key in starts if starts[key] <= byte), key=starts.__getitem__),)
    ((file, problem, keys),) = damages(artifact)
    assert (file, keys) == (shard.name, hit)
    assert problem == f"has changed since it was written; {len(hit)} of {len(starts)} samples are damaged"


def test_a_truncated_shard_says_how_many_samples_are_left(artifact: Path) -> None:
    shard = artifact / "00001.tar"
    size = shard.stat().st_size
    second = [row for row in sidecar_rows(artifact) if row["shard"] == shard.name][1]
    shard.write_bytes(shard.read_bytes()[: second["offset"] + 10])
    kept = second["offset"] + 10
    problem = f"is cut: {kept} of {size} bytes are left; 1 of 2 samples are damaged"
    assert damages(artifact) == [("00001.tar", problem, ("key3",))]


def test_a_missing_shard_and_a_missing_file_are_found(artifact: Path) -> None:
    (artifact / "00000.tar").unlink()
    (artifact / "ledger.parquet").unlink()
    assert damages(artifact) == [
        ("00000.tar", "is missing; 2 of 2 samples are damaged", ("key0", "key1")),
        ("ledger.parquet", "is missing", ()),
    ]


def test_a_wrong_count_is_found(artifact: Path) -> None:
    edit_manifest(artifact, rows_out=6)
    assert [problem for _, problem, _ in damages(artifact)] == [
        "has 5 rows, but the manifest says 6",
        "has a rows_in that is not rows_out and all drops together",
    ]


def test_a_damaged_sidecar_is_found(artifact: Path) -> None:
    flip(artifact / SIDECAR, 300)
    assert damages(artifact) == [(SIDECAR, "has changed since it was written", ())]


def test_shards_and_sidecar_that_disagree_are_found_though_no_bit_has_changed(artifact: Path) -> None:
    """As a writer with a mistake would leave them: every hash is right, a sample is missing, another is there twice."""
    table = pq.read_table(artifact / SIDECAR)
    pq.write_table(table.take([0, 1, 2, 4, 4]), artifact / SIDECAR)
    manifest = json.loads((artifact / MANIFEST).read_text())
    content = (artifact / SIDECAR).read_bytes()
    manifest["files"][SIDECAR] = {"bytes": len(content), "sha256": content_hash(content)}
    edit_manifest(artifact, files=manifest["files"])
    assert damages(artifact) == [
        ("00001.tar", "holds 2 samples, and not the 1 of the sidecar", ()),
        ("00002.tar", "holds 1 samples, and not the 2 of the sidecar", ()),
        (SIDECAR, "has 1 keys more than once", ("key4",)),
    ]


def test_a_sidecar_may_describe_the_shards_of_another_artifact(artifact: Path, store: Store) -> None:
    def build(folder: Path) -> Outcome:
        pq.write_table(pq.read_table(artifact / SIDECAR), folder / SIDECAR)
        return Outcome(rows_in=5, rows_out=5)

    described = store.folder(store.make("described/made_up@1", "test", {}, [], build).artifact)
    assert damages(described) == []
    (artifact / "00000.tar").unlink()
    assert [damage.place.name for damage in verify(str(store.local_root)).damages] == [str(artifact)]


def test_a_shard_that_the_manifest_does_not_know_is_found(artifact: Path) -> None:
    manifest = json.loads((artifact / MANIFEST).read_text())
    del manifest["files"]["00001.tar"]
    (artifact / "00001.tar").unlink()
    edit_manifest(artifact, files=manifest["files"])
    assert damages(artifact) == [("00001.tar", "this shard is not in the manifest", ())]


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff\xfe"])
def test_a_manifest_that_is_missing_or_damaged_is_found(artifact: Path, content: bytes | None) -> None:
    (artifact / MANIFEST).unlink()
    if content is not None:
        (artifact / MANIFEST).write_bytes(content)
    ((file, problem, _),) = damages(artifact)
    assert file == MANIFEST
    assert problem.startswith("is missing" if content is None else "is no manifest")


def test_drafts_and_the_files_of_others_are_left_alone(artifact: Path, store: Store) -> None:
    (artifact / "notes.json").write_text("{}")
    draft = store.local_root / ".drafts" / "raw" / "other"
    draft.mkdir(parents=True)
    (draft / SIDECAR).touch()
    assert verify(str(store.local_root)).damages == []


def test_a_folder_without_artifacts_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished artifact to verify"):
        verify(str(tmp_path))


def test_a_damage_is_told_in_one_line(artifact: Path) -> None:
    (place,) = places(str(artifact))
    damage = Damage(place, "00000.tar", "has changed", ("a", "b", "c", "d"))
    assert str(damage) == f"{artifact}/00000.tar: has changed (a, b, c, …)"


def test_the_command_ends_with_json_and_an_exit_code(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(artifact)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["damaged"] == []
    flip(artifact / "00002.tar", 700)
    assert main(["verify", str(artifact)]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert "1 of 1 samples are damaged (key4)" in lines[0]
    told = json.loads(last)
    assert (told["samples"], told["damaged"][0]["keys"]) == (5, ["key4"])
    assert main(["verify", str(artifact / "nothing")]) == 1
