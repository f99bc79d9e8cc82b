"""Where the drawn annotations of a split find their images and put their files."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tinygptv.shapes.scenes import Scene, draw, scene
from tinygptv.shapes.tables import jpeg

SEED = 1  # scenes from 1,000,000 on: none that the tables show


class Gallery:
    """The images of one split: each scene is drawn once, however many files mention it."""

    def __init__(self, folder: Path, split: str, side: int) -> None:
        self.folder, self.split, self.side = folder, split, side
        self.drawn: set[int] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def scenes(self, count: int) -> list[Scene]:
        """The first `count` scenes of this split's own range."""
        return [scene(self.split, SEED * 1_000_000 + number) for number in range(count)]

    def name(self, picture: Scene) -> str:
        """The image's file name; the image is there from now on."""
        name = f"COCO_{self.folder.name}_{picture.index:012d}.jpg"
        if picture.index not in self.drawn:
            self.drawn.add(picture.index)
            (self.folder / name).write_bytes(jpeg(draw(picture, self.side)))
        return name

    def rng(self, purpose: str, picture: Scene) -> random.Random:
        """What chooses words about this scene, for one purpose."""
        return random.Random(f"{purpose} {self.split} {picture.index}")


def write_json(path: Path, content: Any) -> None:
    """One JSON value, in folders made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """JSON lines, in folders made for them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
