"""Annotation files in every layout, whole and damaged: no record is lost unnamed, no key unread, no image unseen.

A case is a file, or the files that a layout joins, of units: what belongs to one sample. Each unit is about a picture
of its own. A unit is good; or has a key more that nothing reads, or one that carries what somebody says; or an object
in which a key stands twice; or it is changed anyhow, after which it may be dropped, but nothing worse may happen. Good
ones are read whatever their neighbours are, unless bytes are changed anywhere in the file.
"""

import copy
import functools
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from PIL import Image

from tinygptv.artifacts import Store
from tinygptv.data.annotations import LAYOUTS, Annotations, read_annotations
from tinygptv.data.boxes import CODECS
from tinygptv.definitions.source import AnnotationsSource
from tinygptv.errors import DataError
from tinygptv.sample import IMAGE_PLACE, Sample

_WIDTH, _HEIGHT = 100, 50
_UNITS = 40
_WORDS = (
    "a",
    "cat",
    "été",
    "日本",
    "💩",
    '"quoted"',
    "50%",
    "{x}",
    "[y]",
    "\\n",
    "\u00a0",
    "\u2028",
    "a\nb",
    "<b>",
    "ﷺ",
)
_CARRYING = ("images", "img", "Image_Path", "videos", "messages", "history", "tools", "file_name")
_NAMES = (
    "image",
    "images",
    "Image",
    "img",
    "picture",
    "id",
    "ID",
    "key",
    "caption",
    "conversations",
    "split",
    "",
    "\ud83d",
)
_JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 7, -1, 0.5, 1e308, -1e308, float("nan"), float("inf"), 10**400, 2**63),
    *("", " ", "7", "0", "x" * 5000, "../../etc/passwd", "/etc/passwd", "a\0b", "caf\udce9", "\ud83d", "<image>"),
    *("<ImageHere>", "<box>", "<video>", "<img>1.jpg</img>", "{<0><0><0><0>}", "{<90><0><10><999>}", "system"),
    *([], {}, [[]], [{}], [None], [0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], [90, 40, 20, 20], ["a", "b"], {"a": {"b": []}}),
    functools.reduce(lambda inside, _: [inside], range(200), 0),
)
_TWICE = "__twice__"


class Unit(NamedTuple):
    """`parts`: objects by the name of the list they stand in; `keys`: of the samples they become."""

    parts: dict[str, Any]
    keys: list[str]
    images: int = 1


class Layout(NamedTuple):
    """How a unit of a number is made with a text, and how units lie in files."""

    unit: Callable[[int, str, Random], Unit]
    files: Callable[[list[dict[str, Any]], Random], dict[str, str]]


def cases(random: Random) -> bytes:
    """A description on one line, as JSON, and the bytes of the files behind it."""
    name = random.choice(sorted(_LAYOUTS))
    layout = _LAYOUTS[name]
    kinds = random.choice((["good"], ["good", "odd"], ["good", "carrying"], ["good", "twice"], ["good", "changed"]))
    units, good = [], 0
    keys: list[str] = []
    images: dict[str, int] = {}
    counts = Counter[str]()
    for number in random.sample(range(_UNITS), random.choice((1, 2, 3, 10, _UNITS))):
        unit = layout.unit(number, _text(number, random), random)
        kind = random.choice(kinds)
        changed = _CHANGES[kind](unit.parts, random)
        counts[kind] += 1
        units.append(changed)
        images |= dict.fromkeys(unit.keys, unit.images)
        if kind in ("good", "odd"):
            good += 1
            keys += unit.keys
    files = {role: _encoded(text, random) for role, text in layout.files(units, random).items()}
    if is_damaged := random.random() < 0.15:
        role = random.choice(sorted(files))
        files[role] = _damaged(files[role], random)
    said = {
        **{"format": name, "keys": keys, "images": images, "counts": counts, "is_damaged": is_damaged},
        "files": {role: len(content) for role, content in files.items()},
    }
    return json.dumps(said).encode() + b"\n" + b"".join(files.values())


