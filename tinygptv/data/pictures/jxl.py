"""A JPEG XL's size and animation flag, read from the start of its codestream. Source: ISO/IEC 18181-1, annex D."""

from dataclasses import dataclass

_BARE = b"\xff\x0a"
_HEADER_BYTES = 32
"""More than the fields read here take."""
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
"""Width over height."""


@dataclass(frozen=True, slots=True)
class Header:
    """Coded size in px, before orientation. Does not imply that the pixels are present."""

    width: int
    height: int
    is_animated: bool


class _Bits:
    """Reads numbers from a bit stream, least significant bit first."""

    def __init__(self, data: bytes) -> None:
        self._rest, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def read(self, count: int) -> int:
        """Read a number of `count` bits. Raises ValueError at the end."""
        if count > self._left:
            raise ValueError("the header is cut")
        number, self._rest, self._left = self._rest & (1 << count) - 1, self._rest >> count, self._left - count
        return number

    def choose(self, *widths: int) -> int:
        """Read a number whose width is selected by the two bits before it."""
        return self.read(widths[self.read(2)])


def read_header(body: bytes) -> Header:
    """Read the header of a bare or boxed codestream. Raises ValueError."""
    bits = _Bits(_codestream(body)[2:_HEADER_BYTES])
    width, height = _size(bits)
    is_animated = False
    if not bits.read(1) and bits.read(1):  # not all_default, and extra_fields
        bits.read(3)  # orientation
        if bits.read(1):
            _size(bits)  # intrinsic size
        has_preview = bits.read(1)
        is_animated = not has_preview and bool(bits.read(1))
    return Header(width, height, is_animated)


def _size(bits: _Bits) -> tuple[int, int]:
    def side() -> int:
        return 8 * (bits.read(5) + 1) if is_small else bits.choose(9, 13, 18, 30) + 1

    is_small = bool(bits.read(1))
    height = side()
    ratio = _RATIOS.get(bits.read(3))
    width = side() if ratio is None else height * ratio[0] // ratio[1]
    return width, height


def _codestream(body: bytes) -> bytes:
    """The beginning of the codestream, which may be split over boxes of any size."""
    if body.startswith(_BARE):
        return body
    found, position = b"", 0
    while position + 8 <= len(body) and len(found) < _HEADER_BYTES:
        size, start = int.from_bytes(body[position : position + 4], "big"), position + 8
        name = body[position + 4 : start]
        if size == 1:
            size, start = int.from_bytes(body[start : start + 8], "big"), start + 8
        end = position + size if size else len(body)
        if name in (b"jxlc", b"jxlp"):
            start += 4 if name == b"jxlp" else 0  # index of the part
            found += body[start : min(end, start + _HEADER_BYTES)]
        position = max(end, start)
    if not found.startswith(_BARE):
        raise ValueError("no codestream")
    return found
