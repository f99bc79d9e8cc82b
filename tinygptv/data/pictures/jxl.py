"""A JPEG XL's size and orientation, read from the first bits of its codestream. Source: ISO/IEC 18181-1, annex D."""

from dataclasses import dataclass

_BARE = b"\xff\x0a"
_HEADER_BYTES = 32
"""More than what is read here takes."""
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
"""Width over height."""


@dataclass(frozen=True, slots=True)
class Header:
    """Size as coded, px: before an orientation that turns it. None of the pixels is known to be there."""

    width: int
    height: int
    is_animated: bool


class _Bits:
    """Numbers from a stream that begins with the lowest bit of its first byte."""

    def __init__(self, data: bytes) -> None:
        self._rest, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def read(self, count: int) -> int:
        """Raises ValueError at the end."""
        if count > self._left:
            raise ValueError("the header is cut")
        number, self._rest, self._left = self._rest & (1 << count) - 1, self._rest >> count, self._left - count
        return number

    def choose(self, *widths: int) -> int:
        """A number whose two bits in front say how many bits it has."""
        return self.read(widths[self.read(2)])


def read_header(body: bytes) -> Header:
    """Of a bare codestream, or of one in boxes. Raises ValueError."""
    bits = _Bits(_codestream(body)[2:_HEADER_BYTES])
    width, height = _size(bits)
    is_animated = False
    if not bits.read(1) and bits.read(1):  # not all is as usual, and there are extra fields
        bits.read(3)  # orientation
        if bits.read(1):
            _size(bits)  # of display
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
    """Its beginning. In boxes it may be in parts of any size."""
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
            start += 4 if name == b"jxlp" else 0  # its number
            found += body[start : min(end, start + _HEADER_BYTES)]
        position = max(end, start)
    if not found.startswith(_BARE):
        raise ValueError("no codestream")
    return found
