"""Damaged artifacts made whole again where what they held can still be found, and given up where it cannot.

A shard is a function of its sidecar rows and its images, and the sidecar is one of the shards, so either can be made
again from the other; a lost image may lie in another artifact of the same workdir, or still be on the web. Whatever is
restored has to have the hash that the manifest says. An artifact that cannot be restored loses its manifest, its claim
to be complete, and is made again by the step that made it.
"""

import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tinygptv.artifacts import MANIFEST, Manifest, Store
from tinygptv.data.forget import matches
from tinygptv.data.refetch import refetch
from tinygptv.data.shards import SIDECAR, Shard, ShardWriter, read_image, sample_members, shard_rows
from tinygptv.data.tar import Archive
from tinygptv.data.tombstones import tombstones
from tinygptv.data.verify import Damage, artifact_folders, examine, read_manifest, verify
from tinygptv.errors import DataError

_UNREADABLE = (OSError, ValueError, LookupError)
"""What a damaged Parquet or JSON file raises; Arrow's errors are among them."""

Rows = list[dict[str, Any]]
Refetch = Callable[[Store, Manifest, Rows], dict[str, bytes]]
"""Asks the web for the images of sidecar rows; those it found, by their hash."""


@dataclass(slots=True)
class Repaired:
    """What was done for one damaged artifact. `given_up` says why it has to be made again, if it has."""

    folder: Path
    files: list[str] = field(default_factory=list)
    samples: int = 0
    given_up: str | None = None

    def __str__(self) -> str:
        if self.given_up:
            return f"{self.folder}: given up, to be made again by the step that made it: {self.given_up}"
        return f"{self.folder}: restored {', '.join(self.files)} and with them {self.samples} samples"


def repair(root: Path, refetch: Refetch = refetch) -> list[Repaired]:
    """Repair every damaged artifact in a folder. Raises DataError if there is no artifact."""
    damages = sorted(verify(root).damages, key=lambda damage: damage.folder)
    return [_repair(folder, list(group), refetch) for folder, group in groupby(damages, lambda damage: damage.folder)]


def _repair(folder: Path, damages: list[Damage], refetch: Refetch) -> Repaired:
    done = Repaired(folder)
    try:
        manifest = read_manifest(folder)
        # The sidecar first: it says what the shards have to be.
        for file in sorted({damage.file for damage in damages}, key=lambda file: (file != SIDECAR, file)):
            done.samples += _restore(folder, file, manifest, refetch)
            done.files.append(file)
        for damage in verify(folder).damages:
            raise DataError(f"{damage.file} {damage.problem}")
    except DataError as error:
        done.given_up = str(error)
        (folder / MANIFEST).unlink(missing_ok=True)
    return done


def _restore(folder: Path, file: str, manifest: Manifest, refetch: Refetch) -> int:
    """Write one file of an artifact again; returns how many samples that restored. Raises DataError if it cannot be."""
    if file == SIDECAR:
        return _restore_sidecar(folder, manifest)
    rows = shard_rows(folder, file) if (folder / SIDECAR).is_file() else []
    if not rows:
        raise DataError(f"{file} is not a shard, and only shards can be made again from what is left")
    return _restore_shard(folder, file, rows, manifest, refetch)


def _restore_shard(folder: Path, file: str, rows: Rows, manifest: Manifest, refetch: Refetch) -> int:
    lost = [row for row, _, is_whole in examine(folder / file, rows) if not is_whole]
    wanted = [row for row, image, _ in examine(folder / file, rows) if image is None]
    found = _found_elsewhere(folder, manifest, wanted, refetch)
    if nowhere := [row["key"] for row in wanted if row["sha256"] not in found]:
        raise DataError(f"{len(nowhere)} of {len(rows)} pictures of {file} are nowhere else ({nowhere[0]} is one)")
    shard = Shard(folder / file)
    for row, image, _ in examine(folder / file, rows):
        shard.add(row["key"], sample_members(row, image or found[row["sha256"]]))
    shard.finish()
    return len(lost)


def _found_elsewhere(folder: Path, manifest: Manifest, wanted: Rows, refetch: Refetch) -> dict[str, bytes]:
    """Lost images by hash, from the rest of the workdir or else from the web; nothing for a folder without its workdir.

    Raises DataError if somebody has asked for one of them to be forgotten: made again, the artifact is without it.
    """
    workdir = _workdir(folder, manifest)
    if not wanted or workdir is None:
        return {}
    store = Store(str(workdir))
    forgotten = set(matches(store, manifest.artifact, tombstones(store)))
    if named := [row["key"] for row in wanted if row["key"] in forgotten]:
        raise DataError(f"{len(named)} of the damaged pictures are to be forgotten ({named[0]} is one)")
    found = _in_other_artifacts(workdir, folder, {row["sha256"] for row in wanted})
    if missing := [row for row in wanted if row["sha256"] not in found]:
        found |= refetch(store, manifest, missing)
    return found


def _workdir(folder: Path, manifest: Manifest) -> Path | None:
    """The folder that an artifact's name is relative to; None if the artifact was moved."""
    place, name = folder.resolve(), Path(manifest.artifact)
    return place.parents[len(name.parts) - 1] if place.parts[-len(name.parts) :] == name.parts else None


def _in_other_artifacts(workdir: Path, folder: Path, missing: set[str]) -> dict[str, bytes]:
    """Those of the missing images that lie intact in another artifact's shards, by hash."""
    found: dict[str, bytes] = {}
    for other in artifact_folders(workdir):
        for row in () if other.samefile(folder) else _rows_with(other, missing):
            # Damaged as well, or it only describes the pictures of a third.
            with contextlib.suppress(DataError):
                found[row["sha256"]] = read_image(other, row)
    return found


def _rows_with(folder: Path, hashes: set[str]) -> Rows:
    """The rows of an artifact's sidecar whose image has one of these hashes; none if there is no sidecar to read."""
    columns = ["key", "sha256", "shard", "offset", "length"]
    try:
        found = pq.read_table(folder / SIDECAR, columns=columns, filters=[("sha256", "in", hashes)])
    except _UNREADABLE:
        return []
    return list(found.to_pylist())


def _restore_sidecar(folder: Path, manifest: Manifest) -> int:
    """Write the shards once more, elsewhere, for the sidecar that comes with them."""
    shards = sorted(name for name in manifest.files if name.endswith(".tar"))
    if not shards:
        raise DataError(f"{SIDECAR} is damaged and there is no shard to make it from")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".repair-") as scratch:
        try:
            _write_again([folder / shard for shard in shards], Path(scratch))
        except _UNREADABLE as error:
            raise DataError(f"{SIDECAR} is damaged, and so are the shards it could be made from ({error})") from error
        (Path(scratch) / SIDECAR).rename(folder / SIDECAR)
    return 0


def _write_again(shards: list[Path], folder: Path) -> None:
    with Archive(shards[0]) as first:
        samples_per_shard = len(first)
    with ShardWriter(folder, samples_per_shard) as writer:
        for shard in shards:
            with Archive(shard) as archive:
                for _, files in archive:
                    writer.write(json.loads(files["json"]), files["jpg"])
