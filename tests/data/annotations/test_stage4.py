"""Every dataset of stages 3 and 4, from a file in its published layout to the prompt and the labels, letter for letter.

Files lie where the shipped definitions look for them. Records were copied or abridged from the published files where
these are at hand, and written after the published readers where not.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from tinygptv import catalog
from tinygptv.data.annotations import read_annotations
from tinygptv.data.mixtures.shares import declared_shares, realised_shares
from tinygptv.data.prompting.prompts import render
from tinygptv.data.prompting.sequences import Sequences
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.recipe import Inputs
from tinygptv.definitions.source import AnnotationsSource
from tinygptv.sample import IGNORE_INDEX, IMAGE_SLOT, Sample
from tinygptv.shapes.twins import plain_pickle
from tinygptv.store.artifacts import Store

COCO = "coco/train2014/COCO_train2014_000000000009.jpg"
INST = "[INST] <Img></Img> {} [/INST]"


@dataclass
class Case:
    """Files below the data folder; the task; the prompts and answers that are wanted, image slots left out."""

    files: dict[str, Any]
    task: Task
    prompts: list[str]
    answers: list[str]
    image: str = COCO
    size: tuple[int, int] = (100, 50)
    drops: dict[str, int] = field(default_factory=dict)


def talk(*said: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(said)]


def llava(file: str, *said: str) -> dict[str, Any]:
    record = {"id": "000000000009", "image": "000000000009.jpg", "conversations": talk(*said)}
    return {f"llava/{file}.json": [record]}


def refer(folder: str, by: str, sentence: str) -> dict[str, Any]:
    base = {"image_id": 9, "category_id": 1, "file_name": "COCO_train2014_000000000009_3.jpg"}
    refs = [
        {**base, "ref_id": 7, "ann_id": 3, "split": "train", "sentences": [{"raw": sentence, "tokens": ["a"]}]},
        {**base, "ref_id": 8, "ann_id": 3, "split": "val", "sentences": [{"raw": "held out"}]},
    ]
    image = {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "width": 100, "height": 50}
    boxes = [{"id": 3, "image_id": 9, "bbox": [12.99, 10, 20, 39.9], "category_id": 1}]
    return {
        f"refcoco/{folder}/instances.json": {"info": {}, "images": [image], "annotations": boxes, "categories": []},
        f"refcoco/{folder}/refs({by}).p": plain_pickle(refs),
    }


REFERRED = "{<12><20><32><99>}"
SHORT = "[vqa] Based on the image, respond to this question with a short answer: "


def vqa(folder: str, prefix: str) -> dict[str, Any]:
    ids = {"image_id": 9, "question_id": 9001}
    answers = [{"answer": "Net.", "answer_confidence": "yes", "answer_id": place} for place in range(1, 11)]
    annotation = {**ids, "question_type": "what", "answer_type": "other", "answers": answers}
    return {
        f"{folder}/{prefix}OpenEnded_mscoco_train2014_questions.json": {
            "questions": [{**ids, "question": "What is this PHOTO taken: looking through?"}]
        },
        f"{folder}/{prefix}mscoco_train2014_annotations.json": {"annotations": [annotation]},
    }


CASES = {
    "cc_sbu_align": Case(
        {"cc_sbu_align/filter_cap.json": {"annotations": [{"image_id": "2", "caption": "A Dog. It runs!"}]}},
        "describe",
        ["Describe this image in detail."],
        ["A Dog. It runs!"],
        "cc_sbu_align/image/2.jpg",
    ),
    "multitask_conversation": Case(
        {
            "multitask_conversation/multitask_conversation.json": [
                {
                    "id": "000000000009",
                    "conversations": [
                        {"value": "<image>\n[vqa] What is it?"},
                        {"value": "a Dog"},
                        {"value": "[refer] the dog"},
                        {"value": "{<1><2><3><4>}"},
                    ],
                }
            ]
        },
        "conversation",
        ["[vqa] What is it?", "[INST] [refer] the dog [/INST]"],
        ["a Dog", "{<1><2><3><4>}"],
    ),
    "llava_conversation": Case(
        llava("conversation_58k", "What is it?\n<image>", "A Dog.", "Where?", "Here."),
        "conversation",
        ["What is it?", "[INST] Where? [/INST]"],
        ["A Dog.", "Here."],
    ),
    "llava_detail": Case(
        llava("detail_23k", "<image>\nDescribe the Scene, please.", "A Dog.", "left", "out"),
        "explain",
        ["describe the scene, please"],
        ["A Dog."],
    ),
    "llava_reason": Case(
        llava("complex_reasoning_77k", "Why?\n<image>", "Because (so)."), "explain", ["why?"], ["Because (so)."]
    ),
    "unnatural_instruction": Case(
        {
            "unnatural_instructions/filtered_unnatural_instruction.json": [
                {
                    "instruction": "Name it.",
                    "instances": [
                        {"instruction_with_input": "Name it.\nA", "constraints": "One Word.", "output": "Alpha."},
                        {"instruction_with_input": "never", "constraints": None, "output": "read"},
                    ],
                }
            ]
        },
        "conversation",
        ["[INST] Name it.\nA One Word. [/INST]"],
        ["Alpha."],
    ),
    "refvg": Case(
        {
            "visual_genome/image_data.json": [
                {"image_id": 1, "width": 800, "height": 600, "url": "https://x.org/rak248/VG_100K_2/1.jpg"}
            ],
            "visual_genome/region_descriptions.json": [
                {
                    "id": 1,
                    "regions": [
                        {
                            **{"region_id": 1382, "image_id": 1, "phrase": "The clock is green in colour"},
                            **{"x": 421, "y": 57, "width": 82, "height": 139},
                        },
                        {
                            **{"region_id": 1383, "image_id": 1, "phrase": "large"},
                            **{"x": 0, "y": 0, "width": 128, "height": 128},
                        },
                    ],
                }
            ],
        },
        "refer",
        ["[refer] give me the location of the clock is green in colour"],
        ["{<52><9><62><32>}"],
        "visual_genome/VG_100K_2/1.jpg",
        (800, 600),
        {"large_region": 1},
    ),
    "flickr_grounded_caption": Case(
        {"flickr30k/groundedcaption.json": [{"image_id": "36", "grounded_caption": "<p>A man</p> {<0><1><2><100>} ."}]},
        "ground",
        ["[grounding] please describe this image in details"],
        ["<p>A man</p> {<0><1><2><100>} ."],
        "flickr30k/images/36.jpg",
    ),
    "flickr_caption_to_phrase": Case(
        {
            "flickr30k/captiontobbox.json": [
                {"image_id": "36", "caption": "A man.", "output": "<p>A man</p> {<0><1><2><3>}<delim>{<4><5><6><7>}"}
            ]
        },
        "detect",
        ["[detection] A man."],
        ["<p>A man</p> {<0><1><2><3>}<delim>{<4><5><6><7>}"],
        "flickr30k/images/36.jpg",
    ),
    "flickr_object_to_phrase": Case(
        {"flickr30k/phrasetobbox.json": [{"image_id": "36", "phrase": "A man", "bbox": "{<0><1><2><3>}"}]},
        "detect",
        ["[detection] A man"],
        ["<p>A man</p> {<0><1><2><3>}"],
        "flickr30k/images/36.jpg",
    ),
    "textcaps": Case(
        {
            "textcaps/TextCaps_0.1_train.json": {
                "dataset_name": "textcaps",
                "data": [
                    {
                        "image_id": "09efcb22ca121f57",
                        "image_path": "train/09efcb22ca121f57.jpg",
                        "caption_id": 100000001,
                        "caption_str": "The time is now 10:22 according to this clock.",
                    }
                ],
            }
        },
        "caption",
        ["[caption] Briefly describe this image."],
        ["the time is now 10 22 according to this clock"],
        "textcaps/train_images/09efcb22ca121f57.jpg",
    ),
    "coco_karpathy": Case(
        {
            "coco/annotations/coco_karpathy_train.json": [
                {
                    "caption": "A woman wearing a net.",
                    "image": "train2014/COCO_train2014_000000000009.jpg",
                    "image_id": "coco_9",
                },
                {"caption": "x", "image": "val2014/COCO_val2014_000000522418.jpg", "image_id": "coco_522418"},
            ]
        },
        "caption",
        ["[caption] Briefly describe this image."],
        ["a woman wearing a net"],
        drops={"other_split": 1},
    ),
    "vqav2": Case(vqa("vqav2", "v2_"), "vqa", [SHORT + "what is this photo taken looking through?"], ["net"]),
    "okvqa": Case(vqa("okvqa", ""), "vqa", [SHORT + "what is this photo taken looking through?"], ["net"]),
    "aokvqa": Case(
        {
            "aokvqa/aokvqa_v1p0_train.json": [
                {
                    "split": "train",
                    "image_id": 9,
                    "question_id": "22MexNkBPpdZGX6sxbxVBH",
                    "question": "What is the man by the bags awaiting?",
                    "choices": ["skateboarder", "train", "delivery", "cab"],
                    "correct_choice_idx": 3,
                    "direct_answers": ["ride", "cab", "cab", "Taxi"],
                }
            ]
        },
        "vqa",
        [SHORT + "what is the man by the bags awaiting?"],
        ["cab"],
    ),
    "gqa": Case(
        {
            "gqa/train_balanced_questions.json": [
                {"question_id": "02930152", "image": "2354786.jpg", "question": "Is the sky dark?", "answer": "yes"}
            ]
        },
        "vqa",
        [SHORT + "is the sky dark?"],
        ["yes"],
        "gqa/images/2354786.jpg",
    ),
    "ocrvqa": Case(
        {
            "ocrvqa/dataset.json": {
                "0006": {
                    "imageURL": "http://ecx.images-amazon.com/images/I/51.jpg",
                    "questions": ["Who wrote this book?"],
                    "answers": ["Sandra Boynton"],
                    "title": "Mom's Calendar",
                    "genre": "Calendars",
                    "split": 1,
                },
                "0007": {"imageURL": "x.jpg", "questions": ["Who?"], "answers": ["She"], "split": 3},
            }
        },
        "vqa",
        [SHORT + "who wrote this book?"],
        ["sandra boynton"],
        "ocrvqa/images/0006.jpg",
        drops={"other_split": 1},
    ),
}
for name, folder, by in (("coco", "refcoco", "unc"), ("cocop", "refcoco+", "unc"), ("cocog", "refcocog", "umd")):
    files = refer(folder, by, "Left Dog!")
    CASES[f"ref{name}"] = Case(
        files, "refer", ["[refer] give me the location of left dog"], [REFERRED], drops={"other_split": 1}
    )
    asked = f"[identify] what object is in this location {REFERRED}"
    CASES[f"invref{name}"] = Case(files, "identify", [asked], ["left dog"], drops={"other_split": 1})


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TINYGPTV_DATA", str(tmp_path))
    return tmp_path


def the_sample(store: Store, data: Path, name: str) -> Sample:
    """The one usable sample of a case, read by the shipped definition; all else in the files is dropped as told."""
    case, source = CASES[name], catalog.source(name)
    assert isinstance(source, AnnotationsSource)
    for place, content in case.files.items():
        path = data / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    (data / case.image).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", case.size).save(data / case.image)
    (data / source.images.removeprefix("data:")).mkdir(parents=True, exist_ok=True)
    found = read_annotations(store, name, source)
    assert found.drops == case.drops
    (sample,) = found.samples
    assert {image.path for image in sample.images} <= {str(data / case.image)}
    return sample


@pytest.mark.parametrize("name", CASES)
def test_prompt_and_labels_are_what_the_published_reader_makes(
    store: Store, data: Path, byte_tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    case, sample = CASES[name], the_sample(store, data, name)
    inputs = Inputs(image_size=16, max_text_tokens=400, template="[INST] {} [/INST]", end_symbol="###")
    texts = Sequences(byte_tokenizer, inputs, 2).training([render(sample, case.task, inputs)])
    ids, learned = texts.input_ids[0], texts.labels[0] != IGNORE_INDEX
    shown = (ids != IMAGE_SLOT) & (ids != byte_tokenizer.bos_token_id)
    prompts = [text if text.startswith("[INST]") else INST.format(text) for text in case.prompts]
    assert byte_tokenizer.decode(ids[learned].tolist()) == "".join(f"{answer}###" for answer in case.answers)
    assert byte_tokenizer.decode(ids[shown & ~learned].tolist()) == "".join(prompts)
    assert int((ids == IMAGE_SLOT).sum()) == 2 * len(sample.images)


def test_every_component_of_stages_3_and_4_is_among_them() -> None:
    mixtures = [catalog.mixture(name) for name in ("stage3_instruct", "stage4_multitask", "stage4_by_sample")]
    components = {(component.source, component.task) for mixture in mixtures for component in mixture.components}
    assert components == {(name, case.task) for name, case in CASES.items()}


def test_the_published_ratios_are_kept() -> None:
    by_step, by_sample = catalog.mixture("stage4_multitask"), catalog.mixture("stage4_by_sample")
    assert sum(component.weight for component in by_step.components) == 730
    first = catalog.mixture("stage4_first_release")
    total = sum(component.weight for component in first.components)
    shares = {component.source: round(100 * component.weight / total, 1) for component in first.components}
    assert len(first.components) == 20
    assert (shares["multitask_conversation"], shares["llava_reason"], shares["gqa"]) == (3.8, 12.2, 11.5)
    assert (shares["refvg"], shares["refcocog"], shares["unnatural_instruction"]) == (9.2, 5.7, 0.8)
    assert len(by_step.components) == len(by_sample.components) == 22


@pytest.mark.parametrize(("name", "steps", "batch"), [("stage4_multitask", 10_000, 1), ("stage4_by_sample", 1_250, 8)])
def test_after_ten_thousand_draws_every_dataset_has_its_share(name: str, steps: int, batch: int) -> None:
    mixture = catalog.mixture(name)
    drawn = realised_shares(mixture, 42, steps, batch)
    assert drawn == pytest.approx(declared_shares(mixture), abs=0.001)


def test_published_oddities_make_text_alone_plain(store: Store, data: Path) -> None:
    sample = the_sample(store, data, "unnatural_instruction")
    odd = Inputs(
        image_size=16,
        max_text_tokens=99,
        template="[INST] {} [/INST]",
        end_symbol="###",
        oddities=["plain_without_image", "space_after_instruction"],
    )
    (turn,) = render(sample, "conversation", odd)
    assert (turn.instruction, turn.answer) == ("[INST] name it a one word [/INST]", "alpha")
