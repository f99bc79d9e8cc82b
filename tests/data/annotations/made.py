"""Annotation sources made for a test: files of records beside a folder of pictures."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from tinygptv.data.annotations import Annotations, read_annotations
from tinygptv.definitions.source import AnnotationFormat, AnnotationsSource
from tinygptv.store.artifacts import Store

SIZE = (100, 50)
"""Width and height of every picture, in px."""


def source(
    folder: Path, layout: AnnotationFormat, files: dict[str, bytes], images: tuple[str, ...] = (), **more: Any
) -> AnnotationsSource:
    """A source whose files have these contents, and whose folder of pictures these names."""
    (folder / "images").mkdir(exist_ok=True)
    for name in images:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE).save(folder / "images" / name)
    for role, content in files.items():
        (folder / f"{role}.json").write_bytes(content)
    places = {role: str(folder / f"{role}.json") for role in files}
    return AnnotationsSource(
        kind="annotations",
        about="made up",
        licence="none",
        format=layout,
        files=places,
        images=str(folder / "images"),
        **more,
    )


def read(
    store: Store, folder: Path, layout: AnnotationFormat, *records: Any, images: tuple[str, ...] = ("1.jpg",)
) -> Annotations:
    """What is read of records in one list."""
    return read_files(store, folder, layout, {"annotations": json.dumps(records).encode()}, images)


def read_files(
    store: Store, folder: Path, layout: AnnotationFormat, files: dict[str, bytes], images: tuple[str, ...] = ()
) -> Annotations:
    """What is read of files with these contents, one for each role; every row is a sample or counted."""
    found = read_annotations(store, "made_up", source(folder, layout, files, images))
    assert found.rows_in == len(found.samples) + found.drops.total()
    return found


def real_source(data: Path, layout: AnnotationFormat, files: dict[str, str], images: str) -> AnnotationsSource:
    """A source over published files in `annotations/` of the reference data, whose pictures are in `images/`."""
    return AnnotationsSource(
        kind="annotations",
        about="real",
        licence="see its README",
        format=layout,
        files={role: str(data / "annotations" / path) for role, path in files.items()},
        images=str(data / "images" / images),
    )


def talk(*said: str, **more: Any) -> dict[str, Any]:
    """A record of LLaVA's layout, in which human and gpt speak in turn."""
    turns = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(said)]
    return {"id": "1", "conversations": turns, **more}
