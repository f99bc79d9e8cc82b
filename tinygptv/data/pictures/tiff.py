"""A TIFF's first page: a new directory with the fields that pixels need, behind bytes that stay where they are.

Descriptions, profiles, XMP, IPTC, private fields and the directories of EXIF and GPS are left out of it, so that nobody
reads them. Classic and BigTIFF, in both byte orders. Source: TIFF 6.0 (Adobe, 1992); BigTIFF (Aware, 2007).
"""

import struct
from dataclasses import dataclass

from tinygptv.data.pictures.formats import PictureError, Still

_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _PLANES = 256, 257, 258, 274, 284
_PLACES, _LENGTHS = (273, 324), (279, 325)
_KEPT = frozenset(
    (
        *(_WIDTH, _HEIGHT, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325),
        *(338, 339, 347, *range(512, 522), *range(529, 533)),
    )
)
"""Sizes, depth, compression and colours, where strips and tiles lie, prediction, JPEG tables, and YCbCr's constants.
The orientation is read here and applied with the others'."""

_READ = (_WIDTH, _HEIGHT, _ORIENTATION, _BITS, _PLANES, *_PLACES, *_LENGTHS)

_LETTERS = {3: "H", 4: "I", 16: "Q"}
"""Types of whole numbers, in struct's letters."""
_MAX_VALUES = 1 << 20
"""Of strips or tiles; a picture has thousands."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a directory is written: byte order, and struct's letters for a count of fields and for an offset."""

    order: str
    count: str
    offset: str
    header_bytes: int

    def unpack(self, letters: str, data: bytes, start: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + letters, data, start)

    def size(self, letters: str) -> int:
        return struct.calcsize(self.order + letters)


def read_still(body: bytes) -> Still:
    """Raises PictureError: unsupported_format, truncated_image, damaged_image."""
    order = "<" if body.startswith(b"II") else ">"
    is_big = 43 in (body[2], body[3])
    kind = _Kind(order, "Q" if is_big else "H", "Q" if is_big else "I", 16 if is_big else 8)
    entry = f"HH{kind.offset}"
    entry_bytes = kind.size(entry) + kind.size(kind.offset)
    try:
        (directory,) = kind.unpack(kind.offset, body, kind.header_bytes - kind.size(kind.offset))
        (count,) = kind.unpack(kind.count, body, directory)
        start = directory + kind.size(kind.count)
        (following,) = kind.unpack(kind.offset, body, start + count * entry_bytes)
    except (struct.error, OverflowError):
        raise PictureError("truncated_image") from None
    kept: dict[int, bytes] = {}
    values: dict[int, tuple[int, ...]] = {}
    for position in range(start, start + count * entry_bytes, entry_bytes):
        tag, type_, number = kind.unpack(entry, body, position)
        if tag not in _KEPT and tag != _ORIENTATION:
            continue
        place = position + kind.size(entry)
        if tag in _READ:
            values.setdefault(tag, _values(kind, body, type_, number, place))
        if tag in _KEPT:
            kept.setdefault(tag, body[position : position + entry_bytes])
    width, height = (next(iter(values.get(tag, ())), 0) for tag in (_WIDTH, _HEIGHT))
    if not width or not height:
        raise PictureError("damaged_image")
    bits = values.get(_BITS, ())
    if len(bits) > 1 and max(bits) > 8 and values.get(_PLANES) == (2,):  # Pillow reads them as if they were 8
        raise PictureError("unsupported_format")
    end = max(
        (place + length for tags in zip(_PLACES, _LENGTHS, strict=True) for place, length in _strips(values, *tags)),
        default=0,
    )
    # Offsets count from the file's start, so the directory goes to its end, on an even byte.
    padded = body + bytes(len(body) & 1)
    header = body[: kind.header_bytes - kind.size(kind.offset)] + struct.pack(order + kind.offset, len(padded))
    fields = b"".join(kept[tag] for tag in sorted(kept))
    orientation = next(iter(values.get(_ORIENTATION, ())), 1)
    return Still(
        data=b"".join(
            (
                header,
                memoryview(padded)[kind.header_bytes :],
                struct.pack(order + kind.count, len(kept)),
                fields,
                bytes(kind.size(kind.offset)),
            )
        ),
        width=width,
        height=height,
        orientation=orientation if 1 <= orientation <= 8 else 1,
        is_animated=following != 0,
        is_cut=end > len(body),
    )


def _values(kind: _Kind, body: bytes, type_: int, number: int, place: int) -> tuple[int, ...]:
    """Whole numbers of a field; none if it has others, too many, or lies beyond the file."""
    letters = f"{number}{_LETTERS[type_]}" if type_ in _LETTERS and number <= _MAX_VALUES else ""
    if not letters:
        return ()
    if kind.size(letters) > kind.size(kind.offset):
        (place,) = kind.unpack(kind.offset, body, place)
    if place + kind.size(letters) > len(body):
        return ()
    return kind.unpack(letters, body, place)


def _strips(values: dict[int, tuple[int, ...]], places: int, lengths: int) -> list[tuple[int, int]]:
    return list(zip(values.get(places, ()), values.get(lengths, ()), strict=False))
