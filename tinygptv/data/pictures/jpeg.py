"""A JPEG's layout, read marker by marker: its size before decoding, where it ends, and what in it is metadata.

Nothing is decoded here, so a picture that only has to lose its camera and its place keeps its coded pixels to the bit.
"""

import re
import struct
from dataclasses import dataclass

START = b"\xff\xd8\xff"

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Start-of-frame markers: those numbers but for Huffman tables, an extension and arithmetic conditioning."""
_COMMENT, _JFIF, _EXIF, _ADOBE = 0xFE, 0xE0, 0xE1, 0xEE
_METADATA = frozenset(range(0xE0, 0xF0)) | {_COMMENT}
"""Application segments and comments."""

_HUFFMAN_CODED = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive. Browsers read no arithmetic coding, nor lossless and hierarchical frames."""

_MAX_SCANS = 100
"""A progressive file has about ten. Each costs a pass over all pixels, and thirty bytes are enough to ask for one."""

_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""But for those that mean nothing between segments: restarts and the one of arithmetic coding."""
_ORIENTATION = 0x0112


class TruncatedJpegError(ValueError):
    """The file ends before the picture does."""


class UnsupportedJpegError(ValueError):
    """The picture is coded in a way that no common decoder reads."""


@dataclass(frozen=True, slots=True)
class JpegLayout:
    """Size as coded, px, and the pieces of a file: `kept` are (start, end) of what the picture needs, in order."""

    width: int
    height: int
    components: int
    orientation: int
    kept: tuple[tuple[int, int], ...]
    has_gaps: bool
    """Whether bytes between segments belong to none: such may be what is left of a lost one."""

    def without_metadata(self, data: bytes) -> bytes:
        """The same picture without EXIF, XMP, IPTC, colour profile, thumbnails, comments and what trails its end."""
        if self.kept == ((0, len(data)),):
            return data
        return b"".join(data[start:end] for start, end in self.kept)


def read_layout(data: bytes) -> JpegLayout:
    """Walk the markers of a JPEG; bytes between segments that belong to none are skipped, as libjpeg does. Raises
    TruncatedJpegError if it has no end, UnsupportedJpegError, and ValueError if it is not laid out so."""
    frame: tuple[int, int, int] | None = None
    orientation = 1
    kept: list[tuple[int, int]] = [(0, 2)]
    position, scans, has_gaps = 2, 0, False
    while True:
        marker, start = _marker_at(data, position)
        has_gaps |= data.count(0xFF, position, start - 1) < start - 1 - position
        position = start - 2
        if marker == _EOI:
            _extend(kept, position, start)
            break
        if marker == _SOI:
            raise ValueError(f"a second picture begins at byte {position}")
        end = start + _length_at(data, start)
        if marker in _FRAMES and frame is None:
            frame = _read_frame(marker, data[start + 2 : end])
        if marker == _EXIF and data[start + 2 : start + 8] == b"Exif\0\0":
            orientation = orientation_of(data[start + 8 : end])
        if marker == _SOS:
            end, scans = end_of_scan(data, end), scans + 1
        if marker not in _METADATA or _says_colours(marker, data[start + 2 : min(end, start + 34)]):
            _extend(kept, position, end)
        position = end
    if frame is None:
        raise ValueError("no frame")
    if scans > _MAX_SCANS:
        raise ValueError(f"{scans} scans")
    return JpegLayout(*frame, orientation, tuple(kept), has_gaps)


def orientation_of(exif: bytes) -> int:
    """The orientation (1 to 8) in an EXIF block that begins with its TIFF header; 1 if it has none that makes sense."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, directory)
        for entry in range(entries):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, directory + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _read_frame(coding: int, content: bytes) -> tuple[int, int, int]:
    """Width and height, px, and components."""
    if len(content) < 6:
        raise ValueError(f"frame of {len(content)} bytes")
    bits, height, width, components = struct.unpack_from(">BHHB", content)
    if coding not in _HUFFMAN_CODED or bits != 8 or components not in (1, 3, 4):
        raise UnsupportedJpegError(f"frame {coding:#x} of {components} components of {bits} bits")
    if height == 0:
        raise UnsupportedJpegError("no frame with a size: its height is only said behind the first scan")
    if width == 0:
        raise ValueError("no frame with a size")
    return width, height, components


def _says_colours(marker: int, content: bytes) -> bool:
    """Whether decoders read from a segment how colours are coded. JFIF's may hold a thumbnail, and then goes too."""
    if marker == _JFIF:
        return content.startswith(b"JFIF\0") and len(content) == 14
    return marker == _ADOBE and content.startswith(b"Adobe") and len(content) < 32


def _marker_at(data: bytes, position: int) -> tuple[int, int]:
    """The next marker from a position on, and where what follows it starts."""
    found = _MARKER.search(data, position)
    if found is None:
        raise TruncatedJpegError
    return data[found.end() - 1], found.end()


def _length_at(data: bytes, start: int) -> int:
    if start + 2 > len(data):
        raise TruncatedJpegError
    (length,) = struct.unpack_from(">H", data, start)
    if start + length > len(data):
        raise TruncatedJpegError
    if length < 2:
        raise ValueError(f"segment of {length} bytes at {start}")
    return int(length)


def end_of_scan(data: bytes, position: int) -> int:
    """Where coded pixels end: at the first marker that is neither a restart nor a stuffed zero, or at the bytes that
    fill the space before it. Raises TruncatedJpegError."""
    found = _SCAN_END.search(data, position)
    if found is None:
        raise TruncatedJpegError
    end = found.start()
    while end > position and data[end - 1] == 0xFF:
        end -= 1
    return end


def _extend(kept: list[tuple[int, int]], start: int, end: int) -> None:
    """Add a piece, joined with the one before it where they touch."""
    if kept[-1][1] == start:
        kept[-1] = kept[-1][0], end
    else:
        kept.append((start, end))
