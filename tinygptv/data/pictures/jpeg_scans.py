"""Which bytes of a JPEG's scans code pixels, and which stray ones stand behind them.

Some cameras and programs leave bytes between the last pixel and the next marker. libjpeg warns of them with the words
it has for a picture that lost its place over a changed byte, so its warning decides nothing.
Here the codes of baseline scans are counted instead, without decoding what they stand for: a scan is whole if every
block is there, and what follows the last one is stray unless it could be more blocks. Counting takes half a second for
each megabyte, and is only done for pictures that the decoder complains of. A progressive scan just loses what fills its
end with one byte again and again; its decoder sees whether that was all. Source: ITU-T T.81, annexes B and F.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from tinygptv.data.pictures.jpeg import end_of_scan

_SEQUENTIAL, _PROGRESSIVE, _DHT, _EOI, _SOS, _DRI = (0xC0, 0xC1), 0xC2, 0xC4, 0xD9, 0xDA, 0xDD

_RESTART = re.compile(rb"(?<!\xff)\xff++[\xd0-\xd7]")

_END_OF_BLOCK = 100
"""Coefficients that the code for "no more" is taken to skip: more than a block has."""
_BLOCK_BYTES = 512
"""More than the codes of one block can take."""
_MIN_FILLING = 4
"""So many equal bytes behind a picture are filling."""

Table = list[int]
"""For the next 16 bits: 256 x coefficients skipped + bits taken by a code and the value behind it; 0 if not a code."""


class ScanError(ValueError):
    """A scan does not hold what its frame says, or is coded in a way that is not read here."""


@dataclass(slots=True)
class _State:
    """What the segments read so far have defined. Components: id → (horizontal, vertical) sampling."""

    width: int = 0
    height: int = 0
    components: dict[int, tuple[int, int]] = field(default_factory=dict)
    tables: dict[int, Table] = field(default_factory=dict)
    interval: int = 0
    is_progressive: bool = False
    sent: set[tuple[int, int]] = field(default_factory=set)
    """Of a progressive frame: components and the coefficients of them that came to the last bit."""


def without_stray_bytes(data: bytes) -> bytes:
    """The same picture with nothing between coded pixels and the marker after them. `data` has no metadata and ends
    with an end marker. Raises ScanError if a pixel of a baseline picture or a scan of a progressive one is missing."""
    try:
        return b"".join(_pieces(data))
    except (ValueError, LookupError, ArithmeticError, struct.error) as error:  # segments that do not fit together
        raise ScanError(str(error)) from error


def _pieces(data: bytes) -> Iterator[bytes]:
    yield data[:2]
    state, position = _State(), 2
    while data[position + 1] != _EOI:
        marker = data[position + 1]
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield data[position:end]
        _read_segment(state, marker, data[position + 4 : end])
        if marker == _SOS:
            scan_end = end_of_scan(data, end)
            coded = data[end:scan_end]
            if state.is_progressive:
                state.sent |= _sent_by(data[position + 4 : end])
                yield _without_filling(coded)
            else:
                yield from _scan(state, data[position + 4 : end], coded)
            end = scan_end
        position = end
    if state.is_progressive and len(state.sent) < 64 * len(state.components):
        raise ScanError("scans missing")
    yield data[position : position + 2]


def _read_segment(state: _State, marker: int, content: bytes) -> None:
    if marker in _SEQUENTIAL or marker == _PROGRESSIVE:
        state.is_progressive = marker == _PROGRESSIVE
        state.height, state.width, count = struct.unpack_from(">HHB", content, 1)
        parts = [content[6 + 3 * number : 9 + 3 * number] for number in range(count)]
        state.components = {part[0]: (part[1] >> 4, part[1] & 15) for part in parts}
    elif marker == _DRI:
        state.interval = int.from_bytes(content[:2], "big")
    elif marker == _DHT:
        while content:
            counts, total = content[1:17], sum(content[1:17])
            state.tables[content[0]] = _table(counts, content[17 : 17 + total], is_dc=content[0] < 16)
            content = content[17 + total :]


def _table(counts: bytes, symbols: bytes, is_dc: bool) -> Table:
    table = [0] * 65536
    code, taken = 0, 0
    for length, count in enumerate(counts, 1):
        for symbol in symbols[taken : taken + count]:
            run, bits = symbol >> 4, symbol & 15
            skipped = 0 if is_dc else _END_OF_BLOCK if symbol == 0 else run + 1
            room = 1 << 16 - length
            if code + room > len(table):
                raise ScanError("too many codes")
            table[code : code + room] = [skipped << 8 | length + bits] * room
            code += room
        taken += count
    return table


def _sent_by(header: bytes) -> set[tuple[int, int]]:
    """Components and coefficients whose last bit is in a progressive scan."""
    names = header[1 : 1 + 2 * header[0] : 2]
    first, last, precision = header[1 + 2 * header[0] :]
    return {(name, number) for name in names for number in range(first, last + 1)} if precision & 15 == 0 else set()


def _scan(state: _State, header: bytes, coded: bytes) -> Iterator[bytes]:
    """The bytes of a scan that code pixels, and its restart markers."""
    chosen = [(header[1 + 2 * number], header[2 + 2 * number]) for number in range(header[0])]
    sampling = [state.components[name] for name, _ in chosen]
    across, down = max(h for h, _ in state.components.values()), max(v for _, v in state.components.values())
    if len(chosen) == 1:  # not interleaved: blocks of one component, without those that only fill up an MCU
        (width, height) = sampling[0]
        units = -(-state.width * width // (8 * across)) * -(-state.height * height // (8 * down))
        sampling = [(1, 1)]
    else:
        units = -(-state.width // (8 * across)) * -(-state.height // (8 * down))
    blocks = [
        (state.tables[tables >> 4], state.tables[16 + (tables & 15)])
        for (_, tables), (width, height) in zip(chosen, sampling, strict=True)
        for _ in range(width * height)
    ]
    if not blocks:
        raise ScanError("a scan of nothing")
    restarts = list(_RESTART.finditer(coded))
    if len(restarts) != ((units - 1) // state.interval if state.interval else 0):
        raise ScanError("restart markers missing")
    borders = [(0, 0), *(found.span() for found in restarts), (len(coded), len(coded))]
    for number, ((_, start), (end, after)) in enumerate(pairwise(borders)):
        part = min(state.interval or units, units - number * state.interval)
        yield _coded_part(coded[start:end], blocks, part)
        if end < after:
            if coded[after - 1] != 0xD0 + number % 8:
                raise ScanError("restart markers out of order")
            yield coded[after - 2 : after]


def _coded_part(coded: bytes, blocks: list[tuple[Table, Table]], units: int) -> bytes:
    """Up to the byte that holds the last bit of `units` MCUs. Raises ScanError."""
    plain = coded.replace(b"\xff\0", b"\xff")
    padded = plain + bytes(_BLOCK_BYTES * len(blocks))
    last, position = 8 * len(plain), 0
    for _ in range(units):
        position = _after_unit(padded, blocks, position)
        if position > last:
            raise ScanError("pixels missing")
    taken = -(-position // 8)
    content = len(_without_filling(plain))  # what fills the end may begin behind the pixels, not among them
    if content < taken < len(plain) or (taken < content and not _is_stray(plain, padded, blocks, position)):
        raise ScanError("more pixels than the picture has")
    return coded[: taken + plain.count(0xFF, 0, taken)]


def _after_unit(padded: bytes, blocks: list[tuple[Table, Table]], position: int) -> int:
    """The bit after the MCU that begins at a bit."""
    for dc, ac in blocks:
        table, index = dc, 0
        while index < 64:
            at = position >> 3
            word = padded[at] << 16 | padded[at + 1] << 8 | padded[at + 2]
            step = table[word >> 8 - (position & 7) & 0xFFFF]
            if not step:
                raise ScanError("not a code")
            position += step & 0xFF
            index += step >> 8 if table is ac else 1
            table = ac
        if 64 < index < _END_OF_BLOCK:
            raise ScanError("a block of more than 64 values")
    return position


def _without_filling(coded: bytes) -> bytes:
    """Without the equal bytes at the end, if there are several. A part of a picture that was lost and is filled so is
    no filling: its codes would have to end where it begins."""
    rest = coded.rstrip(coded[-1:])
    return rest if len(coded) - len(rest) >= _MIN_FILLING else coded


def _is_stray(plain: bytes, padded: bytes, blocks: list[tuple[Table, Table]], position: int) -> bool:
    """Whether the pixels end where they seem to: at bits that fill a byte, as encoders write them, and with nothing
    behind that would itself be pixels up to its end. A picture that lost its place over a changed byte has such."""
    last = 8 * len(plain)
    if not _is_padding(plain, position, -(-position // 8) * 8):
        return False
    try:
        while position < last:
            position = _after_unit(padded, blocks, position)
            if 0 <= last - position < 8 and _is_padding(plain, position, last):
                return False
    except (ScanError, IndexError):
        return True
    return True


def _is_padding(plain: bytes, start: int, end: int) -> bool:
    """Whether fewer than eight bits, up to a byte's end, are all ones."""
    count = end - start
    return count == 0 or plain[end // 8 - 1] & (1 << count) - 1 == (1 << count) - 1
