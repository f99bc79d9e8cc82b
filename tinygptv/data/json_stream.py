"""A JSON array read item by item: BLIP's CapFilt list of LAION has 115 million items and does not fit in memory."""

import json
from collections.abc import Iterator
from typing import IO, Any

from tinygptv.errors import DataError

_CHUNK = 1 << 20
_LONGEST_ITEM = 1 << 24
_BETWEEN_ITEMS = " \t\r\n,"


def array_items(stream: IO[str], path: str) -> Iterator[Any]:
    """The items of the array in `stream`; `path` is for messages. Raises DataError where the text is not JSON."""
    decoder = json.JSONDecoder()
    buffer = stream.read(_CHUNK).lstrip("\ufeff \t\r\n")
    if not buffer.startswith("["):
        raise DataError(f"{path}: expected a JSON array, found {buffer[:40]!r}")
    position, count = 1, 0
    while True:
        while position < len(buffer) and buffer[position] in _BETWEEN_ITEMS:
            position += 1
        if buffer.startswith("]", position):
            return
        try:
            item, end = decoder.raw_decode(buffer, position)
        except ValueError as error:
            more = stream.read(_CHUNK)
            if not more or len(buffer) - position > _LONGEST_ITEM:
                raise DataError(f"{path}: not valid JSON after item {count}: {error}") from error
            buffer, position = buffer[position:] + more, 0
            continue
        yield item
        position, count = end, count + 1