def check(data: bytes) -> int:
    """Read it, and hold what comes out against what was written; how many records there were."""
    described, _, content = data.partition(b"\n")
    said = json.loads(described)
    with tempfile.TemporaryDirectory(prefix="fuzz-annotations-") as folder:
        places = {}
        for role, size in said["files"].items():
            path = Path(folder) / f"{role}.json"
            path.write_bytes(content[:size])
            content, places[role] = content[size:], str(path)
        made = AnnotationsSource(
            kind="annotations",
            about="",
            licence="",
            format=said["format"].split()[0],
            files=places,
            images=_pictures().name,
        )
        try:
            found = read_annotations(Store(folder), "fuzzed", made)
        except DataError as error:
            assert said["is_damaged"] or "corners" in str(error), f"a good file cannot be read: {error}"
            assert any(place in str(error) for place in places.values()), f"no file is named: {error}"
            str(error).encode()
            return 1
    _check_counts(found, said)
    for sample in found.samples:
        _check_sample(sample)
        assert found.not_read or said["is_damaged"] or len(sample.images) >= said["images"].get(sample.key, 0), (
            f"{sample.key} lost an image, and nothing says so"
        )
    return found.rows_in


def _check_counts(found: Annotations, said: dict[str, Any]) -> None:
    """Every record is kept or dropped by reason; every key that nothing reads is counted or the reason of a drop."""
    assert found.rows_in == len(found.samples) + found.drops.total(), "a record is neither kept nor dropped"
    assert bool(found.first_trouble) == bool(found.drops), "the first trouble is not told"
    json.dumps([found.first_trouble, found.not_read, found.drops], ensure_ascii=False).encode()
    kept = [sample.key for sample in found.samples]
    assert len(kept) == len(set(kept)), "a key is there twice"
    if said["is_damaged"]:
        return
    is_ambiguous = found.drops["duplicate_key"]  # a changed unit has the id of a good one
    assert is_ambiguous or set(said["keys"]) <= set(kept), f"lost: {set(said['keys']) - set(kept)}; {found.drops}"
    counts = Counter(said["counts"])
    if not counts["changed"]:
        odd = sum(count for what, count in found.not_read.items() if what.endswith("odd"))
        assert odd == counts["odd"] == found.not_read.total(), f"not read: {found.not_read}, of {counts}"
        carrying = sum(count for reason, count in found.drops.items() if reason.startswith("unknown_key_"))
        assert carrying == counts["carrying"], f"dropped: {found.drops}, of {counts}"
        assert found.drops["repeated_key"] == counts["twice"], f"dropped: {found.drops}, of {counts}"


def _check_sample(sample: Sample) -> None:
    """Marks are as many as images, boxes lie in the picture, texts can be written."""
    asked = [turn.instruction for turn in sample.turns]
    answers = [*(turn.answer for turn in sample.turns), *sample.answers]
    "".join((sample.key, sample.group, *asked, *answers, *(image.path for image in sample.images))).encode()
    assert all(turn.answer.strip() for turn in sample.turns), f"{sample.key} has an empty answer"
    places = sum(text.count(IMAGE_PLACE) for text in asked)
    assert places == 0 or places == len(sample.images) > 1, f"{sample.key}: {places} places of {len(sample.images)}"
    left = [text for text in asked if "<image>" in text.lower()]
    left += [text for text in answers if "<image>" in text.lower() or IMAGE_PLACE in text]
    assert not left, f"{sample.key} holds marks: {left}"
    written = [box for text in (*asked, *answers) for box in CODECS["percent"].read(text)]
    for x0, y0, x1, y1 in (*sample.boxes, *written):
        assert 0 <= x0 < x1 <= 1, f"{sample.key} has a box {x0, y0, x1, y1}"
        assert 0 <= y0 < y1 <= 1, f"{sample.key} has a box {x0, y0, x1, y1}"


@functools.cache
def _pictures() -> tempfile.TemporaryDirectory[str]:
    """One per unit, under the names that layouts know it by."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz-pictures-")
    (Path(folder.name) / "0.jpg").parent.mkdir(exist_ok=True)
    for number in range(_UNITS):
        for name in (f"{number}.jpg", f"COCO_train2014_{number:012d}.jpg"):
            Image.new("RGB", (_WIDTH, _HEIGHT)).save(Path(folder.name) / name)
    return folder


# Changes


def _text(number: int, random: Random) -> str:
    """No two are alike, and their ends are no white space."""
    return " ".join(("t", *random.choices(_WORDS, k=random.randrange(6)), str(number)))


def _junk(random: Random) -> Any:
    return copy.deepcopy(random.choice(_JUNK))


def _objects(parts: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of a unit, and those inside them that have keys of their own."""
    found = []
    for value in parts.values():
        if isinstance(value, dict):
            found.append(value)
            found += [
                each
                for inside in value.values()
                if isinstance(inside, list)
                for each in inside
                if isinstance(each, dict)
            ]
    return found


