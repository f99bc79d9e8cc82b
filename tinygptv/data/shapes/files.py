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

from tinygptv.artifacts import Manifest, Outcome, Store, artifact_name, fingerprint
from tinygptv.data.shapes import language, layouts, scenes, tables

PLACE = "corpus/shapes"
SIDE = 64
"""Images are squares of this many px: the largest any tiny stage looks at."""

_LAYOUT_VERSION = 2  # raise it when the files change though the scenes do not


def draw_corpus(store: Store) -> Manifest:
    """The embedded corpus, drawn in seconds on first use.

    The manifest's `details` state what was drawn, and how many rows of each table are bad, by what is wrong with them.
    """
    definition = {
        "layout": _LAYOUT_VERSION,
        "side": SIDE,
        "tables": tables.SIZES,
        "annotations": layouts.SIZES,
        "scenes": _scene_fingerprint(),
    }
    return store.make(artifact_name(PLACE, definition, []), "draw_corpus", definition, [], _build)


def corpus_folder(store: Store) -> Path:
    """A local folder with the drawn corpus."""
    return store.folder(draw_corpus(store).artifact)


def _build(folder: Path) -> Outcome:
    counts = tables.write_tables(folder, SIDE)
    annotated = layouts.write_annotations(folder / "annotations", SIDE)
    return Outcome(details={"tables": counts, "annotations": annotated})


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
