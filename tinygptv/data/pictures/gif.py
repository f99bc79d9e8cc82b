"""A GIF's first frame, block by block: its palette, its transparent colour and its pixels.

Comments, plain texts and application extensions are dropped, and bytes between blocks skipped. What the frame leaves of
its screen is transparent, whatever the screen's background says, and a frame larger than its screen enlarges it, as in
browsers. Source: GIF89a specification (CompuServe, 1990).
"""

import struct

from tinygptv.data.pictures.formats import PictureError, Still

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL = 0xF9
_HAS_PALETTE, _PALETTE_SIZE = 0x80, 0x07


def read_still(body: bytes) -> Still:
    """Raises PictureError: truncated_image if no frame begins."""
    if len(body) < 13:
        raise PictureError("truncated_image")
    width, height, flags, background = struct.unpack_from("<HHBB", body, 6)
    start = 13 + _palette_bytes(flags)
    palette, position = body[13:start], start
    image, control = _next_image(body, position)
    if image + 10 > len(body):
        raise PictureError("truncated_image")
    left, top, frame_width, frame_height, frame_flags = struct.unpack_from("<HHHHB", body, image + 1)
    end = _end_of_blocks(body, image + 11 + _palette_bytes(frame_flags))
    following, _ = _next_image(body, end)
    screen = struct.pack("<HHBBB", frame_width, frame_height, flags, background, 0)
    frame = struct.pack("<BHHHHB", _IMAGE, 0, 0, frame_width, frame_height, frame_flags)
    return Still(
        data=b"".join((b"GIF89a", screen, palette, control, frame, body[image + 10 : end], bytes([_TRAILER]))),
        width=max(width, left + frame_width),
        height=max(height, top + frame_height),
        left=left,
        top=top,
        is_animated=following < len(body),
        is_cut=end > len(body) or not body.rstrip(b"\0").endswith(bytes([_TRAILER])),
    )


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & _PALETTE_SIZE) + 1 if flags & _HAS_PALETTE else 0


def _next_image(body: bytes, position: int) -> tuple[int, bytes]:
    """Where the next image begins, or the end of the file, and the graphic control extension that counts for it."""
    control = b""
    while position < len(body) and body[position] != _TRAILER:
        if body[position] == _IMAGE:
            return position, control
        if body[position] != _EXTENSION:
            position += 1
            continue
        end = _end_of_blocks(body, position + 2)
        if body[position + 1 : position + 3] == bytes([_GRAPHIC_CONTROL, 4]) and position + 8 <= len(body):
            control = body[position : position + 7] + b"\0"
        position = end
    return len(body), control


def _end_of_blocks(body: bytes, position: int) -> int:
    """Behind the empty block that ends a chain of blocks; more than the file's size if it ends before."""
    while position < len(body) and body[position]:
        position += 1 + body[position]
    return position + 1
