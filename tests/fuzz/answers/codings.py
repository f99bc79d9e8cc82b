"""Bodies that are packed, or are said to be."""

import gzip
import zlib
from collections.abc import Callable, Iterator

from tests.fuzz.messages import (
    CLOSE,
    Build,
    Production,
    chunks,
    head,
    send,
    whole,
)


def productions() -> Iterator[Production]:
    """These kinds."""

    def plain(body: bytes) -> bytes:
        return body

    for coding in (
        b"gzip",
        b"x-gzip",
        b"GZIP",
        b" gzip ",
        b"gzip,",
        b"identity, gzip",
        b"aws-chunked,gzip",
        b"gzip, identity",
    ):
        yield Production(f"coding {coding.decode()!r}", "kept", _coded(gzip.compress, coding))
    for coding in (b"identity", b"", b"aws-chunked", b"utf-8", b"UTF-8", b"none", b"binary", b"image/jpeg", b"8bit"):
        yield Production(f"coding {coding.decode()!r}", "kept", _coded(plain, coding))
    yield Production("gzip in many members", "kept", _coded(_members, b"gzip"))
    yield Production("gzip twice", "kept", _coded(lambda body: gzip.compress(gzip.compress(body)), b"gzip, gzip"))
    yield Production(
        "gzip in two fields", "kept", _coded(lambda body: gzip.compress(gzip.compress(body)), b"gzip", b"gzip")
    )
    yield Production("an unknown coding and gzip in two fields", "kept", _coded(gzip.compress, b"aws-chunked", b"gzip"))
    yield Production("deflate", "kept", _coded(zlib.compress, b"deflate"))
    yield Production("raw deflate", "kept", _coded(_raw_deflate, b"deflate"))
    yield Production("deflate, gzip", "kept", _coded(lambda body: gzip.compress(zlib.compress(body)), b"deflate, gzip"))
    yield Production(
        "gzip in chunks",
        "kept",
        lambda request, random: (
            send(head("200 OK", b"Content-Encoding: gzip", b"Transfer-Encoding: chunked")),
            send(chunks(gzip.compress(request.picture), random) + b"0\r\n\r\n"),
        ),
    )
    yield Production(
        "gzip up to the end",
        "kept",
        lambda request, _: (
            send(head("200 OK", b"Content-Encoding: gzip") + gzip.compress(request.picture)),
            CLOSE,
        ),
    )
    yield Production("gzip that is none", "either", _coded(plain, b"gzip"))
    yield Production("gzip and more", "either", _coded(lambda body: gzip.compress(body) + b"\0" * 64, b"gzip"))
    yield Production("gzip cut", "broken_off", _coded(lambda body: _half(gzip.compress(body)), b"gzip"))
    yield Production(
        "gzip of another length", "either", _coded(lambda body: gzip.compress(body)[:-4] + b"abcd", b"gzip")
    )
    yield Production("deflate cut", "broken_off", _coded(lambda body: _half(zlib.compress(body)), b"deflate"))
    yield Production("a bomb", "lost", _coded(lambda _: gzip.compress(bytes(30 << 20), 9), b"gzip"))
    yield Production(
        "a bomb in a bomb", "lost", _coded(lambda _: gzip.compress(gzip.compress(bytes(30 << 20))), b"gzip, gzip")
    )
    yield Production("many codings", "either", _coded(gzip.compress, b", ".join([b"gzip"] * 50)))
    yield Production("br that is none", "either", _coded(plain, b"br"))
    yield Production("zstd that is none", "either", _coded(plain, b"zstd"))
    yield Production("compress that is none", "either", _coded(plain, b"compress"))


def _coded(pack: Callable[[bytes], bytes], *codings: bytes) -> Build:
    """The picture as packed, under these codings, a field each."""
    return lambda request, _: (
        send(whole(pack(request.picture), *(b"Content-Encoding: " + coding for coding in codings))),
    )


def _raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()


def _half(body: bytes) -> bytes:
    return body[: len(body) // 2]


def _members(body: bytes) -> bytes:
    return b"".join(gzip.compress(body[start : start + 300]) for start in range(0, len(body), 300))
