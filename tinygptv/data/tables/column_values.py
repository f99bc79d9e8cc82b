"""A column of any Arrow type → text, numbers or a digest, as a field of a row needs them.

Whether that is possible is decided from the type alone, before the first row; a value that is none is NULL and counted.
"""

from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tinygptv.data.columns.arrow import floats, number, text, texts

TEXTS = ("url", "caption", "uid", "licence", "nsfw", "table_sha256")
NUMBERS = ("similarity", "punsafe", "pwatermark")
PIXELS = ("table_width", "table_height")

_SPACE = r"[\s\p{Z}\p{Cc}]+"
_MOST_PIXELS = 2**31 - 1
_DIGEST_BYTES = 32
_DIGEST = "^[0-9a-f]{64}$"
_NSFW = {
    **dict.fromkeys(("NSFW", "TRUE", "YES", "Y", "T", "UNSAFE", "EXPLICIT", "PORN", "LIKELY", "VERY_LIKELY"), "NSFW"),
    **dict.fromkeys(("UNSURE", "POSSIBLE", "UNKNOWN"), "UNSURE"),
    **dict.fromkeys(("UNLIKELY", "VERY_UNLIKELY", "FALSE", "NO", "N", "F", "SAFE", "SFW"), "UNLIKELY"),
}
"""What tables say → LAION's marks; LIKELY and the like are Google Vision's."""

_UNSAFE_FROM = 0.5


class Values(NamedTuple):
    """Values of a column, NULL where there is none; `bad` marks those that are there but not what the field needs."""

    values: pa.Array
    bad: pa.Array

    @property
    def bad_count(self) -> int:
        """How many."""
        return int(self.bad.true_count)


Converter = Callable[[pa.Array], Values]


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values behind extension types, dictionaries and runs."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def plain(column: pa.Array) -> pa.Array:
    """The values behind extension types, dictionaries and runs."""
    while True:
        kind = column.type
        if isinstance(kind, pa.BaseExtensionType):
            column = column.storage
        elif pa.types.is_dictionary(kind):
            column = column.dictionary_decode()
        elif pa.types.is_run_end_encoded(kind):
            column = pc.run_end_decode(column)
        else:
            return column


