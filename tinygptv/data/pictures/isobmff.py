"""AVIF and HEIC: what is not the picture is taken out of the list of a file's items, so that no decoder looks for it.

The items' bytes stay, for offsets count from the file's start. The orientation is a property of the picture itself,
which decoders apply; one that EXIF says does not count. Source: ISO/IEC 14496-12, 8.11.6; ISO/IEC 23008-12, annex A.
"""

import re
from collections.abc import Iterator

from tinygptv.data.pictures.formats import Still

_METADATA_ITEM = re.compile(rb"(infe(?:\x02[\s\S]{7}|\x03[\s\S]{9}))(Exif|mime|uri )")
"""An item's entry: version, flags, number, protection; and its type, of EXIF, of XMP or of something else by a name."""
_NO_TYPE = b"free"


def read_still(body: bytes) -> Still:
    """The file with items of EXIF, XMP and the like turned into ones of a type that is not known."""
    changed = bytearray(body)
    end = 0
    for name, start, end in _boxes(body):
        if name == b"meta":
            for found in _METADATA_ITEM.finditer(body, start, min(end, len(body))):
                changed[found.start(2) : found.end(2)] = _NO_TYPE
    return Still(data=bytes(changed), is_cut=end > len(body))


def _boxes(body: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start of the content and end of each box of the file."""
    position = 0
    while position + 8 <= len(body):
        size, start = int.from_bytes(body[position : position + 4], "big"), position + 8
        if size == 1:
            size, start = int.from_bytes(body[start : start + 8], "big"), start + 8
        end = position + size if size else len(body)
        yield body[position + 4 : position + 8], start, end
        position = max(end, start)
