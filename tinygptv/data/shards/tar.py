"""Tar archives as shards are: written as plain USTAR with fixed times and owners, read by offset from anyone's.

Python's `tarfile` costs more than everything else about a small member, so the 512-byte headers are made and read here.
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from tinygptv.errors import DataError

BLOCK = 512
END = bytes(2 * BLOCK)
"""Two empty blocks close an archive."""

_NAME_BYTES, _LARGEST = 100, 8**11
_SIZE, _CHECKSUM, _KIND, _SPACES = slice(124, 136), slice(148, 156), slice(156, 157), b" " * 8
_BETWEEN = b"0000644\0" + b"0000000\0" * 2
"""Mode, user and group, which lie between name and size."""
_AFTER = b"%011o\0" % 0 + _SPACES + b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
"""Time of change, the checksum's place as it counts, type, link, format, and what is not said."""
_CONSTANT_SUM = sum(_BETWEEN) + sum(_AFTER)

_REGULAR, _LONG_NAME, _PAX = (b"0", b"\0", b"7"), b"L", b"x"


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a regular file's content, as `tarfile` would write them. The name is ASCII."""
    if len(name) > _NAME_BYTES or size >= _LARGEST:
        raise ValueError(f"{name}: {size} bytes under a name of {len(name)} do not fit a USTAR header")
    start = name.encode("ascii").ljust(_NAME_BYTES, b"\0") + _BETWEEN + b"%011o\0" % size
    checksum = sum(start) - sum(_BETWEEN) + _CONSTANT_SUM
    return start + _AFTER[:12] + b"%06o\0 " % checksum + _AFTER[20:]


def entries(key: str, contents: Mapping[str, bytes]) -> list[bytes]:
    """A sample's files by extension, as they lie in an archive: for each a header, the content, and what fills its last
    block."""
    return [
        part
        for extension, content in contents.items()
        for part in (header(f"{key}.{extension}", len(content)), content, bytes(-len(content) % BLOCK))
    ]


class Member(NamedTuple):
    """One regular file in an archive: where its content lies, bytes."""

    name: str
    offset: int
    size: int


def members(archive: mmap.mmap | bytes, where: str) -> Iterator[Member]:
    """The regular files of an archive, in order; pax and GNU long names are followed.

    Raises DataError, naming `where` and how far it came, on a damaged header and on an end that comes too early:
    nothing after it could be trusted, and stopping in silence would lose it.
    """
    position, count = 0, 0
    overriding: dict[str, str] = {}
    while True:
        block = archive[position : position + BLOCK]
        if len(block) < BLOCK:
            raise DataError(f"{where}: ends at byte {position + len(block)} without an end mark, after {count} files")
        if not block[0]:
            if not any(block):
                return
            raise DataError(f"{where}: damaged header at byte {position}, after {count} files")
        _check(block, where, position, count)
        size = int(overriding.pop("size", "0")) or _number(block[_SIZE])
        offset = position + BLOCK
        if offset + size > len(archive):
            raise DataError(f"{where}: cut at byte {len(archive)}, within the file at {position}, after {count} files")
        kind = block[_KIND]
        if kind in _REGULAR:
            yield Member(overriding.pop("path", "") or _name(block), offset, size)
            count += 1
        elif kind == _LONG_NAME:
            overriding["path"] = archive[offset : offset + size].rstrip(b"\0").decode(errors="replace")
        elif kind == _PAX:
            overriding |= _pax_fields(archive[offset : offset + size])
        position = offset + size + -size % BLOCK


def _pax_fields(records: bytes) -> dict[str, str]:
    """What an extension header overrides; a record is its own length, a field and its value."""
    fields = {}
    while records:
        digits = records.partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        field, _, value = records[len(digits) + 1 : max(length - 1, 0)].partition(b"=")
        fields[field.decode(errors="replace")] = value.decode(errors="replace")
        records = records[length:] if length else b""
    return fields


def _check(block: bytes, where: str, position: int, count: int) -> None:
    """A header holds the sum of its own bytes, its own field counted as spaces.

    Sums are compared modulo 255, where 256 is 1 and a number equals the sum of its bytes: one division instead of 512
    additions, and no single changed bit escapes.
    """
    field = block[_CHECKSUM]
    try:
        stated = int(field.strip(b"\0 "), 8)
    except ValueError:
        stated = -1
    if stated < 0 or (int.from_bytes(block) - sum(field) + sum(_SPACES) - stated) % 255:
        raise DataError(f"{where}: damaged header at byte {position}, after {count} files")


def _number(field: bytes) -> int:
    """Octal text, or GNU's binary form for what is larger."""
    return int.from_bytes(field[1:]) if field[0] & 0x80 else int(field.strip(b"\0 ") or b"0", 8)


def _name(block: bytes) -> str:
    name = block[:_NAME_BYTES].rstrip(b"\0")
    prefix = block[345:500].rstrip(b"\0") if block[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode(errors="replace")


class Archive:
    """A shard's samples by key, read through a memory map; the headers are walked once, when it is opened.

    A sample is all files whose names differ only after the first dot, wherever in the archive they are. Raises
    DataError if the file is missing, empty, damaged or holds a name twice.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as stream:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise DataError(f"{path}: this shard is missing") from None
        except ValueError:  # what mmap says to an empty file
            raise DataError(f"{path}: this shard is empty") from None
        self.samples: dict[str, dict[str, Member]] = {}
        for member in members(self._map, str(path)):
            stem, _, extension = _split(member.name)
            sample = self.samples.setdefault(stem, {})
            if extension in sample:
                raise DataError(f"{path}: {member.name} occurs twice")
            sample[extension] = member

    def read(self, member: Member) -> bytes:
        """The content of one file."""
        return self._map[member.offset : member.offset + member.size]

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Each key, with the contents by extension, in the order of first appearance."""
        for key, files in self.samples.items():
            yield key, {extension: self._map[start : start + size] for extension, (_, start, size) in files.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()


def _split(name: str) -> tuple[str, str, str]:
    """`a/b.seg.png` → `a/b`, `.`, `seg.png`, as webdataset splits it."""
    folder, slash, file = name.rpartition("/")
    stem, dot, extension = file.partition(".")
    return folder + slash + stem, dot, extension
