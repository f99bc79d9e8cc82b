"""Each dataset of the stages, read by its shipped definition from real records, or from its drawn twin where there are
none: the whole text a model reads, and what of it is learned.

Every expectation was written by hand from the record and, for twins, from the picture. What is learned stands in «»,
¶ is BOS and ▣ an image slot. Where a picture is not at hand, a blank one of its size stands in for it.
"""

import csv
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from tests.marked import marked
from tinygptv import catalog
from tinygptv.data.annotations import read_annotations
from tinygptv.data.prompting.prompts import render
from tinygptv.data.prompting.sequences import Sequences
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.recipe import Inputs
from tinygptv.definitions.source import AnnotationsSource
from tinygptv.sample import Sample
from tinygptv.store.artifacts import Store

INPUTS = Inputs(image_size=16, max_text_tokens=900, template="[INST] {} [/INST]", end_symbol="###")
PICTURE = "¶[INST] <Img>▣▣</Img> "
SHORT = PICTURE + "[vqa] Based on the image, respond to this question with a short answer: "


def read(tokenizer: PreTrainedTokenizerFast, sample: Sample, task: Task, inputs: Inputs = INPUTS) -> str:
    return marked(Sequences(tokenizer, inputs, 2).training([render(sample, task, inputs)]), tokenizer)


# Real records


def llava(kind: str) -> Callable[[Path], list[Any]]:
    """LLaVA's questions of one kind are at hand in its evaluation layout; here they are laid out for training."""

    def records(data: Path) -> list[Any]:
        lines = (data / "annotations/llava/coco2014_val_gpt4_qa_30x3.jsonl").read_text().splitlines()
        asked = next(record for record in map(json.loads, lines) if record["type"] == kind)
        said = [
            {"from": "human", "value": f"{asked['instruction']}\n<image>"},
            {"from": "gpt", "value": asked["output"]},
        ]
        return [{"id": asked["id"], "image": asked["image"], "conversations": said}]

    return records


def gqa(data: Path) -> list[Any]:
    """Its balanced questions are at hand beside two models' answers; here they are laid out as LAVIS lists them."""
    with (data / "oracles/gqa/testdev_balanced_gt_and_two_models.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    return [
        {**{key: row[key] for key in ("question_id", "question")}, "image": row["image_id"], "answer": row["gt_ans"]}
    ]


@dataclass
class Real:
    """`files` by role, below the annotations, or a function that makes the only one; `pictures` at hand, or a
    `blank` one; the sample is that of `key`, the text what a model reads."""

    files: dict[str, str] | Callable[[Path], list[Any]]
    task: Task
    key: str
    text: str
    pictures: str = "coco/train2017"
    blank: tuple[str, int, int] | None = None


