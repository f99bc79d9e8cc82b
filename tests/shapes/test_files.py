"""The embedded corpus on disk: published layouts, known faults, exact balance, and nothing held out is trained on."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tinygptv import catalog
from tinygptv.shapes import layouts, tables
from tinygptv.shapes.files import SIDE, corpus_folder, draw_corpus, draw_held_out, is_held_out
from tinygptv.shapes.scenes import SPLITS, draw, scene, split_of
from tinygptv.store.artifacts import Store

pytestmark = pytest.mark.usefixtures("small_corpus")


@pytest.fixture
def corpus(store: Store) -> Path:
    return corpus_folder(store)


def url_rows(corpus: Path) -> dict[str, list[tuple[str, str]]]:
    """(url, caption) of every table, read as anyone would."""
    laion = pq.read_table(corpus / "tables" / "laion.parquet").to_pydict()
    sbu = json.loads((corpus / "tables" / "sbu.json").read_text())
    lines = (corpus / "tables" / "cc3m.tsv").read_text().splitlines()
    return {
        "laion": list(zip(laion["URL"], laion["TEXT"], strict=True)),
        "cc3m": [tuple(reversed(line.split("\t"))) for line in lines],
        "sbu": list(zip(sbu["image_urls"], sbu["captions"], strict=True)),
    }


def what_is_wrong(corpus: Path, url: str, caption: str, seen: set[Any]) -> str:
    """The fault of a row, found by looking at what its URL gives."""
    path = corpus / url.removeprefix(f"{tables.BASE_URL}/")
    data = path.read_bytes() if path.exists() else None
    fault = "short_caption" if " " not in caption else "good"
    if url in seen:
        fault = "duplicate_url"
    elif data is None:
        fault = "not_found"
    elif data.startswith(b"<!doctype html>"):
        fault = "html"
    elif data in seen:
        fault = "duplicate_content"
    else:
        fault = fault_of_image(data) or fault
    seen |= {url, data}
    return fault


def fault_of_image(data: bytes) -> str | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except OSError:
        return "truncated"
    if image.width > 3 * image.height:
        return "extreme_aspect"
    return "tiny_image" if image.width < SIDE else None


def test_every_table_holds_exactly_the_faults_that_its_manifest_states(store: Store, corpus: Path) -> None:
    stated = draw_corpus(store).details["tables"]
    laion = pq.read_table(corpus / "tables" / "laion.parquet").to_pydict()
    for name, rows in url_rows(corpus).items():
        seen: set[Any] = set()
        found = Counter(what_is_wrong(corpus, url, caption, seen) for url, caption in rows)
        if name == "laion":  # two faults that only its columns tell
            found["low_similarity"] = sum(value < 0.2 for value in laion["similarity"])
            found["unsafe"] = sum(value > 0.5 for value in laion["punsafe"])
            found["good"] -= found["low_similarity"] + found["unsafe"]
        assert {"rows": len(rows), **found} == stated[name]
        assert set(found) - {"good"} == set(tables.FAULTS) | (
            {"low_similarity", "unsafe"} if name == "laion" else set()
        )


def test_the_web_tables_have_the_published_columns(corpus: Path) -> None:
    assert pq.read_schema(corpus / "tables" / "laion.parquet").names == [
        "URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "punsafe", "pwatermark", "LICENSE", "hash",
    ]  # fmt: skip
    assert all(url.startswith("__BASE_URL__/images/") for rows in url_rows(corpus).values() for url, _ in rows)


def test_two_stores_draw_the_same_bytes(store: Store, tmp_path: Path) -> None:
    other = Store(str(tmp_path / "other"))
    assert draw_corpus(store).files == draw_corpus(other).files


def test_another_size_is_another_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "write_tables", lambda *_: {})
    monkeypatch.setattr(layouts, "write_annotations", lambda *_: {})
    store = Store(str(tmp_path / "other"))
    first = draw_corpus(store).artifact
    monkeypatch.setattr(tables, "SIZES", {"laion": 30, "cc3m": 20, "sbu": 20})
    assert draw_corpus(store).artifact != first


def annotation(corpus: Path, name: str) -> Any:
    text = (corpus / "annotations" / name).read_text()
    return [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else json.loads(text)


def test_questions_are_balanced_over_their_answers(corpus: Path) -> None:
    found = annotation(corpus, "vqav2/v2_mscoco_train2014_annotations.json")["annotations"]
    answers = Counter((item["question_type"], item["multiple_choice_answer"]) for item in found)
    for kind in ("colour", "kind", "position"):
        counts = [count for (question, _), count in answers.items() if question == kind]
        assert max(counts) - min(counts) <= 1
    assert all(len(item["answers"]) == 10 for item in found)


@pytest.mark.parametrize("name", ["vsr/attribute_test.jsonl", "vsr/spatial_test.jsonl"])
def test_half_of_the_held_out_statements_are_true(corpus: Path, name: str) -> None:
    labels = [item["label"] for item in annotation(corpus, name)]
    assert (len(labels), sum(labels)) == (36, 18)


def test_boxes_lie_on_the_shape_they_name(corpus: Path) -> None:
    for record in annotation(corpus, "refcoco/refcoco_val.json"):
        x, y, width, height = record["bbox"]
        assert 0 <= x < x + width <= record["width"]
        assert 0 <= y < y + height <= record["height"]
        stem = record["img_id"].rpartition("_")[0]
        with Image.open(corpus / "annotations" / "coco" / "val2014" / f"{stem}.jpg") as image:
            assert image.size == (record["width"], record["height"])


def test_a_jpeg_keeps_the_colours_that_were_drawn(corpus: Path) -> None:
    path = corpus / "annotations" / "coco" / "train2014" / "COCO_train2014_000001000000.jpg"
    with Image.open(path) as image:
        difference = np.abs(np.asarray(image, dtype=int) - np.asarray(draw(scene("train", 1_000_000), SIDE), dtype=int))
    assert difference.mean() < 2


def test_every_image_of_a_split_shows_a_scene_of_that_split(corpus: Path) -> None:
    for folder, split in (("train2014", "train"), ("val2014", "heldout")):
        indices = [int(path.stem.rpartition("_")[2]) for path in (corpus / "annotations" / "coco" / folder).glob("*")]
        assert indices
        assert {split_of(scene(split, index).objects) for index in indices} == {split}
    assert set(layouts.SIZES) == {"train", "heldout"} <= set(SPLITS)


def test_training_annotations_show_other_scenes_than_the_tables(corpus: Path) -> None:
    indices = [int(p.stem.rpartition("_")[2]) for p in (corpus / "annotations" / "coco" / "train2014").glob("*")]
    assert min(indices) > sum(tables.SIZES.values())


def test_the_held_out_part_alone_is_the_same_as_in_the_whole(store: Store, small_corpus: None) -> None:
    part, whole = draw_held_out(store), draw_corpus(store)
    assert part.files
    assert {name: whole.files[name] for name in part.files} == part.files
    assert all(is_held_out(catalog.source(name).images) for name in catalog.names("source") if "heldout" in name)