def converter(field: str, kind: pa.DataType) -> Converter | None:
    """How a column of this type becomes the field's values; None if it cannot."""
    kind = plain_type(kind)
    if field in NUMBERS or field in PIXELS:
        convert = as_numbers if field in NUMBERS else as_pixels
        return convert if _is_text(kind) or _is_binary(kind) or _casts(kind, pa.float64()) else None
    if not (_is_binary(kind) or _casts(kind, pa.string())):
        return None
    return {"table_sha256": as_digests, "nsfw": as_nsfw}.get(field, as_texts)


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists, of whatever layout."""
    types = pa.types
    checks = (
        types.is_list,
        types.is_large_list,
        types.is_fixed_size_list,
        types.is_list_view,
        types.is_large_list_view,
    )
    return any(check(kind) for check in checks)


def as_texts(column: pa.Array) -> Values:
    """Text; bytes that are not UTF-8 are bad."""
    column = plain(column)
    if pa.types.is_null(column.type):
        return _good(pa.nulls(len(column), pa.string()))
    if not (_is_text(column.type) or _is_binary(column.type)):
        return _good(column.cast(pa.string()))
    # Parquet readers trust what they read: by way of bytes every text is checked.
    encoded = column.cast(pa.large_binary())
    try:
        return _good(encoded.cast(pa.string()))
    except pa.ArrowInvalid:
        known = texts([_decoded(value) for value in encoded.to_pylist()])
        return Values(known, pc.and_(pc.is_null(known), pc.is_valid(column)))


def as_numbers(column: pa.Array) -> Values:
    """Numbers; NaN and blank text are missing, other text is bad."""
    column = plain(column)
    if pa.types.is_null(column.type):
        return _good(pa.nulls(len(column), pa.float64()))
    if _is_text(column.type) or _is_binary(column.type):
        read, bad_text = as_texts(column)
        stripped = one_line(read)
        there = pc.if_else(is_blank(stripped), pa.nulls(len(column), pa.string()), stripped)
        try:
            numbers = there.cast(pa.float64())
            bad = bad_text
        except pa.ArrowInvalid:
            numbers = floats([_number(value) for value in there.to_pylist()])
            bad = pc.or_(bad_text, pc.and_(pc.is_valid(there), pc.is_null(numbers)))
    else:
        numbers, bad = column.cast(pa.float64(), safe=False), _none(len(column))
    return Values(pc.if_else(pc.is_nan(numbers), pa.nulls(len(column), pa.float64()), numbers), bad)


def as_pixels(column: pa.Array) -> Values:
    """Lengths in pixels: numbers above 0; 0 is missing, as some publishers write it."""
    numbers, bad = as_numbers(column)
    possible = pc.and_(pc.greater(numbers, number(0)), pc.less(numbers, number(_MOST_PIXELS)))
    pixels = pc.cast(pc.if_else(possible, numbers, pa.nulls(len(column), pa.float64())), pa.int32(), safe=False)
    impossible = pc.and_(pc.is_null(pixels), pc.fill_null(pc.not_equal(numbers, number(0)), False))
    return Values(pixels, pc.or_(bad, impossible))


def as_digests(column: pa.Array) -> Values:
    """SHA-256 in lower-case hexadecimal, from that in any case or from 32 bytes."""
    column = plain(column)
    if _is_binary(column.type):
        column = texts([None if value is None else _printed(value) for value in column.to_pylist()])
    read, bad = as_texts(column)
    found = pc.ascii_lower(one_line(read))
    is_digest = pc.fill_null(pc.match_substring_regex(found, _DIGEST), False)
    digests = pc.if_else(is_digest, found, pa.nulls(len(found), found.type))
    return Values(digests, pc.or_(bad, pc.invert(pc.or_(is_digest, is_blank(found)))))


def as_nsfw(column: pa.Array) -> Values:
    """LAION's marks NSFW, UNSURE and UNLIKELY, from those of others, truth values, and numbers from 0 to 1."""
    read, bad = as_texts(column)
    found = one_line(read).dictionary_encode()
    marks = texts([_mark(value) for value in found.dictionary.to_pylist()]).take(found.indices)
    unknown = pc.and_(pc.is_null(marks), pc.invert(is_blank(found.dictionary_decode())))
    return Values(marks, pc.or_(bad, unknown))


def one_line(column: pa.Array) -> pa.Array:
    """Every run of white space and control characters becomes one space."""
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(column, _SPACE, " "))


def is_blank(column: pa.Array) -> pa.Array:
    """Where a text is missing or empty."""
    return pc.equal(pc.fill_null(column, text("")), text(""))


def _casts(kind: pa.DataType, wanted: pa.DataType) -> bool:
    try:
        pa.nulls(1, kind).cast(wanted)
    except (pa.ArrowException, TypeError):
        return False
    return True


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    checks = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def _good(values: pa.Array) -> Values:
    return Values(values, _none(len(values)))


def _none(count: int) -> pa.Array:
    return pc.is_valid(pa.nulls(count))


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _number(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        return float({"true": "1", "false": "0"}.get(value.lower(), value))
    except ValueError:
        return None


def _printed(value: bytes) -> str:
    """The bytes of a digest in hexadecimal, or what is printed as text already."""
    return value.hex() if len(value) == _DIGEST_BYTES and not value.isascii() else value.decode("latin-1")


def _mark(value: str | None) -> str | None:
    if not value:
        return None
    score = _number(value)
    if score is not None:
        return ("NSFW" if score >= _UNSAFE_FROM else "UNLIKELY") if 0 <= score <= 1 else None
    return _NSFW.get(value.upper().replace(" ", "_"))
