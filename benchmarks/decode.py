"""From shards to 224 x 224 pixels, beside webdataset with Pillow; and how near the two are.

python benchmarks/decode.py
"""

import math
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import webdataset
from comparison import generated, in_turns, photographs, report, seconds_of
from PIL import Image

from tinygptv.data.pictures.storing import Pixels, resize
from tinygptv.data.shards.shards import ShardWriter, content_hash
from tinygptv.data.shards.tar import Archive

SIDE = 224
SAMPLES = 200
MOST_PIXELS = 16_000_000


def by_us(path: Path) -> Iterator[Pixels]:
    """libjpeg-turbo at full size, then an antialiased bicubic."""
    for pixels in decode_only(path):
        yield resize(pixels, SIDE, SIDE)[..., :3]


def decode_only(path: Path) -> Iterator[Pixels]:
    """The part of `by_us` that everybody shares: no resize can make the ratio better than this one. Each picture is
    decoded into the memory of the one before."""
    memory = np.empty(4 * MOST_PIXELS, np.uint8)
    with Archive(path) as archive:
        for files in archive.samples.values():
            yield simplejpeg.decode_jpeg(archive.read(files["jpg"]), "RGBX", buffer=memory)


def by_peer(path: Path) -> Iterator[Pixels]:
    """webdataset's own decoder, and Pillow's antialiased bicubic, which is what the published models saw."""
    for sample in webdataset.WebDataset([str(path)], shardshuffle=False).decode("pil"):
        yield np.asarray(sample["jpg"].resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def decibels(ours: Pixels, theirs: Pixels) -> float:
    """Peak signal to noise; 99 where nothing differs."""
    error = float(np.mean((ours.astype(np.float64) - theirs) ** 2))
    return 10 * math.log10(255**2 / error) if error else 99.0


def compare(pictures: list[bytes], kind: str, folder: Path) -> None:
    """Speed and nearness on one set of pictures."""
    with ShardWriter(folder, len(pictures)) as shards:
        for number, image in enumerate(pictures):
            shards.write({"key": f"{number:06d}", "caption": "a picture", "sha256": content_hash(image)}, image)
    path = folder / "00000.tar"

    def drained(read: Callable[[Path], Iterator[Pixels]]) -> Callable[[], int]:
        return lambda: sum(1 for _ in read(path))

    mine, theirs = in_turns(drained(by_us), drained(by_peer))
    details: dict[str, Any] = {
        "pictures": kind,
        "peer_is": f"webdataset {webdataset.__version__} + Pillow {Image.__version__}",
    }
    count = len(pictures)
    floor = min(seconds_of(drained(decode_only)) for _ in range(5))
    details["ratio_if_resizing_were_free"] = round(theirs / floor, 2)
    report("decode + resize to 224", count / mine, count / theirs, "images/CPU s", "ratio >= 2.5", **details)
    near = [decibels(*pair) for pair in zip(by_us(path), by_peer(path), strict=True)]
    details |= {"least": round(min(near), 1), "share_from_70": sum(value >= 70 for value in near) / count}
    report("decode + resize to 224: nearness", statistics.mean(near), None, "dB, mean", "ours >= 70", **details)


def main() -> None:
    """Photographs as they are found, and generated ones of 0.46 megapixels."""
    found, kind = photographs(SAMPLES)
    sets = {kind: found[:: len(found) // SAMPLES][:SAMPLES], "generated": generated(SAMPLES)}
    for name, pictures in sets.items():
        with tempfile.TemporaryDirectory() as folder:
            compare(pictures, name, Path(folder))


if __name__ == "__main__":
    main()
