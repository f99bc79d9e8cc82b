"""Units of annotations in every layout: the objects that become one sample, and the files that hold many of them."""

import json
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from tinygptv.data.annotations import LAYOUTS as READ

WIDTH, HEIGHT = 100, 50
"""Of every picture, in px."""

TWICE = "__twice__"
"""In an object: the key that is to be written twice."""


class Unit(NamedTuple):
    """`parts`: objects by the name of the list they stand in; `keys`: of the samples they become."""

    parts: dict[str, Any]
    keys: list[str]
    images: int = 1


class Layout(NamedTuple):
    """How a unit of a number is made with a text, and how units lie in files."""

    unit: Callable[[int, str, Random], Unit]
    files: Callable[[list[dict[str, Any]], Random], dict[str, str]]


def _json(value: Any, random: Random) -> str:
    """With one key of an object written twice, where a change says so."""
    if isinstance(value, dict):
        pairs = [(key, item) for key, item in value.items() if key != TWICE]
        if TWICE in value:
            pairs.insert(random.randrange(len(pairs) + 1), (value[TWICE], random.choice((None, True, 0, "7", []))))
        return "{" + ", ".join(f"{json.dumps(key)}: {_json(item, random)}" for key, item in pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_json(item, random) for item in value) + "]"
    text = json.dumps(value, ensure_ascii=random.random() < 0.5)
    return text.replace("\\udce9", "\udce9")


def _list(items: list[Any], random: Random) -> str:
    return _json(items, random)


def _listed(units: list[dict[str, Any]], random: Random) -> dict[str, str]:
    """One array, or JSON lines."""
    records = [unit["record"] for unit in units if "record" in unit]
    if random.random() < 0.5:
        return {"annotations": _list(records, random)}
    return {"annotations": "".join(_json(record, random) + random.choice(("\n", "\r\n", "\n\n")) for record in records)}


def _array(units: list[dict[str, Any]], random: Random) -> dict[str, str]:
    return {"annotations": _list([unit["record"] for unit in units if "record" in unit], random)}


def _below(key: str) -> Callable[[list[dict[str, Any]], Random], dict[str, str]]:
    def files(units: list[dict[str, Any]], random: Random) -> dict[str, str]:
        return {"annotations": f'{{"info": {{}}, "{key}": {_array(units, random)["annotations"]}}}'}

    return files


def _by_name(units: list[dict[str, Any]], random: Random) -> dict[str, str]:
    pairs = (f"{json.dumps(unit['name'])}: {_json(unit['record'], random)}" for unit in units if "record" in unit)
    return {"annotations": "{" + ", ".join(pairs) + "}"}


def _align(number: int, text: str, _: Random) -> Unit:
    return Unit({"record": {"image_id": number, "caption": text}}, [str(number)])


def _coco(number: int, text: str, _: Random) -> Unit:
    image = {"id": number, "file_name": f"{number}.jpg", "width": WIDTH, "license": 1}
    return Unit({"image": image, "record": {"image_id": number, "id": 7, "caption": text}}, [str(number)])


def _coco_files(units: list[dict[str, Any]], random: Random) -> dict[str, str]:
    images = [unit["image"] for unit in units if "image" in unit]
    annotations = [unit["record"] for unit in units if "record" in unit]
    return {"annotations": f'{{"images": {_list(images, random)}, "annotations": {_list(annotations, random)}}}'}


def _karpathy(number: int, text: str, _: Random) -> Unit:
    record = {"image": f"train2014/{number}.jpg", "image_id": f"coco_{number}", "caption": text}
    return Unit({"record": record}, [f"coco_{number}/{text}"])


def _textcaps(number: int, text: str, _: Random) -> Unit:
    record = {"image_id": str(number), "caption_id": number, "caption_str": text, "image_name": "x"}
    return Unit({"record": record}, [f"{number}/{number}"])


def _llava(number: int, text: str, random: Random) -> Unit:
    images, boxes = random.randrange(3), random.randrange(3)
    asked = "<image>" * images + text
    said = [("human", asked), ("gpt", text + " <box>" * boxes), ("human", text), ("gpt", text)][: random.choice((2, 4))]
    roles, texts, who = random.choice(
        (("from", "value", {}), ("role", "content", {"human": "user", "gpt": "assistant"}))
    )
    record: dict[str, Any] = {
        "id": number,
        random.choice(("conversations", "messages")): [
            {roles: who.get(name, name), texts: value} for name, value in said
        ],
    }
    if images:
        record[random.choice(("image", "images"))] = [f"{number}.jpg"] * images
    if boxes:
        record["boxes"] = [[0.1, 0.2, 0.3, 1]] * boxes
    return Unit({"record": record}, [str(number)], images)


def _multitask(number: int, text: str, _: Random) -> Unit:
    said = [{"value": f"<image>\n{text}"}, {"value": "{<10><20><30><40>}"}]
    return Unit({"record": {"id": f"{number:012d}", "conversations": said}}, [f"{number:012d}"])


def _unnatural(_number: int, text: str, _: Random) -> Unit:
    instance = {"instruction_with_input": text, "input": "x", "constraints": None, "output": text}
    return Unit({"record": {"instruction": "x", "instances": [instance]}}, [text], 0)


def _vqa(number: int, text: str, random: Random) -> Unit:
    given = [{"answer": text, "answer_id": place, "answer_confidence": "yes"} for place in range(2)]
    answers = random.choice((text, [text, text], given))
    record = {"image_id": number, "question_id": number, "question": text, "answers": answers}
    return Unit({"record": record}, [str(number)])


def _vqa_pair(number: int, text: str, random: Random) -> Unit:
    record = _vqa(number, text, random).parts["record"]
    asked = {"question_id": number, "question": record.pop("question"), "image_id": number}
    return Unit({"record": record, "question": asked}, [str(number)])


