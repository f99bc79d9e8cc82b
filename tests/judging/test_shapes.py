"""What the shipped scorer sees in drawn scenes that no part of it was trained on. Figures are those measured."""

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import ArrayLike
from PIL import Image

from tests.data.judged import write_rows
from tinygptv import catalog
from tinygptv.data.columns.database import connect
from tinygptv.data.filters.rows import Rows
from tinygptv.data.filters.rule_attribution import KEPT, judge
from tinygptv.data.filters.scores import SCHEMA, SCORES
from tinygptv.data.pictures.storing import store_picture
from tinygptv.data.shards.shards import SIDECAR
from tinygptv.definitions.filters import Deduplicate, FilterChain
from tinygptv.definitions.source import Download
from tinygptv.judging.judge import Judge
from tinygptv.judging.opening import open_judge
from tinygptv.shapes import language, tables
from tinygptv.shapes.scenes import draw, scene

SCENES = 100


@pytest.fixture(scope="module")
def shapes() -> Judge:
    return open_judge(catalog.scorer("shapes"))


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return [tables.jpeg(draw(scene("heldout", number), 64)) for number in range(SCENES)]


@pytest.fixture(scope="module")
def captions() -> list[str]:
    """Every object with its place, in any order."""
    rng = random.Random(0)
    return [language.full_caption(scene("heldout", number), rng) for number in range(SCENES)]


@pytest.fixture(scope="module")
def right(shapes: Judge, pictures: list[bytes], captions: list[str]) -> dict[str, Any]:
    return shapes.score(pictures, captions)


@pytest.fixture(scope="module")
def wrong(shapes: Judge, pictures: list[bytes], captions: list[str]) -> dict[str, Any]:
    """Every picture with the caption of the next."""
    return shapes.score(pictures, [*captions[1:], captions[0]])


def auc(positive: ArrayLike, negative: ArrayLike) -> float:
    """How often a positive stands above a negative."""
    above = np.asarray(positive)[:, None] - np.asarray(negative)[None]
    return float((above > 0).mean() + (above == 0).mean() / 2)


def test_both_scores_tell_captions_from_shuffled_ones(right: dict[str, Any], wrong: dict[str, Any]) -> None:
    itc, itm = (auc(right[score], wrong[score]) for score in ("itc", "itm"))
    assert itc > 0.98  # measured: 0.993
    assert itm > 0.88  # measured: 0.917
    assert np.median(right["itm"]) > 0.5 > np.median(wrong["itm"])


def test_the_scorers_own_caption_fits_better_than_a_wrong_one(right: dict[str, Any], wrong: dict[str, Any]) -> None:
    assert (right["recaption_itm"] > wrong["itm"]).mean() > 0.85  # measured: 0.88
    assert (right["recaption_itc"] > wrong["itc"]).mean() > 0.95  # measured: 1.00


def test_scores_do_not_depend_on_who_else_is_in_the_batch(
    shapes: Judge, pictures: list[bytes], captions: list[str], right: dict[str, Any]
) -> None:
    alone = shapes.score(pictures[7:9], captions[7:9])
    for score in ("itc", "itm", "recaption_itm"):
        np.testing.assert_allclose(alone[score], right[score][7:9], atol=1e-5)
    assert alone["recaption"] == right["recaption"][7:9]


def twins(pictures: list[bytes]) -> list[bytes]:
    """Of the first half a crop without the outermost 4 px, of the others one in warmer light."""
    made = []
    for number, picture in enumerate(pictures):
        with Image.open(io.BytesIO(picture)) as image:
            other = image.crop((4, 4, 60, 60)).resize((64, 64))
            if number >= len(pictures) // 2:
                other = Image.blend(image, Image.new("RGB", image.size, (255, 200, 120)), 0.2)
        stream = io.BytesIO()
        other.save(stream, "JPEG", quality=90)
        made.append(stream.getvalue())
    return made


def test_embeddings_find_crops_and_tints_that_the_perceptual_hash_does_not(
    shapes: Judge, pictures: list[bytes], captions: list[str], tmp_path: Path
) -> None:
    every = pictures + twins(pictures)
    embedding = shapes.score(every, captions * 2)["embedding"]
    images = {str(number): image for number, image in enumerate(every)}
    options = Download(min_side=1, max_aspect=1000.0)
    rows = [{"image": name, "phash": store_picture(image, options).phash} for name, image in images.items()]
    folder = write_rows(tmp_path / "rows", rows, images)
    pq.write_table(pa.Table.from_pylist([{"embedding": one} for one in embedding], SCHEMA), tmp_path / SCORES)

    def found(**how: Any) -> tuple[int, int, int]:
        """Crops, tints and distinct pictures that are taken for copies."""
        step = Deduplicate(name="alike", why="test", **how)
        chain = FilterChain(about="test", scores="shapes", rules=[], decontaminate=None, duplicates=[step])
        with connect(tmp_path) as database:
            kept = judge(Rows(database, folder / SIDECAR, folder, scores=tmp_path / SCORES), chain).verdicts == KEPT
        half = SCENES + SCENES // 2
        return int((~kept[SCENES:half]).sum()), int((~kept[half:]).sum()), int((~kept[:SCENES]).sum())

    by_hash, by_embedding = found(by="phash", within=4), found(by="embedding", at_least=0.95)
    assert by_hash == (0, 0, 0)
    assert by_embedding[0] > 40  # of 50; measured: 48
    assert by_embedding[1] > 35  # of 50; measured: 43
    assert by_embedding[2] < 8  # of 100 distinct scenes; measured: 3, which hold nearly the same shapes
