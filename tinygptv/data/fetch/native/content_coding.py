"""Content codings undone, as RFC 9110 8.4 lists them and as servers really use them.

All fields are one list, undone from its end. A coding that nobody knows (`aws-chunked`, `utf-8`, `none`) leaves the
bytes as they are, as WHATWG Fetch does; what they are is read from them later.
"""

import zlib
from collections.abc import Callable

from tinygptv.data.fetch.guard import FetchError
from tinygptv.data.fetch.native.response import Fields

_GZIP, _ZLIB, _RAW = 31, 15, -15
"""zlib's window bits: a gzip member, a zlib stream, a deflate stream without either's head."""

_GZIP_MAGIC = b"\x1f\x8b"


class _TooLargeError(Exception):
    """More comes out than is wanted; `begun` is what there is."""

    def __init__(self, begun: bytes) -> None:
        super().__init__("too large")
        self.begun = begun


def is_coded(fields: Fields) -> bool:
    """Whether a known coding has to be undone."""
    return any(coding in _DECODERS for coding in fields.items_of("Content-Encoding"))


def decode(body: bytes, fields: Fields, max_bytes: int, is_cut: bool = False) -> bytes:
    """The body without its codings; if it `is_cut`, the beginning of one that would exceed `max_bytes`.

    Raises FetchError `too_large`, `truncated` or `bad_encoding`.
    """
    for coding in reversed(fields.items_of("Content-Encoding")):
        decoder = _DECODERS.get(coding)
        if decoder is None or not body:
            continue
        try:
            body = decoder(body, max_bytes)
        except _TooLargeError as error:
            if not is_cut:
                raise FetchError("too_large") from error
            body = error.begun
    return body


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    """Every member, one after the other; what follows the last one is no member and is left out."""
    pieces: list[bytes] = []
    size = 0
    while body.startswith(_GZIP_MAGIC) or not pieces:
        piece, body = _inflate(body, _GZIP, max_bytes - size)
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _undeflate(body: bytes, max_bytes: int) -> bytes:
    """A zlib stream as the RFC asks for, or the bare deflate stream that some servers send."""
    try:
        return _inflate(body, _ZLIB, max_bytes)[0]
    except FetchError as error:
        if error.failure != "bad_encoding":
            raise
        return _inflate(body, _RAW, max_bytes)[0]


def _inflate(body: bytes, window_bits: int, max_bytes: int) -> tuple[bytes, bytes]:
    """What one stream holds, and what follows it."""
    stream = zlib.decompressobj(window_bits)
    try:
        inflated = stream.decompress(body, max(1, max_bytes + 1))
    except zlib.error as error:
        raise FetchError("bad_encoding") from error
    if len(inflated) > max_bytes:
        raise _TooLargeError(inflated[:max_bytes])
    if not stream.eof:
        raise FetchError("truncated")
    return inflated, stream.unused_data


def _by_arrow(codec: str) -> Callable[[bytes, int], bytes]:
    """A decoder of one of Arrow's codecs."""

    def decoder(body: bytes, max_bytes: int) -> bytes:
        import pyarrow as pa  # few servers use what was not asked for

        pieces: list[bytes] = []
        size = 0
        try:
            with pa.CompressedInputStream(pa.BufferReader(body), codec) as stream:
                while piece := stream.read(min(1 << 16, max_bytes + 1 - size)):
                    pieces.append(piece)
                    size += len(piece)
                    if size > max_bytes:
                        raise _TooLargeError(b"".join(pieces)[:max_bytes])
        except OSError as error:
            raise FetchError("truncated" if "truncated" in str(error).lower() else "bad_encoding") from error
        return b"".join(pieces)

    return decoder


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _undeflate,
    "br": _by_arrow("brotli"),
    "zstd": _by_arrow("zstd"),
}
