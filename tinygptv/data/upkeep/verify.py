"""Verification of finished artifacts: is every file, every sample and every count as it was written?

File hashes in the manifest reveal any flipped bit. For a changed shard, the hashes in the sidecar tell which samples
are affected. Even if no file has changed, shards, sidecar and manifest are checked against each other.
"""

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from tinygptv.data.shards.shards import SIDECAR, content_hash, sample_bytes, shard_rows, sidecar_rows
from tinygptv.data.shards.tar import BLOCK, Archive
from tinygptv.data.upkeep.artifact_access import ArtifactFolder, artifact_folders
from tinygptv.errors import DataError
from tinygptv.store.artifacts import MANIFEST, FileEntry, Manifest, fingerprint, sha256_of

_MAX_LISTED_KEYS = 100


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged file of an artifact. `keys` are the affected samples, where known."""

    place: ArtifactFolder
    file: str
    problem: str
    keys: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The file's path or URL."""
        return f"{self.place.name}/{self.file}"

    def summary(self) -> dict[str, Any]:
        """The damage as JSON-like values, with at most a hundred keys."""
        listed = list(self.keys[:_MAX_LISTED_KEYS])
        return {
            "file": self.path,
            "problem": self.problem,
            "samples": len(self.keys),
            "keys": listed,
        }

    def __str__(self) -> str:
        listed = ", ".join(self.keys[:3]) + (", …" if len(self.keys) > 3 else "")
        return f"{self.path}: {self.problem}" + (f" ({listed})" if self.keys else "")


