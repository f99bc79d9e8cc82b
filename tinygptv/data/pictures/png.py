"""A PNG's first frame, chunk by chunk: the chunks that pixels are made of, and nothing else.

- Ancillary chunks but tRNS, eXIf and those of an animation are dropped unread, whatever their size, checksum or place.
  gAMA, cHRM, sRGB, iCCP and cICP are among them: profiles are not converted.
- A wrong checksum of a critical chunk is damage, IDAT's too, as it is for libpng and so for browsers: nothing else
  guards the pixels. What stands behind the pixels may be damaged or missing.
- An animation's first frame is shown, as browsers do; a default image that is not part of it is for those who cannot.
- A picture with Apple's CgBI chunk, or another critical one that the standard does not know, is of another format.

Source: PNG, third edition (W3C, 2025), sections 5, 11.3.1 and 13.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from tinygptv.data.pictures import jpeg
from tinygptv.data.pictures.formats import PictureError, Still

_START = b"\x89PNG\r\n\x1a\n"
_NAME = re.compile(rb"[A-Za-z]{4}")
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_KEPT = (*_CRITICAL, b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")
_IS_ANCILLARY = 0x20

_DEPTHS = (1, 2, 4, 8, 16)
_GREY, _RGB, _PALETTE = 0, 2, 3


def read_still(body: bytes) -> Still:
    """Raises PictureError: unsupported_format, truncated_image, damaged_image."""
    chunks = list(_chunks(body))
    names = [name for name, _ in chunks]
    is_cut = b"IEND" not in names
    if b"IDAT" not in names:
        raise PictureError("truncated_image" if is_cut else "damaged_image")
    before = dict(chunks[: names.index(b"IDAT")])
    header = before.get(b"IHDR", b"")
    if len(header) != 13 or (header[9] == _PALETTE and b"PLTE" not in before):
        raise PictureError("damaged_image")
    width, height, bits, colour = struct.unpack_from(">IIBB", header)
    if bits not in _DEPTHS:
        raise PictureError("damaged_image")
    pixels, left, top = b"".join(content for name, content in chunks if name == b"IDAT"), 0, 0
    frames = int.from_bytes(before.get(b"acTL", b"")[:4], "big")
    if frames and b"fcTL" not in before and (first := _first_frame(chunks, width, height)):
        size, left, top, pixels = first
        header = size + header[8:]
    parts = [_chunk(b"IHDR", header)]
    if colour == _PALETTE:
        parts.append(_chunk(b"PLTE", before[b"PLTE"]))
    if transparent := _scaled(before.get(b"tRNS", b""), bits, colour):
        parts.append(_chunk(b"tRNS", transparent))
    return Still(
        data=b"".join((_START, *parts, _chunk(b"IDAT", pixels), _chunk(b"IEND", b""))),
        width=width,
        height=height,
        left=left,
        top=top,
        orientation=jpeg.orientation_of(dict(chunks).get(b"eXIf", b"")),
        is_animated=frames > 1,
        is_cut=is_cut,
    )


def _first_frame(chunks: list[tuple[bytes, bytes]], width: int, height: int) -> tuple[bytes, int, int, bytes] | None:
    """Of an animation that its default image is not part of: the coded size, left, top and pixels; None if it has none
    within the canvas."""
    frame: tuple[bytes, int, int] | None = None
    pixels = []
    for name, content in chunks:
        if name == b"fcTL":
            if frame is not None:
                break
            if len(content) != 26:
                return None
            across, down, left, top = struct.unpack_from(">IIII", content, 4)
            if left + across > width or top + down > height:
                return None
            frame = content[4:12], left, top
        elif name == b"fdAT" and frame is not None:
            pixels.append(content[4:])
    return (*frame, b"".join(pixels)) if frame is not None and pixels else None


def _chunks(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Those that count, with checksums that are right, up to the end of the file or of what is laid out as chunks.

    A cut IDAT is given as far as it goes. Raises PictureError.
    """
    position, has_pixels = len(_START), False
    while position + 8 <= len(body):
        length, name = int.from_bytes(body[position : position + 4], "big"), body[position + 4 : position + 8]
        end = position + 8 + length
        if not _NAME.fullmatch(name):
            if has_pixels:
                return
            raise PictureError("damaged_image")
        is_critical = not name[0] & _IS_ANCILLARY
        if is_critical and name not in _CRITICAL and not has_pixels:
            raise PictureError("unsupported_format")
        if name in _KEPT:
            content = body[position + 8 : end]
            is_right = body[end : end + 4] == zlib.crc32(content, zlib.crc32(name)).to_bytes(4, "big")
            is_cut = end + 4 > len(body)
            if not is_right and is_critical and not is_cut and name != b"IEND":
                raise PictureError("damaged_image")
            if is_right or (is_cut and name == b"IDAT"):
                yield name, content
            has_pixels |= name == b"IDAT"
        if name == b"IEND":
            return
        position = end + 4


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(name))
    return b"".join((len(content).to_bytes(4, "big"), name, content, checksum.to_bytes(4, "big")))


def _scaled(transparent: bytes, bits: int, colour: int) -> bytes:
    """A transparent colour in the scale of the eight bits that Pillow compares it in. It keeps 16 bits of grey."""
    if colour == _PALETTE:
        return transparent[:256]
    count = {_GREY: 1, _RGB: 3}.get(colour)
    if count is None or len(transparent) != 2 * count:
        return b""
    levels = struct.unpack(f">{count}H", transparent)
    if bits == 16:
        return transparent if colour == _GREY else struct.pack(">3H", *(level >> 8 for level in levels))
    most = (1 << bits) - 1
    return struct.pack(f">{count}H", *((level & most) * 255 // most for level in levels))