LLAVA_PICTURE = ("COCO_val2014_000000525439.jpg", 640, 480)
ZEBRA, BEAR = "COCO_train2014_000000000154_1", "COCO_train2014_000000000309_1996153"
REAL = {
    "cc_sbu_align": Real(
        {"annotations": "cc_sbu_align/filter_cap.json"},
        "describe",
        "10",
        PICTURE
        + "Describe this image in detail. [/INST]«In the image, a flock of ducks can be seen flying over a body of "
        "water with trees and bushes in the background. The foreground features ripples on the water's surface and the "
        "ducks' outstretched wings and calling beaks. The sky is a peaceful dark blue with a few light blue clouds, "
        "making for a beautiful and serene wallpaper design.###»",
        blank=("10.jpg", 400, 300),
    ),
    "llava_conversation": Real(
        llava("conv"),
        "conversation",
        "000000525439",
        PICTURE + "What is the position of the skateboard in the image? [/INST]«The skateboard in the image is in an "
        "upside-down position, with its wheels pointing up and laying on the ground.###»",
        blank=LLAVA_PICTURE,
    ),
    "llava_detail": Real(
        llava("detail"),
        "explain",
        "000000525439",
        PICTURE
        + "can you elaborate on the elements of the picture provided? [/INST]«In the image, a person wearing camo "
        "shorts is standing on a cement surface next to an overturned skateboard. The skateboard is laying upside down "
        "with its wheels pointing up, giving a sense of it having been flipped or potentially used for a trick. The "
        "boy appears to be standing in front of the skateboard, engaging with it or possibly preparing for his next "
        "move.###»",
        blank=LLAVA_PICTURE,
    ),
    "llava_reason": Real(
        llava("complex"),
        "explain",
        "000000525439",
        PICTURE
        + "what might have happened prior to this moment? [/INST]«It's plausible that prior to this moment, the "
        "person standing next to the overturned skateboard might have attempted a trick or maneuver on the skateboard, "
        "which resulted in either a failed attempt or a wipeout. As a consequence, the skateboard ended up upside down "
        "on the ground, with its wheels pointed upward. The person, possibly the skateboarder, is standing next to it, "
        "possibly pondering their next move, contemplating a retry or assessing any potential damage to the "
        "skateboard.###»",
        blank=LLAVA_PICTURE,
    ),
    "refvg": Real(
        {
            "annotations": "visual_genome/region_descriptions.sample.json",
            "images": "visual_genome/image_data.sample.json",
        },
        "refer",
        "1382",
        # x 421..503 of 800 px, y 57..196 of 600 px
        PICTURE + "[refer] give me the location of the clock is green in colour [/INST]«{<52><9><62><32>}###»",
        blank=("VG_100K_2/1.jpg", 800, 600),
    ),
    "refcoco": Real(
        {"annotations": "refcoco/refcoco_testB.json"},
        "refer",
        f"{ZEBRA}/zebra in the middle",
        # x 40.46..314.08 of 427 px, y 192.98..332.15 of 640 px
        PICTURE + "[refer] give me the location of zebra in the middle [/INST]«{<9><30><73><51>}###»",
    ),
    "refcocop": Real(
        {"annotations": "refcoco/refcoco+_testB.json"},
        "refer",
        f"{ZEBRA}/zebra walking with its tail sticking out",
        PICTURE + "[refer] give me the location of zebra walking with its tail sticking out [/INST]"
        "«{<9><30><73><51>}###»",
    ),
    "refcocog": Real(
        {"annotations": "refcoco/refcocog_val.json"},
        "refer",
        f"{BEAR}/the legs of a teddy bear laying on some grass",
        # x 73.1..194.52 and y 235.33..493.35 of 600 px
        PICTURE + "[refer] give me the location of the legs of a teddy bear laying on some grass [/INST]"
        "«{<12><39><32><82>}###»",
    ),
    "invrefcoco": Real(
        {"annotations": "refcoco/refcoco_testB.json"},
        "identify",
        f"{ZEBRA}/zebra in the middle",
        PICTURE + "[identify] what object is in this location {<9><30><73><51>} [/INST]«zebra in the middle###»",
    ),
    "invrefcocop": Real(
        {"annotations": "refcoco/refcoco+_testB.json"},
        "identify",
        f"{ZEBRA}/zebra walking with its tail sticking out",
        PICTURE + "[identify] what object is in this location {<9><30><73><51>} [/INST]"
        "«zebra walking with its tail sticking out###»",
    ),
    "invrefcocog": Real(
        {"annotations": "refcoco/refcocog_val.json"},
        "identify",
        f"{BEAR}/the legs of a teddy bear laying on some grass",
        PICTURE + "[identify] what object is in this location {<12><39><32><82>} [/INST]"
        "«the legs of a teddy bear laying on some grass###»",
    ),
    "textcaps": Real(
        {"annotations": "textcaps/TextCaps_0.1_train.sample.json"},
        "caption",
        "09efcb22ca121f57/100000001",
        PICTURE + "[caption] Briefly describe this image. [/INST]«the time is now 10 22 according to this clock###»",
        blank=("09efcb22ca121f57.jpg", 1024, 1024),
    ),
    "coco_captions": Real(
        {"annotations": "coco_captions/captions_val2014.subset4800.json"},
        "caption",
        "60623",
        PICTURE + "[caption] Briefly describe this image. [/INST]"
        "«a young girl inhales with the intent of blowing out a candle###»",
        "coco/val2014",
    ),
    "vqav2": Real(
        {"annotations": "vqav2/vqav2_restval.jsonl"},
        "vqa",
        "7386000",
        SHORT + "is the garage door open? [/INST]«yes###»",
        blank=("COCO_val2014_000000007386.jpg", 640, 480),
    ),
    "okvqa": Real(
        {"annotations": "okvqa/okvqa_test_split.json"},
        "vqa",
        "425",
        SHORT + "this holder is also called a shoe what? [/INST]«rack###»",  # eight of ten annotators; two say shelf
    ),
    "aokvqa": Real(
        {"annotations": "aokvqa/aokvqa_v1p0_val.json"},
        "vqa",
        "2N5sYXgyFqbDnuUhJFAWr5",
        SHORT + "what is the descriptive word for this surface? [/INST]«desk###»",  # said twice, all else once
        "coco/val2017",
    ),
    "gqa": Real(
        gqa,
        "vqa",
        "20136592",
        SHORT + "what color are the pants? [/INST]«red###»",
        blank=("n446242.jpg", 400, 300),
    ),
    "vsr": Real(
        {"annotations": "vsr/random/train.jsonl"},
        "statement",
        "000000000650.jpg/The cat is on top of the car.",
        PICTURE + "[vqa] Based on the image, is this statement true or false? The cat is on top of the car. [/INST]"
        "«true###»",
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_record_is_read_as_the_published_reader_reads_it(
    store: Store,
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    byte_tokenizer: PreTrainedTokenizerFast,
    name: str,
) -> None:
    case, source, data = REAL[name], catalog.source(name), shared / "data"
    assert isinstance(source, AnnotationsSource)
    monkeypatch.setenv("TINYGPTV_DATA", str(tmp_path / "data"))
    if callable(case.files):
        (tmp_path / "made.json").write_text(json.dumps(case.files(data)))
        files = {"annotations": str(tmp_path / "made.json")}
    else:
        files = {role: str(data / "annotations" / place) for role, place in case.files.items()}
    pictures = tmp_path / "data" / source.images.removeprefix("data:")
    if case.blank:
        place, *size = case.blank
        (pictures / place).parent.mkdir(parents=True)
        Image.new("RGB", (size[0], size[1])).save(pictures / place)
    else:
        pictures.parent.mkdir(parents=True)
        pictures.symlink_to(data / "images" / case.pictures)
    found = read_annotations(store, name, source.model_copy(update={"files": files, "split": None}))
    sample = next(sample for sample in found.samples if sample.key == case.key)
    assert read(byte_tokenizer, sample, case.task) == case.text


def test_real_answers_are_drawn_as_often_as_annotators_gave_them(store: Store, shared: Path) -> None:
    """Of the ten annotators of this question of OK-VQA, eight said rack and two shelf."""
    files = {"annotations": str(shared / "data/annotations/okvqa/okvqa_test_split.json")}
    changes = {"files": files, "images": str(shared / "data/images/coco/train2017")}
    source = catalog.source("okvqa").model_copy(update=changes)
    assert isinstance(source, AnnotationsSource)
    sample = next(sample for sample in read_annotations(store, "okvqa", source).samples if sample.key == "425")
    drawn = Counter(render(sample, "vqa", INPUTS, random.Random(seed))[0].answer for seed in range(2000))
    assert set(drawn) == {"rack", "shelf"}
    assert drawn["shelf"] / 2000 == pytest.approx(0.2, abs=0.03)


# Drawn twins

FIRST = (
    "«<p>a large blue cross</p> {<67><68><94><95>}, <p>a small purple cross</p> {<45><2><63><20>}, "
    "<p>a large blue cross</p> {<3><67><32><96>}, <p>a large blue cross</p> {<3><1><31><29>}###»"
)
CROSSES = (
    "«a large blue cross at the bottom left, a large blue cross at the top left, a large blue cross at the bottom "
    "right, a small purple cross at the top###»"
)
TWINS: dict[str, tuple[Task, str]] = {
    "shapes_align": (
        "describe",
        PICTURE + "Describe this image in detail. [/INST]"
        "«the picture shows one shape. there is a large green square at the top right.###»",
    ),
    "shapes_conversation": (
        "conversation",
        PICTURE + "can you see a large cross? [/INST]«yes###»¶[INST] where is the small cross? [/INST]«top###»"
        "¶[INST] what type of shape is the shape at the bottom left [/INST]«cross###»",
    ),
    "shapes_detail": (
        "explain",
        PICTURE
        + "what do you see happening in this image? [/INST]«the picture shows four shapes. there is a large blue "
        "cross at the bottom left. there is a large blue cross at the bottom right. there is a large blue cross at the "
        "top left. there is a small purple cross at the top.###»",
    ),
    "shapes_multitask": (
        "conversation",
        PICTURE
        + "[caption] Briefly describe this image. [/INST]«a blue cross, a blue cross, a purple cross and a blue "
        "cross###»¶[INST] [identify] what is it in {<67><68><94><95>} [/INST]«a large blue cross###»",
    ),
    "shapes_instructions": ("conversation", "¶[INST] Add the numbers.\nInput: 0 and 0 [/INST]«0###»"),
    "shapes_two_pictures": (
        "conversation",
        "¶[INST] Which picture has more shapes, <Img>▣▣</Img> or <Img>▣▣</Img>? Say where one of its shapes is. [/INST]"
        "«the first, a large blue cross {<67><68><94><95>}###»",
    ),
    "shapes_regions": (
        "refer",
        PICTURE + "[refer] give me the location of a large blue cross [/INST]«{<67><68><94><95>}###»",
    ),
    "shapes_refer": (
        "refer",
        PICTURE + "[refer] give me the location of blue cross at the bottom left [/INST]«{<3><67><32><96>}###»",
    ),
    "shapes_refs": (
        "refer",
        PICTURE + "[refer] give me the location of purple cross [/INST]«{<45><2><63><20>}###»",
    ),
    "shapes_identify": (
        "identify",
        PICTURE + "[identify] what object is in this location {<45><2><63><20>} [/INST]«a small purple cross###»",
    ),
    "shapes_grounded_caption": (
        "ground",
        PICTURE + f"[grounding] please describe this image in details [/INST]{FIRST}",
    ),
    "shapes_caption_to_phrase": (
        "detect",
        PICTURE + f"[detection] a blue cross, a purple cross, a blue cross and a blue cross [/INST]{FIRST}",
    ),
    "shapes_object_to_phrase": (
        "detect",
        PICTURE + "[detection] cross [/INST]«<p>cross</p> {<67><68><94><95>}<delim>{<3><1><31><29>}<delim>"
        "{<3><67><32><96>}<delim>{<45><2><63><20>}###»",
    ),
    "shapes_captions": (
        "caption",
        PICTURE
        + "[caption] Briefly describe this image. [/INST]«a large blue cross at the top left, a large blue cross at "
        "the bottom left, a large blue cross at the bottom right, a small purple cross at the top###»",
    ),
    "shapes_karpathy": ("caption", PICTURE + f"[caption] Briefly describe this image. [/INST]{CROSSES}"),
    "shapes_textcaps": ("caption", PICTURE + f"[caption] Briefly describe this image. [/INST]{CROSSES}"),
    "shapes_vqa": ("vqa", SHORT + "which color is the shape at the bottom left? [/INST]«blue###»"),
    "shapes_aokvqa": ("vqa", SHORT + "can you see a large blue cross? [/INST]«yes###»"),
    "shapes_gqa": ("vqa", SHORT + "is there a blue cross? [/INST]«yes###»"),
    "shapes_ocrvqa": ("vqa", SHORT + "is there a small cross? [/INST]«yes###»"),
    "shapes_statements": (
        "statement",
        PICTURE + "[vqa] Based on the image, is this statement true or false? there is a purple cross [/INST]«true###»",
    ),
}


@pytest.mark.usefixtures("small_corpus")
@pytest.mark.parametrize("name", TWINS)
def test_a_drawn_twin_is_read_as_what_it_stands_for(
    store: Store, byte_tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    source = catalog.source(name)
    assert isinstance(source, AnnotationsSource)
    task, text = TWINS[name]
    assert read(byte_tokenizer, read_annotations(store, name, source).samples[0], task) == text


def test_every_twin_is_among_them() -> None:
    drawn = {name for name in catalog.names("source") if name.startswith("shapes_") and "heldout" not in name}
    assert drawn == set(TWINS)
