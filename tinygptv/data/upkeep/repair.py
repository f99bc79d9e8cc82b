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

from tinygptv.data.download.refetch import refetch
from tinygptv.data.forget.forget import keys_named
from tinygptv.data.forget.tombstones import tombstones
from tinygptv.data.shards.shards import SIDECAR, Shard, ShardWriter, read_image, sample_members, shard_rows
from tinygptv.data.shards.tar import Archive
from tinygptv.data.upkeep.artifact_access import Place
from tinygptv.data.upkeep.verify import Damage, examine, read_manifest, verify
from tinygptv.definitions.filters import SCORE_COLUMNS, SIDECAR_COLUMNS
from tinygptv.errors import DataError
from tinygptv.store.artifacts import Manifest, Store

_UNREADABLE = (OSError, ValueError, LookupError)
"""What a damaged Parquet or JSON file raises; Arrow's errors are among them."""

Rows = list[dict[str, Any]]
Refetch = Callable[[Store, Manifest, Rows], dict[str, bytes]]
"""Asks the web for the images of sidecar rows; those it found, by their hash."""


@dataclass(slots=True)
class Repaired:
    """What was done for one damaged artifact. `given_up` says why it has to be made again, if it has."""

    name: str
    files: list[str] = field(default_factory=list)
    samples: int = 0
    given_up: str | None = None

    def __str__(self) -> str:
        if self.given_up:
            return f"{self.name}: given up, to be made again by the step that made it: {self.given_up}"
        return f"{self.name}: restored {', '.join(self.files)} and with them {self.samples} samples"


def repair(root: str, refetch: Refetch = refetch) -> list[Repaired]:
    """Repair every damaged artifact at a path or an `s3://` address. Raises DataError if there is no artifact."""
    damages = verify(root).damages
    return [_repair(place, list(group), refetch) for place, group in groupby(damages, lambda damage: damage.place)]


def _repair(place: Place, damages: list[Damage], refetch: Refetch) -> Repaired:
    done = Repaired(place.name)
    with place.opened() as folder:
        try:
            manifest = read_manifest(folder)
            neighbours = _Neighbours(place.store(manifest), manifest, refetch)
            # The sidecar first: it says what the shards have to be.
            for file in sorted({damage.file for damage in damages}, key=lambda file: (file != SIDECAR, file)):
                done.samples += _restore(folder, file, manifest, neighbours)
                done.files.append(file)
            for damage in verify(str(folder)).damages:
                raise DataError(f"{damage.file} {damage.problem}")
        except DataError as error:
            done.given_up = str(error)
            place.give_up()
        else:
            place.put_back(folder, done.files, manifest)
    return done


@dataclass(frozen=True, slots=True)
class _Neighbours:
    """Who may still have the images that an artifact lost. `store` is its workdir; None: nobody."""

    store: Store | None
    manifest: Manifest
    refetch: Refetch

    def images(self, wanted: Rows, sidecar: Path) -> dict[str, bytes]:
        """Images of rows of a sidecar by hash, from the rest of the workdir or else from the web.

        Raises DataError if somebody has asked for one of them to be forgotten: made again, the artifact is without it.
        """
        if not wanted or self.store is None:
            return {}
        forgotten = set(keys_named(sidecar, tombstones(self.store)))
        if named := [row["key"] for row in wanted if row["key"] in forgotten]:
            raise DataError(f"{len(named)} of the damaged pictures are to be forgotten ({named[0]} is one)")
        found = self._in_other_artifacts(self.store, {row["sha256"] for row in wanted})
        if missing := [row for row in wanted if row["sha256"] not in found]:
            found |= self.refetch(self.store, self.manifest, missing)
        return found

    def _in_other_artifacts(self, store: Store, missing: set[str]) -> dict[str, bytes]:
        """Those that lie intact in another artifact's shards."""
        found: dict[str, bytes] = {}
        for other in (*store.names("raw/"), *store.names("filtered/")):
            for row in () if other == self.manifest.artifact else _rows_with(store, other, missing):
                # Damaged as well.
                with contextlib.suppress(DataError):
                    found[row["sha256"]] = read_image(store.file(other, row["shard"]).parent, row)
        return found


def _restore(folder: Path, file: str, manifest: Manifest, neighbours: _Neighbours) -> int:
    """Write one file of an artifact again; returns how many samples that restored. Raises DataError if it cannot be."""
    if file == SIDECAR:
        return _restore_sidecar(folder, manifest)
    rows = shard_rows(folder, file) if (folder / SIDECAR).is_file() else []
    if not rows:
        raise DataError(f"{file} is not a shard, and only shards can be made again from what is left")
    return _restore_shard(folder / file, rows, neighbours)


def _restore_shard(path: Path, rows: Rows, neighbours: _Neighbours) -> int:
    lost = [row for row, _, is_whole in examine(path, rows) if not is_whole]
    wanted = [row for row, image, _ in examine(path, rows) if image is None]
    found = neighbours.images(wanted, path.with_name(SIDECAR))
    if nowhere := [row["key"] for row in wanted if row["sha256"] not in found]:
        raise DataError(f"{len(nowhere)} of {len(rows)} pictures of {path.name} are nowhere else ({nowhere[0]} is one)")
    shard = Shard(path)
    for row, image, _ in examine(path, rows):
        shard.add(row["key"], sample_members(row, image or found[row["sha256"]]))
    shard.finish()
    return len(lost)


def _rows_with(store: Store, artifact: str, hashes: set[str]) -> Rows:
    """The rows of an artifact's sidecar whose image has one of these hashes; none if there is no sidecar to read."""
    columns = ["key", "sha256", "shard", "offset", "length"]
    try:
        sidecar = store.file(artifact, SIDECAR)
        return list(pq.read_table(sidecar, columns=columns, filters=[("sha256", "in", hashes)]).to_pylist())
    except (DataError, *_UNREADABLE):
        return []


def _restore_sidecar(folder: Path, manifest: Manifest) -> int:
    """Write the shards once more, elsewhere, for the sidecar that comes with them."""
    shards = sorted(name for name in manifest.files if name.endswith(".tar"))
    if not shards:
        raise DataError(f"{SIDECAR} is damaged and there is no shard to make it from")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".repair-") as scratch:
        try:
            carried = manifest.details.get("carried", {})
            _write_again([folder / shard for shard in shards], Path(scratch), carried)
        except _UNREADABLE as error:
            raise DataError(f"{SIDECAR} is damaged, and so are the shards it could be made from ({error})") from error
        (Path(scratch) / SIDECAR).rename(folder / SIDECAR)
    return 0


def _write_again(shards: list[Path], folder: Path, carried: dict[str, str]) -> None:
    with Archive(shards[0]) as first:
        samples_per_shard = len(first)
        columns = next(iter(json.loads(files["json"]) for _, files in first), SIDECAR_COLUMNS)
    more = {name: kind for name, kind in SCORE_COLUMNS.items() if name in columns}
    with ShardWriter(folder, samples_per_shard, SIDECAR_COLUMNS | more | carried) as writer:
        for shard in shards:
            with Archive(shard) as archive:
                for _, files in archive:
                    writer.write(json.loads(files["json"]), files["jpg"])