def _vqa_files(units: list[dict[str, Any]], random: Random) -> dict[str, str]:
    asked = [unit["question"] for unit in units if "question" in unit]
    questions = f'{{"license": {{}}, "questions": {_list(asked, random)}}}'
    return _below("annotations")(units, random) | {"questions": questions}


def _aokvqa(number: int, text: str, _: Random) -> Unit:
    record = {
        "image_id": number,
        "question_id": f"q{number}",
        "question": text,
        "direct_answers": [text],
        "choices": [],
    }
    return Unit({"record": record}, [f"q{number}"])


def _gqa(number: int, text: str, _: Random) -> Unit:
    record = {"imageId": str(number), "question": text, "answer": text, "isBalanced": True}
    return Unit({"name": str(number), "record": record}, [str(number)])


def _ocrvqa(number: int, text: str, random: Random) -> Unit:
    url = f"http://x.org/{number}.{random.choice(('jpg', 'gif', 'png', 'JPG'))}"
    record = {"imageURL": url, "questions": [text, text], "answers": [text, "x"], "split": 1, "title": "x"}
    return Unit({"name": str(number), "record": record}, [f"{number}/0", f"{number}/1"])


def _vsr(number: int, text: str, random: Random) -> Unit:
    record = {"image": f"{number}.jpg", "caption": text, "label": random.randrange(2), "relation": "on", "subj": "x"}
    return Unit({"record": record}, [f"{number}.jpg/{text}"])


def _box(random: Random) -> list[float]:
    """x, y, width, height, not like corners."""
    return [random.uniform(40, 60), random.randrange(20), random.uniform(2, 40), random.uniform(2, 25)]


def _refcoco(number: int, text: str, random: Random) -> Unit:
    img_id = f"COCO_train2014_{number:012d}_7"
    record = {"img_id": img_id, "sents": text, "bbox": _box(random), "width": WIDTH, "height": HEIGHT}
    return Unit({"record": record}, [f"{img_id}/{text}"])


def _refs(number: int, text: str, random: Random) -> Unit:
    sentence = {"raw": text, "tokens": [], "sent_id": 1}
    image = {"id": number, "file_name": f"COCO_train2014_{number:012d}.jpg", "width": WIDTH, "height": HEIGHT}
    box = {"id": number, "bbox": _box(random), "category_id": 1}
    ids = {"ref_id": number, "ann_id": number, "image_id": number, "split": "train"}
    key = f"COCO_train2014_{number:012d}_{number}/{text}"
    return Unit({"image": image, "box": box, "ref": {**ids, "sentences": [sentence]}}, [key])


def _refs_files(units: list[dict[str, Any]], random: Random) -> dict[str, str]:
    images, boxes, refs = ([unit[part] for unit in units if part in unit] for part in ("image", "box", "ref"))
    instances = f'{{"images": {_list(images, random)}, "annotations": {_list(boxes, random)}, "categories": []}}'
    return {"instances": instances, "refs": _list(refs, random)}


def _region(number: int, text: str, random: Random) -> Unit:
    x, y, width, height = _box(random)
    region = {"region_id": number, "image_id": number, "phrase": text, "x": x, "y": y, "width": width, "height": height}
    image = {
        "image_id": number,
        "width": WIDTH,
        "height": HEIGHT,
        "url": f"http://x.org/{number}.jpg",
        "coco_id": None,
    }
    return Unit({"image": image, "record": {"id": number, "regions": [region]}}, [str(number)])


def _region_files(units: list[dict[str, Any]], random: Random) -> dict[str, str]:
    return _array(units, random) | {"images": _list([unit["image"] for unit in units if "image" in unit], random)}


def _flickr(*fields: str) -> Callable[[int, str, Random], Unit]:
    def unit(number: int, text: str, _: Random) -> Unit:
        box = f"<p>{text}</p> {{<10><20><30><40>}}"
        values = {"grounded_caption": box, "caption": text, "output": box, "phrase": text, "bbox": "{<1><2><30><40>}"}
        record = {"image_id": number, **{field: values[field] for field in fields}}
        return Unit({"record": record}, [f"{number}/{record[fields[0]]}"])

    return unit


LAYOUTS: dict[str, Layout] = {
    "cc_sbu_align": Layout(_align, _below("annotations")),
    "coco_caption": Layout(_coco, _coco_files),
    "coco_karpathy": Layout(_karpathy, _array),
    "textcaps": Layout(_textcaps, _below("data")),
    "llava_conversation": Layout(_llava, _listed),
    "multitask_conversation": Layout(_multitask, _listed),
    "unnatural_instruction": Layout(_unnatural, _listed),
    "vqav2": Layout(_vqa, _listed),
    "vqav2 pair": Layout(_vqa_pair, _vqa_files),
    "aokvqa": Layout(_aokvqa, _listed),
    "gqa": Layout(_gqa, _by_name),
    "ocrvqa": Layout(_ocrvqa, _by_name),
    "vsr": Layout(_vsr, _listed),
    "refcoco": Layout(_refcoco, _listed),
    "invrefcoco": Layout(_refcoco, _listed),
    "refcoco refs": Layout(_refs, _refs_files),
    "visual_genome": Layout(_region, _region_files),
    "flickr_grounded_caption": Layout(_flickr("grounded_caption"), _listed),
    "flickr_caption_to_boxes": Layout(_flickr("caption", "output"), _listed),
    "flickr_phrase_to_boxes": Layout(_flickr("phrase", "bbox"), _listed),
}
"""By the layout's name, and behind it which of its ways to publish."""

assert {name.split()[0] for name in LAYOUTS} == set(READ)
