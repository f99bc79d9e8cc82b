"""Shards beside webdataset's: written, read and weighed, with the same samples.

python benchmarks/shards.py
"""

import json
import shutil
import tempfile
from pathlib import Path

import webdataset
from comparison import in_turns, photographs, report

from tinygptv.data.shards.shards import ShardWriter, content_hash
from tinygptv.data.shards.tar import Archive
from tinygptv.definitions.filters import SIDECAR_COLUMNS

SAMPLES, SAMPLES_PER_SHARD = 3000, 1000


class Shards:
    """One set of samples, and the two ways to keep it."""

    def __init__(self, folder: Path) -> None:
        pictures, self.kind = photographs(SAMPLES)
        self.images = pictures[:SAMPLES]
        self.rows = [self._row(number, image) for number, image in enumerate(self.images)]
        self.ours, self.peers = folder / "ours", folder / "webdataset"

    def _row(self, number: int, image: bytes) -> dict[str, object]:
        known = {
            "key": f"{number:020x}",
            "url": f"https://a.example/pictures/{number}.jpg",
            "caption": f"the picture that has the number {number} in a made-up list",
            "width": 448,
            "height": 597,
            "sha256": content_hash(image),
            "bytes": len(image),
        }
        return dict.fromkeys(SIDECAR_COLUMNS) | known

    def write(self) -> None:
        """Shards with hashes and a sidecar, on disk when it returns."""
        _empty(self.ours)
        with ShardWriter(self.ours, SAMPLES_PER_SHARD) as shards:
            for row, image in zip(self.rows, self.images, strict=True):
                shards.write(row, image)

    def write_as_peer(self) -> None:
        """Only the tars; webdataset has no sidecar, and does not wait for the disk."""
        _empty(self.peers)
        for start in range(0, SAMPLES, SAMPLES_PER_SHARD):
            with webdataset.TarWriter(str(self.peers / f"{start // SAMPLES_PER_SHARD:05d}.tar")) as writer:
                for row, image in zip(self.rows[start:][:SAMPLES_PER_SHARD], self.images[start:], strict=False):
                    described = json.dumps(row, sort_keys=True, ensure_ascii=False)
                    writer.write(
                        {"__key__": row["key"], "jpg": image, "txt": row["caption"], "json": described.encode()}
                    )

    def read(self) -> int:
        """All contents of all samples."""
        count = 0
        for path in _tars(self.ours):
            with Archive(path) as archive:
                for _, contents in archive:
                    count += len(contents) == 3
        assert count == SAMPLES
        return count

    def read_as_peer(self) -> int:
        """The same, by webdataset, of its own tars."""
        shards = webdataset.WebDataset([str(path) for path in _tars(self.peers)], shardshuffle=False)
        count = sum("json" in sample for sample in shards)
        assert count == SAMPLES
        return count


def main() -> None:
    """Write, weigh, read."""
    with tempfile.TemporaryDirectory() as folder:
        shards = Shards(Path(folder))
        ours, peer = in_turns(shards.write, shards.write_as_peer, rounds=3)
        details = {"pictures": shards.kind, "peer_is": f"webdataset {webdataset.__version__}"}
        report("shards: write", SAMPLES / ours, SAMPLES / peer, "samples/CPU s", "none", **details)
        ours, peer = in_turns(shards.read, shards.read_as_peer)
        report("shards: raw read", SAMPLES / ours, SAMPLES / peer, "samples/CPU s", "ratio >= 5", **details)
        weights = [sum(path.stat().st_size for path in _tars(place)) for place in (shards.ours, shards.peers)]
        report("shards: bytes", *weights, "bytes", "ratio <= 0.97", **details)


def _tars(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tar"))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


if __name__ == "__main__":
    main()
