"""Content codings as servers use them."""

import gzip
import zlib

import pyarrow as pa
import pytest

from tinygptv.data.fetch.guard import FetchError
from tinygptv.data.fetch.native.content_coding import decode, is_coded
from tinygptv.data.fetch.native.response import Fields

BODY = b"\xff\xd8\xff" + b"a picture" * 100
LIMIT = 10_000


def fields(*codings: str) -> Fields:
    made = Fields()
    for coding in codings:
        made.add(f"Content-Encoding: {coding}")
    return made


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


def gzipped(body: bytes) -> bytes:
    """Without the time, for a test's name must not change with it."""
    return gzip.compress(body, mtime=0)


def packed(body: bytes, codec: str) -> bytes:
    return bytes(pa.compress(body, codec, asbytes=True))


@pytest.mark.parametrize(
    ("codings", "body"),
    [
        ((), BODY),
        (("",), BODY),
        (("identity",), BODY),
        (("aws-chunked",), BODY),
        (("UTF-8",), BODY),
        (("none, binary",), BODY),
        (("gzip",), gzipped(BODY)),
        (("X-GZip",), gzipped(BODY)),
        (("gzip",), gzipped(BODY[:50]) + gzipped(BODY[50:])),
        (("gzip",), gzipped(BODY) + bytes(64)),
        (("deflate",), zlib.compress(BODY)),
        (("deflate",), raw_deflate(BODY)),
        (("gzip, gzip",), gzipped(gzipped(BODY))),
        (("deflate", "gzip"), gzipped(zlib.compress(BODY))),
        (("aws-chunked,gzip",), gzipped(BODY)),
        (("br",), packed(BODY, "brotli")),
        (("zstd",), packed(BODY, "zstd")),
    ],
)
def test_codings_are_undone_from_the_last_to_the_first_and_unknown_ones_change_nothing(
    codings: tuple[str, ...], body: bytes
) -> None:
    assert decode(body, fields(*codings), LIMIT) == BODY


@pytest.mark.parametrize(
    ("coding", "body", "failure"),
    [
        ("gzip", gzipped(BODY)[:-20], "truncated"),
        ("deflate", zlib.compress(BODY)[:-20], "truncated"),
        ("zstd", packed(BODY, "zstd")[:-5], "truncated"),
        ("br", packed(BODY, "brotli")[:-5], "truncated"),
        ("gzip", BODY, "bad_encoding"),
        ("deflate", BODY, "bad_encoding"),
        ("zstd", BODY, "bad_encoding"),
        ("gzip", gzipped(bytes(LIMIT + 1)), "too_large"),
        ("gzip", gzipped(bytes(LIMIT)) + gzipped(b"more"), "too_large"),
        ("gzip, gzip", gzipped(gzipped(bytes(10 * LIMIT))), "too_large"),
        ("zstd", packed(bytes(LIMIT + 1), "zstd"), "too_large"),
        ("br", packed(bytes(LIMIT + 1), "brotli"), "too_large"),
    ],
)
def test_what_cannot_be_undone_has_a_name(coding: str, body: bytes, failure: str) -> None:
    with pytest.raises(FetchError, match=failure):
        decode(body, fields(coding), LIMIT)


def test_a_body_that_may_be_cut_gives_its_beginning() -> None:
    assert decode(gzipped(bytes(3 * LIMIT)), fields("gzip"), LIMIT, is_cut=True) == bytes(LIMIT)


def test_only_known_codings_count_as_such() -> None:
    assert [is_coded(fields(coding)) for coding in ("gzip", "utf-8, br", "aws-chunked", "identity")] == [
        *(True, True),
        *(False, False),
    ]
