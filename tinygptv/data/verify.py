"""Finished artifacts, read again: is every file, every sample and every count still what was written?

A file's hash in the manifest finds any flipped bit. Of a shard that changed, the hashes in the sidecar then say which
samples did; and that shards, sidecar and manifest agree with each other is counted even where no bit has changed.
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

from tinygptv.artifacts import MANIFEST, Manifest, sha256_of
from tinygptv.data.shards import SIDECAR, content_hash, sample_bytes, shard_rows, sidecar_rows
from tinygptv.data.tar import BLOCK, Archive
from tinygptv.errors import DataError

DRAFTS = ".drafts"
_MOST_LISTED_KEYS = 100


@dataclass(frozen=True, slots=True)
class Damage:
    """One file of an artifact that is not what was written. `keys` are the samples it costs, where that is known."""

    folder: Path
    file: str
    problem: str
    keys: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """As JSON-like values."""
        listed = list(self.keys[:_MOST_LISTED_KEYS])
        return {
            "file": str(self.folder / self.file),
            "problem": self.problem,
            "samples": len(self.keys),
            "keys": listed,
        }

    def __str__(self) -> str:
        listed = ", ".join(self.keys[:3]) + (", …" if len(self.keys) > 3 else "")
        return f"{self.folder / self.file}: {self.problem}" + (f" ({listed})" if self.keys else "")


@dataclass(slots=True)
class Verification:
    """What was read, and what of it is damaged."""

    artifacts: int = 0
    files: int = 0
    samples: int = 0
    bytes: int = 0
    damages: list[Damage] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """As JSON-like values; of the samples that a file costs, the first hundred keys."""
        counts = {name: getattr(self, name) for name in ("artifacts", "files", "samples", "bytes")}
        return counts | {"damaged": [damage.summary() for damage in self.damages]}


def verify(root: Path) -> Verification:
    """Read every artifact in a folder, which may be a workdir, a part of one, or one artifact.

    Raises DataError if there is none: then nothing says what ought to be there.
    """
    folders = sorted(artifact_folders(root))
    if not folders:
        raise DataError(f"{root}: no {MANIFEST} in this folder or below it, so there is no finished artifact to verify")
    found = Verification(artifacts=len(folders))
    for folder in folders:
        _verify_artifact(folder, found)
    return found


def artifact_folders(root: Path) -> Iterator[Path]:
    """Folders that claim to be complete, and those whose sidecar says that they once did."""
    for inside, below, files in os.walk(root):
        below[:] = [name for name in below if name != DRAFTS]
        if MANIFEST in files or SIDECAR in files:
            below.clear()
            yield Path(inside)


def read_manifest(folder: Path) -> Manifest:
    """Raises DataError if it is missing or damaged."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise DataError("is missing, so this artifact is not complete") from None
    except ValidationError as error:
        raise DataError(f"is no manifest ({error.error_count()} problems)") from error


def examine(shard: Path, rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], bytes | None, bool]]:
    """Each row of a shard with its image, None if that is damaged, and whether all of the sample is as it was written.

    Goes by the sidecar's offsets, so it reads shards whose headers are damaged or whose end is missing as well. Of a
    shard that is missing, every image is.
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


def _verify_artifact(folder: Path, found: Verification) -> None:
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        found.damages.append(Damage(folder, MANIFEST, str(error)))
        return
    found.files += len(manifest.files)
    found.bytes += sum(entry.bytes for entry in manifest.files.values())
    changed = _changed(folder, manifest)
    if SIDECAR in manifest.files and SIDECAR not in changed:
        found.samples += manifest.rows_out
        found.damages += _verify_samples(folder, manifest, changed)
    else:
        found.damages += [Damage(folder, name, problem) for name, problem in changed.items()]


def _changed(folder: Path, manifest: Manifest) -> dict[str, str]:
    """The files that are not what the manifest says, and what is wrong with each."""

    def problem(name: str) -> str | None:
        path, written = folder / name, manifest.files[name]
        if not path.is_file():
            return "is missing"
        if (size := path.stat().st_size) < written.bytes:
            return f"is cut: {size} of {written.bytes} bytes are left"
        return None if sha256_of(path) == written.sha256 else "has changed since it was written"

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing is done without the interpreter lock
        problems = zip(manifest.files, pool.map(problem, manifest.files), strict=True)
        return {name: wrong for name, wrong in problems if wrong}


def _verify_samples(folder: Path, manifest: Manifest, changed: Mapping[str, str]) -> Iterator[Damage]:
    """The changed files, with the samples they cost; then every disagreement between shards, sidecar and manifest.

    An artifact without shards describes those of another one, where they are verified.
    """
    total = 0
    has_shards = any(name.endswith(".tar") for name in manifest.files)
    costs: dict[str, str] = {}
    places = sidecar_rows(folder, ["key", "shard", "offset", "length"])
    for name, group in groupby(places, key=lambda row: row["shard"]):
        rows = list(group)
        total += len(rows)
        if name in changed:
            known = shard_rows(folder, name)
            lost = tuple(row["key"] for row, _, is_whole in examine(folder / name, known) if not is_whole)
            costs[name] = f"; {len(lost)} of {len(rows)} samples are damaged"
            yield Damage(folder, name, changed[name] + costs[name], lost)
        elif has_shards and (problem := _disagreement(folder / name, rows)):
            yield Damage(folder, name, problem)
    yield from (Damage(folder, name, problem) for name, problem in changed.items() if name not in costs)
    if total != manifest.rows_out:
        yield Damage(folder, SIDECAR, f"has {total} rows, but the manifest says {manifest.rows_out}")
    if manifest.rows_in != manifest.rows_out + sum(manifest.drops.values()):
        yield Damage(folder, MANIFEST, "has a rows_in that is not rows_out and all drops together")
    counts = pq.read_table(folder / SIDECAR, columns=["key"]).group_by("key").aggregate([([], "count_all")])
    if copies := counts.filter(pc.field("count_all") > 1)["key"].to_pylist():
        yield Damage(folder, SIDECAR, f"has {len(copies)} keys more than once", tuple(copies))


def _disagreement(shard: Path, rows: list[dict[str, Any]]) -> str | None:
    """How an unchanged shard differs from what its sidecar says it holds."""
    said = [(row["key"], row["offset"], row["length"]) for row in rows]
    try:
        with Archive(shard) as archive:
            held = [(key, files["jpg"].offset, files["jpg"].size) for key, files in archive.samples.items()]
    except DataError as error:
        return str(error).removeprefix(f"{shard}: ")
    return None if held == said else f"holds {len(held)} samples, and not the {len(said)} of the sidecar"
