"""A WebP's first frame, chunk by chunk: coded pixels and transparency, and nothing else.

Colour profile, EXIF, XMP, unknown chunks and what trails the file are dropped; EXIF's orientation is read before. The
file's own size is not asked. Of an animation the first frame is given with its place on the canvas. Source: RFC 9649.
"""

from collections.abc import Iterable, Iterator

from tinygptv.data.pictures import jpeg
from tinygptv.data.pictures.formats import PictureError, Still

_HAS_ALPHA = 0x10
_PIXELS = (b"VP8 ", b"VP8L")


def read_still(body: bytes) -> Still:
    """Raises PictureError: truncated_image, damaged_image."""
    chunks = list(_chunks(body, 12))
    is_cut = not chunks or chunks[-1][2]
    coded = _by_name(chunks)
    exif = coded.get(b"EXIF", b"").removeprefix(b"Exif\0\0")
    canvas = size = coded.get(b"VP8X", b"")[4:10]
    left = top = 0
    if b"ANMF" in coded:
        frame = coded[b"ANMF"]
        left, top, size = 2 * _number(frame, 0), 2 * _number(frame, 3), frame[6:12]
        coded = _by_name(_chunks(frame, 16))
    pixels = next((name for name in _PIXELS if name in coded), None)
    if pixels is None or len(size) not in (0, 6):
        raise PictureError("truncated_image" if is_cut else "damaged_image")
    parts = [_chunk(pixels, coded[pixels])]
    if size:
        width, height = _number(canvas, 0) + 1, _number(canvas, 3) + 1
        if left + _number(size, 0) >= width or top + _number(size, 3) >= height:
            raise PictureError("damaged_image")
        has_alpha_chunk = pixels == b"VP8 " and b"ALPH" in coded
        flags = _HAS_ALPHA if has_alpha_chunk or pixels == b"VP8L" else 0
        alpha = [_chunk(b"ALPH", coded[b"ALPH"])] if has_alpha_chunk else []
        parts = [_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + size), *alpha, *parts]
    else:
        width, height = _coded_size(pixels, coded[pixels])
    content = b"WEBP" + b"".join(parts)
    return Still(
        data=b"RIFF" + len(content).to_bytes(4, "little") + content,
        width=width,
        height=height,
        left=left,
        top=top,
        orientation=jpeg.orientation_of(exif),
        is_animated=sum(name == b"ANMF" for name, _, _ in chunks) > 1,
        is_cut=is_cut,
    )


def _by_name(chunks: Iterable[tuple[bytes, bytes, bool]]) -> dict[bytes, bytes]:
    """The first chunk of each name."""
    found: dict[bytes, bytes] = {}
    for name, content, _ in chunks:
        found.setdefault(name, content)
    return found


def _chunks(body: bytes, position: int) -> Iterator[tuple[bytes, bytes, bool]]:
    """Name, content, and whether the file ends within it."""
    while position + 8 <= len(body):
        end = position + 8 + int.from_bytes(body[position + 4 : position + 8], "little")
        yield body[position : position + 4], body[position + 8 : end], end > len(body)
        position = end + (end & 1)


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + len(content).to_bytes(4, "little") + content + bytes(len(content) & 1)


def _number(content: bytes, start: int) -> int:
    return int.from_bytes(content[start : start + 3], "little")


def _coded_size(name: bytes, content: bytes) -> tuple[int, int]:
    if name == b"VP8 ":
        return int.from_bytes(content[6:8], "little") & 0x3FFF, int.from_bytes(content[8:10], "little") & 0x3FFF
    bits = int.from_bytes(content[1:5], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
