"""Repair damaged artifacts where their content can still be found, and invalidate them where it cannot.

A shard is a function of its sidecar rows and images, and shards contain their sidecar rows, so each can be restored
from the other. A lost image may be in another artifact of the same workdir or still on the web. Restored files must
have the hash recorded in the manifest. An artifact that cannot be restored loses its manifest, so the step that made it
will make it again.
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
from tinygptv.data.upkeep.artifact_access import ArtifactFolder
from tinygptv.data.upkeep.verify import Damage, examine, read_manifest, verify
from tinygptv.definitions.filters import SCORE_COLUMNS, SIDECAR_COLUMNS
from tinygptv.errors import DataError
from tinygptv.store.artifacts import Manifest, Store

_UNREADABLE = (OSError, ValueError, LookupError)
"""Exceptions raised for a damaged Parquet or JSON file; they include Arrow's."""

Rows = list[dict[str, Any]]
Refetch = Callable[[Store, Manifest, Rows], dict[str, bytes]]
"""Fetches the images of sidecar rows from the web; returns those found, by hash."""


@dataclass(slots=True)
class Repaired:
    """What was done for one damaged artifact. `given_up` says why it could not be restored, if so."""

    name: str
    files: list[str] = field(default_factory=list)
    samples: int = 0
    given_up: str | None = None

    def __str__(self) -> str:
        if self.given_up:
            return f"{self.name}: cannot be restored, to be rebuilt by the step that made it: {self.given_up}"
        return f"{self.name}: restored {', '.join(self.files)} with {self.samples} samples"


def repair(root: str, refetch: Refetch = refetch) -> list[Repaired]:
    """Repair every damaged artifact at a path or an `s3://` URL. Raises DataError if there is no artifact."""
    damages = verify(root).damages
    return [_repair(place, list(group), refetch) for place, group in groupby(damages, lambda damage: damage.place)]


def _repair(place: ArtifactFolder, damages: list[Damage], refetch: Refetch) -> Repaired:
    done = Repaired(place.name)
    with place.opened() as folder:
        try:
            manifest = read_manifest(folder)
            sources = _ImageSources(place.store(manifest), manifest, refetch)
            # The sidecar first, because the shards are restored from it.
            for file in sorted({damage.file for damage in damages}, key=lambda file: (file != SIDECAR, file)):
                done.samples += _restore(folder, file, manifest, sources)
                done.files.append(file)
            for damage in verify(str(folder)).damages:
                raise DataError(f"{damage.file} {damage.problem}")
        except DataError as error:
            done.given_up = str(error)
            place.invalidate()
        else:
            place.write_back(folder, done.files, manifest)
    return done


@dataclass(frozen=True, slots=True)
class _ImageSources:
    """Where an artifact's lost images may be found. `store` is its workdir, or None."""

    store: Store | None
    manifest: Manifest
    refetch: Refetch

    def images(self, wanted: Rows, sidecar: Path) -> dict[str, bytes]:
        """Images of sidecar rows by hash, from other artifacts of the workdir or else from the web.

        Raises DataError if one of them is to be forgotten; a rebuilt artifact will not contain it.
        """
        if not wanted or self.store is None:
            return {}
        forgotten = set(keys_named(sidecar, tombstones(self.store)))
        if named := [row["key"] for row in wanted if row["key"] in forgotten]:
            raise DataError(f"{len(named)} of the damaged pictures are to be forgotten (one is {named[0]})")
        found = self._in_other_artifacts(self.store, {row["sha256"] for row in wanted})
        if missing := [row for row in wanted if row["sha256"] not in found]:
            found |= self.refetch(self.store, self.manifest, missing)
        return found

    def _in_other_artifacts(self, store: Store, missing: set[str]) -> dict[str, bytes]:
        """Images that are intact in another artifact's shards."""
        found: dict[str, bytes] = {}
        for other in (*store.names("raw/"), *store.names("filtered/")):
            for row in () if other == self.manifest.artifact else _rows_with(store, other, missing):
                with contextlib.suppress(DataError):  # damaged there as well
                    found[row["sha256"]] = read_image(store.file(other, row["shard"]).parent, row)
        return found


def _restore(folder: Path, file: str, manifest: Manifest, sources: _ImageSources) -> int:
    """Restore one file of an artifact; returns the number of samples restored. Raises DataError if impossible."""
    if file == SIDECAR:
        return _restore_sidecar(folder, manifest)
    rows = shard_rows(folder, file) if (folder / SIDECAR).is_file() else []
    if not rows:
        raise DataError(f"{file} is not a shard, and only shards can be restored")
    return _restore_shard(folder / file, rows, sources)


def _restore_shard(path: Path, rows: Rows, sources: _ImageSources) -> int:
    lost = [row for row, _, is_intact in examine(path, rows) if not is_intact]
    wanted = [row for row, image, _ in examine(path, rows) if image is None]
    found = sources.images(wanted, path.with_name(SIDECAR))
    if nowhere := [row["key"] for row in wanted if row["sha256"] not in found]:
        raise DataError(f"{len(nowhere)} of {len(rows)} pictures of {path.name} are nowhere else (one is {nowhere[0]})")
    shard = Shard(path)
    for row, image, _ in examine(path, rows):
        shard.add(row["key"], sample_members(row, image or found[row["sha256"]]))
    shard.finish()
    return len(lost)


def _rows_with(store: Store, artifact: str, hashes: set[str]) -> Rows:
    """The rows of an artifact's sidecar whose image has one of these hashes; none if the sidecar is unreadable."""
    columns = ["key", "sha256", "shard", "offset", "length"]
    try:
        sidecar = store.file(artifact, SIDECAR)
        return list(pq.read_table(sidecar, columns=columns, filters=[("sha256", "in", hashes)]).to_pylist())
    except (DataError, *_UNREADABLE):
        return []


def _restore_sidecar(folder: Path, manifest: Manifest) -> int:
    """Rebuild the sidecar by writing the shards again in a scratch folder."""
    shards = sorted(name for name in manifest.files if name.endswith(".tar"))
    if not shards:
        raise DataError(f"{SIDECAR} is damaged and there is no shard to restore it from")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".repair-") as scratch:
        try:
            carried = manifest.details.get("carried", {})
            _write_again([folder / shard for shard in shards], Path(scratch), carried)
        except _UNREADABLE as error:
            raise DataError(f"{SIDECAR} is damaged, and so are the shards to restore it from ({error})") from error
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
