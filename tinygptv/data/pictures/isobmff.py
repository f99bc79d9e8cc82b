"""AVIF and HEIC: hide metadata items from decoders.

Item entries of EXIF, XMP and the like get an unknown type. Their bytes stay, because offsets count from the start of
the file. Orientation is a property of the picture, which decoders apply; an EXIF orientation is ignored. Source:
ISO/IEC 14496-12, 8.11.6; ISO/IEC 23008-12, annex A.
"""

import re
from collections.abc import Iterator

from tinygptv.data.pictures.formats import Still

_METADATA_ITEM = re.compile(rb"(infe(?:\x02[\s\S]{7}|\x03[\s\S]{9}))(Exif|mime|uri )")
"""An item's entry: version, flags, number, protection; then its type: EXIF, XMP (mime), or a URI."""
_NO_TYPE = b"free"


def read_still(body: bytes) -> Still:
    """The file with the type of EXIF, XMP and similar items replaced by an unknown one."""
    changed = bytearray(body)
    end = 0
    for name, start, end in _boxes(body):
        if name == b"meta":
            for found in _METADATA_ITEM.finditer(body, start, min(end, len(body))):
                changed[found.start(2) : found.end(2)] = _NO_TYPE
    return Still(data=bytes(changed), is_cut=end > len(body))


def _boxes(body: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start of the content and end of each top-level box."""
    position = 0
    while position + 8 <= len(body):
        size, start = int.from_bytes(body[position : position + 4], "big"), position + 8
        if size == 1:
            size, start = int.from_bytes(body[start : start + 8], "big"), start + 8
        end = position + size if size else len(body)
        yield body[position + 4 : position + 8], start, end
        position = max(end, start)