@dataclass(slots=True)
class Verification:
    """What was read and what is damaged."""

    artifacts: int = 0
    files: int = 0
    samples: int = 0
    bytes: int = 0
    damages: list[Damage] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The result as JSON-like values."""
        counts = {name: getattr(self, name) for name in ("artifacts", "files", "samples", "bytes")}
        return counts | {"damaged": [damage.summary() for damage in self.damages]}


def verify(root: str) -> Verification:
    """Read every artifact at a path or an `s3://` URL: a workdir, a part of one, or one artifact.

    Raises DataError if there is none.
    """
    found = Verification()
    for place in artifact_folders(root):
        found.artifacts += 1
        _verify_artifact(place, found)
    if not found.artifacts:
        raise DataError(f"{root}: no {MANIFEST} in or below this folder, so there is no finished artifact to verify")
    return found


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest. Raises DataError if it is missing or damaged."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise DataError("is missing, so this artifact is not complete") from None
    except ValidationError as error:
        raise DataError(f"is not a manifest ({error.error_count()} problems)") from error


def examine(shard: Path, rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], bytes | None, bool]]:
    """Yield each row of a shard with its image (None if damaged) and whether the whole sample is intact.

    Uses the sidecar's offsets, so it also reads shards with damaged headers or a missing end. For a missing shard, all
    images are None.
    """
    with shard.open("rb") if shard.is_file() else io.BytesIO() as stream:
        for row in rows:
            stream.seek(row["offset"])
            image = stream.read(row["length"])
            if content_hash(image) != row["sha256"]:
                yield row, None, False
                continue
            expected = sample_bytes(row, image)
            stream.seek(row["offset"] - BLOCK)
            yield row, image, stream.read(len(expected)) == expected


def _verify_artifact(place: ArtifactFolder, found: Verification) -> None:
    try:
        with place.local_file(MANIFEST) as path:
            manifest = read_manifest(path.parent)
    except DataError as error:
        found.damages.append(Damage(place, MANIFEST, str(error)))
        return
    found.files += len(manifest.files)
    found.bytes += sum(entry.bytes for entry in manifest.files.values())
    states = _file_states(place, manifest)
    changed = {name: one.problem for name, one in states.items() if one.problem}
    if SIDECAR in manifest.files and SIDECAR not in changed:
        found.samples += manifest.rows_out
        with place.local_file(SIDECAR) as sidecar:
            found.damages += _verify_samples(place, sidecar.parent, manifest, states)
    else:
        found.damages += [Damage(place, name, problem) for name, problem in changed.items()]


@dataclass(frozen=True, slots=True)
class _FileState:
    """The state of a file: what is wrong with it, or, for an intact shard, its content."""

    problem: str | None
    holds: "_Content | None" = None


@dataclass(frozen=True, slots=True)
class _Content:
    """The number of samples in a shard and a hash of their locations; `problem` if it cannot be read."""

    samples: int = 0
    locations: str = ""
    problem: str | None = None


def _file_states(place: ArtifactFolder, manifest: Manifest) -> dict[str, _FileState]:
    is_described = SIDECAR in manifest.files

    def inspect(name: str) -> _FileState:
        with place.local_file(name) as path:
            problem = _problem(path, manifest.files[name])
            is_shard = is_described and path.suffix == ".tar"
            return _FileState(problem, _content(path) if is_shard and problem is None else None)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the GIL
        return dict(zip(manifest.files, pool.map(inspect, manifest.files), strict=True))


def _problem(path: Path, written: FileEntry) -> str | None:
    if not path.is_file():
        return "is missing"
    if (size := path.stat().st_size) < written.bytes:
        return f"is cut: {size} of {written.bytes} bytes are left"
    return None if sha256_of(path) == written.sha256 else "has changed since it was written"


def _content(shard: Path) -> _Content:
    try:
        with Archive(shard) as archive:
            held = [(key, files["jpg"].offset, files["jpg"].size) for key, files in archive.samples.items()]
    except DataError as error:
        return _Content(problem=str(error).removeprefix(f"{shard}: "))
    return _Content(len(held), fingerprint(held))


def _verify_samples(
    place: ArtifactFolder, described: Path, manifest: Manifest, states: Mapping[str, _FileState]
) -> Iterator[Damage]:
    """Yield the changed files with the affected samples, then disagreements of shards, sidecar and manifest.

    `described` is the folder of the sidecar. An artifact without shards points into those of another artifact; they are
    verified there.
    """
    total = 0
    has_shards = any(name.endswith(".tar") for name in manifest.files)
    reported = set()
    for name, group in groupby(sidecar_rows(described, ["key", "shard", "offset", "length"]), lambda row: row["shard"]):
        rows = list(group)
        total += len(rows)
        one = states.get(name, _FileState(None, _Content(problem="this shard is not in the manifest")))
        if one.problem:
            known = shard_rows(described, name)
            with place.local_file(name) as path:
                lost = tuple(row["key"] for row, _, is_intact in examine(path, known) if not is_intact)
            reported.add(name)
            yield Damage(place, name, f"{one.problem}; {len(lost)} of {len(rows)} samples are damaged", lost)
        elif has_shards and one.holds and (problem := _disagreement(one.holds, rows)):
            yield Damage(place, name, problem)
    yield from (
        Damage(place, name, one.problem) for name, one in states.items() if one.problem and name not in reported
    )
    if total != manifest.rows_out:
        yield Damage(place, SIDECAR, f"has {total} rows, but the manifest says {manifest.rows_out}")
    if manifest.rows_in != manifest.rows_out + sum(manifest.drops.values()):
        yield Damage(place, MANIFEST, "has a rows_in that is not the sum of rows_out and all drops")
    counts = pq.read_table(described / SIDECAR, columns=["key"]).group_by("key").aggregate([([], "count_all")])
    if copies := counts.filter(pc.field("count_all") > 1)["key"].to_pylist():
        yield Damage(place, SIDECAR, f"has {len(copies)} keys more than once", tuple(copies))


def _disagreement(held: _Content, rows: list[dict[str, Any]]) -> str | None:
    """How an intact shard differs from what its sidecar says, or None."""
    if held.problem or held.locations == fingerprint([(row["key"], row["offset"], row["length"]) for row in rows]):
        return held.problem
    return f"holds {held.samples} samples, and not the {len(rows)} of the sidecar"