def _with_key(parts: dict[str, Any], random: Random, key: str, value: Any) -> dict[str, Any]:
    random.choice(_objects(parts))[key] = value
    return parts


def _odd(parts: dict[str, Any], random: Random) -> dict[str, Any]:
    return _with_key(parts, random, "odd", random.choice(_JUNK[1:4]))


def _carrying(parts: dict[str, Any], random: Random) -> dict[str, Any]:
    """One that no object of any layout reads, nor has."""
    return _with_key(parts, random, "dialogue", ["something"])


def _twice(parts: dict[str, Any], random: Random) -> dict[str, Any]:
    chosen = random.choice(_objects(parts))
    chosen[_TWICE] = random.choice(sorted(chosen))
    return parts


def _changed(parts: dict[str, Any], random: Random) -> dict[str, Any]:
    for _ in range(random.choice((1, 1, 2, 5))):
        chosen = random.choice(_objects(parts) or [parts])
        key = random.choice(sorted(chosen, key=str) or ["key"])
        change = random.randrange(7)
        if change == 0:
            chosen.pop(key, None)
        elif change == 1:
            chosen[random.choice(_NAMES)] = chosen.pop(key, None)
        elif change == 2:
            chosen[random.choice((*_NAMES, *_CARRYING))] = _junk(random)
        elif change == 3 and isinstance(chosen.get(key), str):
            chosen[key] = chosen[key] + random.choice([junk for junk in _JUNK if isinstance(junk, str)])
        elif change == 4:
            chosen[key] = [chosen.get(key)] * random.randrange(3)
        elif change == 5 and isinstance(chosen.get(key), list) and chosen[key]:
            chosen[key] = [*chosen[key], _junk(random)]
        else:
            chosen[key] = _junk(random)
    return parts


_CHANGES: dict[str, Callable[[dict[str, Any], Random], dict[str, Any]]] = {
    "good": lambda parts, _: parts,
    "odd": _odd,
    "carrying": _carrying,
    "twice": _twice,
    "changed": _changed,
}


def _encoded(text: str, random: Random) -> bytes:
    content = text.encode("utf-8", "surrogateescape" if "\ud83d" not in text else "surrogatepass")
    return content if random.random() < 0.8 else b"\xef\xbb\xbf" + content


def _damaged(content: bytes, random: Random) -> bytes:
    for _ in range(random.choice((1, 1, 3, 20))):
        start = random.randrange(len(content) + 1)
        piece = random.choice(
            (b"", b"\xff", b"\x00", b"{", b"]", b'"', b",", b"\n", b"[" * 50_000, b"1" * 5000, content[:50])
        )
        content = content[:start] + piece + content[start + random.choice((0, 0, 1, 10)) :]
    return content[: random.randrange(len(content) + 1)] if random.random() < 0.2 else content


# Layouts


def _json(value: Any, random: Random) -> str:
    """With one key of an object written twice, where a change says so."""
    if isinstance(value, dict):
        pairs = [(key, item) for key, item in value.items() if key != _TWICE]
        if _TWICE in value:
            pairs.insert(random.randrange(len(pairs) + 1), (value[_TWICE], random.choice(_JUNK[:7])))
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
    image = {"id": number, "file_name": f"{number}.jpg", "width": _WIDTH, "license": 1}
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
    record = {"img_id": img_id, "sents": text, "bbox": _box(random), "width": _WIDTH, "height": _HEIGHT}
    return Unit({"record": record}, [f"{img_id}/{text}"])


def _refs(number: int, text: str, random: Random) -> Unit:
    sentence = {"raw": text, "tokens": [], "sent_id": 1}
    image = {"id": number, "file_name": f"COCO_train2014_{number:012d}.jpg", "width": _WIDTH, "height": _HEIGHT}
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
        "width": _WIDTH,
        "height": _HEIGHT,
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


_LAYOUTS: dict[str, Layout] = {
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

assert {name.split()[0] for name in _LAYOUTS} == set(LAYOUTS)
