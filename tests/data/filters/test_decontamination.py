"""What a benchmark asks about is not learned from: found by its bytes, its look and its words."""

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from tests.data.judged import ANYTHING, dropped, opened, write_rows
from tinygptv.data.filters.decontamination import PICTURES, TEXTS, fingerprints
from tinygptv.data.filters.rule_attribution import judge
from tinygptv.data.pictures.storing import store_picture
from tinygptv.data.shards.shards import content_hash
from tinygptv.definitions.filters import Decontaminate, FilterChain
from tinygptv.definitions.source import AnnotationsSource, Download
from tinygptv.store.artifacts import Manifest, Store

CAPTION = "two brown horses are standing in the green field behind a wooden fence"


def drawing(seed: int, side: int = 96, quality: int = 90) -> bytes:
    picture = Image.new("RGB", (96, 96), (seed * 50 % 256, 120, 90))
    ImageDraw.Draw(picture).polygon(
        [(5 + seed * 9, 10), (90, 40 + seed * 7), (20, 80 - seed * 11)], (250, 240, seed * 40)
    )
    stream = io.BytesIO()
    picture.resize((side, side)).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


@pytest.fixture
def benchmark(tmp_path: Path) -> AnnotationsSource:
    """Captions of two pictures; the file of a third is no picture."""
    folder = tmp_path / "benchmark"
    folder.mkdir()
    for number in (1, 2):
        (folder / f"{number}.jpg").write_bytes(drawing(number))
    (folder / "3.jpg").write_bytes(b"<html>")
    content = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2, 3)],
        "annotations": [{"id": number, "image_id": number, "caption": CAPTION} for number in (1, 2, 3)],
    }
    (folder / "captions.json").write_text(json.dumps(content))
    return AnnotationsSource(
        kind="annotations",
        about="test",
        licence="CC0-1.0",
        format="coco_caption",
        files={"annotations": str(folder / "captions.json")},
        images=str(folder),
    )


@pytest.fixture
def made(store: Store, benchmark: AnnotationsSource) -> Manifest:
    return fingerprints(store, "horses", benchmark)


def chain(step: Decontaminate) -> FilterChain:
    return FilterChain(about="test", rules=[ANYTHING], decontaminate=step)


def test_a_benchmarks_pictures_and_texts_are_kept_and_what_is_none_is_counted(store: Store, made: Manifest) -> None:
    folder = store.folder(made.artifact)
    assert (made.rows_in, made.rows_out, made.drops) == (3, 2, {"no_picture": 1})
    pictures = pq.read_table(folder / PICTURES).to_pylist()
    assert {row["sha256"] for row in pictures} == {content_hash(drawing(1)), content_hash(drawing(2))}
    assert CAPTION in pq.read_table(folder / TEXTS)["text"].to_pylist()


def test_rows_a_benchmark_holds_are_dropped_by_bytes_look_and_words(
    store: Store, made: Manifest, tmp_path: Path
) -> None:
    bodies = {
        "same file": drawing(1),
        "scaled and coded again": drawing(2, side=64, quality=60),
        "another": drawing(3),
    }
    stored = {name: store_picture(body, Download(min_side=1)) for name, body in bodies.items()}
    rows = [
        {"image": name, "phash": stored[name].phash, "content_sha256": content_hash(body), "caption": "a drawing of it"}
        for name, body in bodies.items()
    ]
    rows.append({"caption": f"I think {CAPTION}"})
    rows.append({"caption": " ".join(CAPTION.split()[:7])})
    folder = write_rows(tmp_path / "rows", rows, {name: picture.jpeg for name, picture in stored.items()})
    held_out = (store.folder(made.artifact),)

    whole = chain(Decontaminate())
    assert dropped(folder, whole, held_out=held_out) == dict.fromkeys((0, 1, 3), "in_benchmark")
    with opened(folder) as opened_rows:
        assert judge(opened_rows, whole, held_out).in_benchmarks == {"bytes": 1, "look": 2, "words": 1}
    assert dropped(folder, chain(Decontaminate(within=None, words=None)), held_out=held_out) == {0: "in_benchmark"}
    assert dropped(folder, chain(Decontaminate(within=None, words=7)), held_out=held_out).keys() == {0, 3, 4}
    assert dropped(folder, whole) == {}


def test_a_caption_without_spaces_is_found_by_its_letters(
    store: Store, benchmark: AnnotationsSource, tmp_path: Path
) -> None:
    texts = ["一只橘猫躺在洒满阳光的窗台上睡觉", "雪山脚下有一座红色的小木屋", "หมา"]
    content = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2, 3)],
        "annotations": [{"id": number, "image_id": number, "caption": text} for number, text in enumerate(texts, 1)],
    }
    Path(benchmark.files["annotations"]).write_text(json.dumps(content))
    held_out = (store.folder(fingerprints(store, "cats", benchmark).artifact),)
    captions = [texts[0], f"照片：{texts[0]}！", texts[0][:10], f"{texts[1]}。", "雪山脚下有一座小木屋", "หมา"]
    folder = write_rows(tmp_path / "rows", [{"caption": caption} for caption in captions])
    assert dropped(folder, chain(Decontaminate()), held_out=held_out).keys() == {0, 1, 3}


def test_a_corrected_benchmark_is_fingerprinted_anew(
    store: Store, made: Manifest, benchmark: AnnotationsSource
) -> None:
    assert fingerprints(store, "horses", benchmark).artifact == made.artifact
    file = Path(benchmark.files["annotations"])
    file.write_text(file.read_text().replace("horses", "ponies"))
    assert fingerprints(store, "horses", benchmark).artifact != made.artifact
