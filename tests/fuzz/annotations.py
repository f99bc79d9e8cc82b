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
from typing import Any

from PIL import Image

from tests.fuzz.units import HEIGHT, LAYOUTS, TWICE, WIDTH
from tinygptv.data.annotations import Annotations, read_annotations
from tinygptv.data.prompting.boxes import CODECS
from tinygptv.definitions.source import AnnotationsSource
from tinygptv.errors import DataError
from tinygptv.sample import IMAGE_PLACE, Sample
from tinygptv.store.artifacts import Store

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


def cases(random: Random) -> bytes:
    """A description on one line, as JSON, and the bytes of the files behind it."""
    name = random.choice(sorted(LAYOUTS))
    layout = LAYOUTS[name]
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
        assert found.not_read or said["is_damaged"] or len(sample.images) >= said["images"].get(_unit(sample), 0), (
            f"{sample.key} lost an image, and nothing says so"
        )
    return found.rows_in


def _unit(sample: Sample) -> str:
    """The key of the unit that a sample was made of, whose number ends its texts; a changed one may have another's."""
    number = sample.turns[0].instruction.split()[-1:]
    return "".join(number) if number and number[0].isdigit() else sample.key


def _check_counts(found: Annotations, said: dict[str, Any]) -> None:
    """Every record is kept or dropped by reason; every key that nothing reads is counted or the reason of a drop."""
    assert found.rows_in == len(found.samples) + found.drops.total(), "a record is neither kept nor dropped"
    assert bool(found.first_trouble) == bool(found.drops), "the first trouble is not told"
    json.dumps([found.first_trouble, found.not_read, found.drops], ensure_ascii=False).encode()
    kept = [sample.key for sample in found.samples]
    assert len(kept) == len(set(kept)), "a key is there twice"
    if said["is_damaged"]:
        return
    counts, lost = Counter(said["counts"]), set(said["keys"]) - set(kept)
    is_ambiguous = found.drops["duplicate_key"]  # a changed unit has the id of a good one
    if said["format"].startswith("coco_caption"):  # or its caption belongs to a good one's picture, and spoils it
        is_ambiguous = is_ambiguous or len(lost) <= counts["changed"]
    assert is_ambiguous or not lost, f"lost: {lost}; {found.drops}"
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
            Image.new("RGB", (WIDTH, HEIGHT)).save(Path(folder.name) / name)
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
    chosen[TWICE] = random.choice(sorted(chosen))
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
