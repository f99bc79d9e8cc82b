"""The embedded corpus drawn to files: the tables, images and annotations that a download of the real ones would give.

    tables/        laion.parquet, cc3m.tsv, sbu.json: URL+caption tables, `__BASE_URL__` standing for the server
    images/        what those URLs answer with, faults of the web included
    annotations/   the layouts of the datasets that the four stages and the benchmarks read

The tables and the training annotations show scenes of the split `train`, the held-out annotations those of `heldout`.
"""

import functools
import io
import random
from pathlib import Path
from typing import Any

from tinygptv.shapes import language, layouts, scenes, tables
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name, fingerprint

PLACE = "corpus/shapes"
SIDE = 64
"""Images are squares of this many px: the largest any tiny stage looks at."""

HELD_OUT = "heldout"
"""The split whose scenes no training ever shows."""

_LAYOUT_VERSION = 3  # raise it when the files change though the scenes do not


def draw_corpus(store: Store) -> Manifest:
    """The embedded corpus, drawn in seconds on first use.

    The manifest's `details` state what was drawn, and how many rows of each table are bad, by what is wrong with them.
    """
    definition = _definition() | {"tables": tables.SIZES}
    return store.make(artifact_name(PLACE, definition, []), "draw_corpus", definition, [], _build)


def draw_held_out(store: Store) -> Manifest:
    """The held-out annotations and their images alone: what the benchmarks ask about, in a tenth of the time."""
    definition = _definition() | {"only": HELD_OUT}

    def build(folder: Path) -> Outcome:
        return Outcome(details=layouts.write_annotations(folder / "annotations", SIDE, HELD_OUT))

    return store.make(artifact_name(f"{PLACE}_{HELD_OUT}", definition, []), "draw_held_out", definition, [], build)


def is_held_out(images: str) -> bool:
    """Whether a source's folder of images is that of the held-out annotations."""
    return images == f"embedded:shapes/annotations/coco/{layouts.FOLDERS[HELD_OUT]}"


def corpus_folder(store: Store) -> Path:
    """A local folder with the drawn corpus."""
    return store.folder(draw_corpus(store).artifact)


def _build(folder: Path) -> Outcome:
    counts = tables.write_tables(folder, SIDE)
    annotated = layouts.write_annotations(folder / "annotations", SIDE)
    return Outcome(details={"tables": counts, "annotations": annotated})


def _definition() -> dict[str, Any]:
    return {"layout": _LAYOUT_VERSION, "side": SIDE, "annotations": layouts.SIZES, "scenes": _scene_fingerprint()}


@functools.cache
def _scene_fingerprint() -> str:
    """Changes when the drawing or the language does, so that an old corpus is never taken for the new one."""
    drawn, said = [], []
    for index in range(20):
        scene = scenes.scene("train", index)
        picture = io.BytesIO()
        scenes.draw(scene, SIDE).save(picture, "BMP")
        drawn.append(fingerprint(picture.getvalue().hex()))
        rng = random.Random(index)
        said += [language.detailed_description(scene, rng), language.caption(scene, rng)]
        said += [str(ask(scene, rng)) for ask in language.ASKING.values()]
    return fingerprint(drawn, said)
