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

from tinygptv.data.shards.shards import SIDECAR, content_hash, sample_bytes, shard_rows, sidecar_rows
from tinygptv.data.shards.tar import BLOCK, Archive
from tinygptv.data.upkeep.artifact_access import Place, places
from tinygptv.errors import DataError
from tinygptv.store.artifacts import MANIFEST, FileEntry, Manifest, fingerprint, sha256_of

_MOST_LISTED_KEYS = 100


@dataclass(frozen=True, slots=True)
class Damage:
    """One file of an artifact that is not what was written. `keys` are the samples it costs, where that is known."""

    place: Place
    file: str
    problem: str
    keys: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Of the file, or its address."""
        return f"{self.place.name}/{self.file}"

    def summary(self) -> dict[str, Any]:
        """As JSON-like values."""
        listed = list(self.keys[:_MOST_LISTED_KEYS])
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


def verify(root: str) -> Verification:
    """Read every artifact at a path or an `s3://` address, which may be a workdir, a part of one, or one artifact.

    Raises DataError if there is none: then nothing says what ought to be there.
    """
    found = Verification()
    for place in places(root):
        found.artifacts += 1
        _verify_artifact(place, found)
    if not found.artifacts:
        raise DataError(f"{root}: no {MANIFEST} in this folder or below it, so there is no finished artifact to verify")
    return found


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


def _verify_artifact(place: Place, found: Verification) -> None:
    try:
        with place.at_hand(MANIFEST) as path:
            manifest = read_manifest(path.parent)
    except DataError as error:
        found.damages.append(Damage(place, MANIFEST, str(error)))
        return
    found.files += len(manifest.files)
    found.bytes += sum(entry.bytes for entry in manifest.files.values())
    seen = _seen(place, manifest)
    changed = {name: one.problem for name, one in seen.items() if one.problem}
    if SIDECAR in manifest.files and SIDECAR not in changed:
        found.samples += manifest.rows_out
        with place.at_hand(SIDECAR) as sidecar:
            found.damages += _verify_samples(place, sidecar.parent, manifest, seen)
    else:
        found.damages += [Damage(place, name, problem) for name, problem in changed.items()]


@dataclass(frozen=True, slots=True)
class _Seen:
    """A file, looked at once: what is wrong with it, if it is not what the manifest says; of a shard that is, what it
    holds."""

    problem: str | None
    holds: "_Content | None" = None


@dataclass(frozen=True, slots=True)
class _Content:
    """Which samples a shard holds and where, as a hash; `problem` if that cannot be told."""

    samples: int = 0
    places: str = ""
    problem: str | None = None


def _seen(place: Place, manifest: Manifest) -> dict[str, _Seen]:
    is_described = SIDECAR in manifest.files

    def look(name: str) -> _Seen:
        with place.at_hand(name) as path:
            problem = _problem(path, manifest.files[name])
            is_shard = is_described and path.suffix == ".tar"
            return _Seen(problem, _content(path) if is_shard and problem is None else None)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing is done without the interpreter lock
        return dict(zip(manifest.files, pool.map(look, manifest.files), strict=True))


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


def _verify_samples(place: Place, described: Path, manifest: Manifest, seen: Mapping[str, _Seen]) -> Iterator[Damage]:
    """The changed files, with the samples they cost; then every disagreement between shards, sidecar and manifest.

    `described` is the folder with the sidecar. An artifact without shards describes those of another one, where they
    are verified.
    """
    total = 0
    has_shards = any(name.endswith(".tar") for name in manifest.files)
    told = set()
    for name, group in groupby(sidecar_rows(described, ["key", "shard", "offset", "length"]), lambda row: row["shard"]):
        rows = list(group)
        total += len(rows)
        one = seen.get(name, _Seen(None, _Content(problem="this shard is not in the manifest")))
        if one.problem:
            known = shard_rows(described, name)
            with place.at_hand(name) as path:
                lost = tuple(row["key"] for row, _, is_whole in examine(path, known) if not is_whole)
            told.add(name)
            yield Damage(place, name, f"{one.problem}; {len(lost)} of {len(rows)} samples are damaged", lost)
        elif has_shards and one.holds and (problem := _disagreement(one.holds, rows)):
            yield Damage(place, name, problem)
    yield from (Damage(place, name, one.problem) for name, one in seen.items() if one.problem and name not in told)
    if total != manifest.rows_out:
        yield Damage(place, SIDECAR, f"has {total} rows, but the manifest says {manifest.rows_out}")
    if manifest.rows_in != manifest.rows_out + sum(manifest.drops.values()):
        yield Damage(place, MANIFEST, "has a rows_in that is not rows_out and all drops together")
    counts = pq.read_table(described / SIDECAR, columns=["key"]).group_by("key").aggregate([([], "count_all")])
    if copies := counts.filter(pc.field("count_all") > 1)["key"].to_pylist():
        yield Damage(place, SIDECAR, f"has {len(copies)} keys more than once", tuple(copies))


def _disagreement(held: _Content, rows: list[dict[str, Any]]) -> str | None:
    """How an unchanged shard differs from what its sidecar says it holds."""
    if held.problem or held.places == fingerprint([(row["key"], row["offset"], row["length"]) for row in rows]):
        return held.problem
    return f"holds {held.samples} samples, and not the {len(rows)} of the sidecar"
