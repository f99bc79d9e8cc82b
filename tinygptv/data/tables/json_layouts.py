"""Tables of JSON: objects one per line or in an array, SBU's parallel lists, and LLaVA's chats."""

import itertools
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

from tinygptv.data.columns.urls import BASE_URL
from tinygptv.data.tables.column_choice import Column, Columns, Source, sidecar_name
from tinygptv.data.tables.dialects import looks_like_url
from tinygptv.data.tables.json_stream import array_items, member_items
from tinygptv.data.tables.table_bytes import open_text
from tinygptv.data.tables.table_rows import Records, records_of
from tinygptv.data.tables.text_lines import Bad, every_line
from tinygptv.errors import DataError

logger = logging.getLogger(__name__)

_LOOKED_AT = 1000
_PAIR = {"url": lambda item: item["url"], "caption": lambda item: item["caption"]}


def read_jsonl(source: Source) -> Iterator[Records]:
    """One object per line."""
    items = (_parsed(line) for line in every_line(source.path, source.head.coding))
    return _named(source, "JSON lines", items)


def read_capfilt(source: Source) -> Iterator[Records]:
    """[{"url": …, "caption": …}, …]."""
    with open_text(source.path, source.head.coding) as stream:
        yield from _named(source, "JSON array", array_items(stream, source.path))


def read_llava(source: Source) -> Iterator[Records]:
    """[{"id", "image", "conversations": [human, gpt]}, …]: `image` is a path below the base URL, and the first answer
    is the caption."""
    logger.info("table %s: LLaVA's chats, %s", source.file.relative, source.head.coding)
    with open_text(source.path, source.head.coding) as stream:
        pairs = (_llava_pair(item) for item in array_items(stream, source.path))
        yield from records_of(enumerate(pairs, start=1), _PAIR)


def read_sbu(source: Source) -> Iterator[Records]:
    """{"image_urls": […], "captions": […]}: parallel lists, each read by a stream of its own."""
    declared, coding = source.table.declared_columns, source.head.coding
    url, caption = str(declared.get("url", "image_urls")), str(declared.get("caption", "captions"))
    logger.info(
        "table %s: JSON of lists, %s; read url <- %s, caption <- %s", source.file.relative, coding, url, caption
    )
    with open_text(source.path, coding) as first, open_text(source.path, coding) as second:
        urls, captions = member_items(first, source.path, url), member_items(second, source.path, caption)
        yield from parallel(source.path, (url, urls), (caption, captions))


def parallel(path: str, urls: tuple[str, Iterator[Any]], captions: tuple[str, Iterator[Any]]) -> Iterator[Records]:
    """Two named lists, item by item. Raises DataError at the end of the shorter: then no pair can be trusted."""
    missing = object()

    def pairs() -> Iterator[tuple[int, Any]]:
        for number, pair in enumerate(itertools.zip_longest(urls[1], captions[1], fillvalue=missing), start=1):
            if missing in pair:
                (_, rest), (shorter, _) = (captions, urls) if pair[0] is missing else (urls, captions)
                more = 1 + sum(1 for _ in rest)
                raise DataError(
                    f"{path}: {shorter} ends after {number - 1} items, {more} before the other; "
                    "the lists must be parallel"
                )
            yield number, dict(zip(_PAIR, pair, strict=True))

    return records_of(pairs(), _PAIR)


def _llava_pair(item: Any) -> Any:
    if not (isinstance(item, dict) and "image" in item and isinstance(item.get("conversations"), list)):
        return Bad("wrong_columns", repr(item))
    turns = item["conversations"]
    answers = [turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") == "gpt"]
    image = item["image"]
    if isinstance(image, str) and image.strip() and not looks_like_url(image):
        image = f"{BASE_URL}/{image.strip().lstrip('/')}"
    return {"url": image, "caption": answers[0] if answers else None}


def _parsed(line: bytes) -> Any:
    text = line.decode("utf-8", "surrogateescape")
    try:
        return json.loads(text)
    except ValueError:
        return Bad("not_json", text)


def _named(source: Source, layout: str, items: Iterator[Any]) -> Iterator[Records]:
    """Items → records; the first thousand objects say which columns there are, for an object may leave some out."""
    head = list(itertools.islice(items, _LOOKED_AT))
    objects = [item for item in head if isinstance(item, dict)]
    names = list(dict.fromkeys(name for item in objects for name in item)) or list(_PAIR)

    def has_members(column: Column) -> bool:
        return any(_found(item, column) is not None for item in objects)

    columns = source.columns(f"{layout}, {source.head.coding}", names, has_members)
    getters = {field: _getter(source, column, names) for field, column in columns.fields.items()}
    checked = (
        item if isinstance(item, (dict, Bad)) else Bad("wrong_columns", repr(item))
        for item in itertools.chain(head, items)
    )
    return records_of(enumerate(checked, start=1), getters, _carrier(source, columns, names))


def _found(item: Any, column: Column) -> Any:
    for name in (column.name, *column.members):
        item = item.get(name) if isinstance(item, dict) else None
    return item


def _getter(source: Source, column: Column, names: list[str]) -> Callable[[Any], Any]:
    if column.place >= len(names):
        return lambda item: source.partition(column)
    return lambda item: _found(item, column)


def _carrier(source: Source, columns: Columns, names: list[str]) -> Callable[[Any], dict[str, Any]] | None:
    """What is taken along of an object; if that is everything, also what none of the first objects had."""
    if not columns.carried and not columns.carries_all:
        return None
    getters = {name: _getter(source, column, names) for name, column in columns.carried.items()}
    known = set(columns.names)

    def carry(item: dict[str, Any]) -> dict[str, Any]:
        new = {sidecar_name(name): item[name] for name in item if name not in known} if columns.carries_all else {}
        return new | {name: get(item) for name, get in getters.items()}

    return carry
