"""Answers that say what their owner wants: not to be used, or to be asked later."""

import gzip
from collections.abc import Iterator

from tests.fuzz.messages import EARLY_HINTS, Production, bare, in_chunks, of_length, send, sleep, whole


def productions() -> Iterator[Production]:
    """These kinds."""
    for value in (
        b"noai",
        b"NOAI",
        b"noimageai",
        b"none",
        b"noindex, nofollow",
        b"max-snippet:1, noai",
        b"all,noai",
        b"*: noai",
        b"tinygptv-curation: noai",
        b"otherbot: all, tinygptv-curation: noimageindex",
    ):
        yield Production(f"X-Robots-Tag: {value.decode()}", "opted_out", of_length(b"X-Robots-Tag: " + value))
    yield Production("X-Robots-Tag in two fields", "opted_out", of_length(b"X-Robots-Tag: all", b"x-robots-tag: noai"))
    yield Production("X-Robots-Tag folded", "opted_out", of_length(b"X-Robots-Tag: all,\r\n noai"))
    yield Production(
        "X-Robots-Tag in chunks", "opted_out", in_chunks(b"Transfer-Encoding: chunked", b"X-Robots-Tag: noai")
    )
    yield Production(
        "X-Robots-Tag behind 103",
        "opted_out",
        lambda request, _: (
            send(EARLY_HINTS),
            sleep(0.02),
            send(whole(request.picture, b"X-Robots-Tag: noai")),
        ),
    )
    yield Production(
        "X-Robots-Tag on packed bytes",
        "opted_out",
        lambda request, _: (
            send(whole(gzip.compress(request.picture), b"Content-Encoding: gzip", b"X-Robots-Tag: noai")),
        ),
    )
    yield Production("tdm-reservation", "opted_out", of_length(b"TDM-Reservation: 1"))
    yield Production("X-Robots-Tag for others", "kept", of_length(b"X-Robots-Tag: otherbot: noai, noindex"))
    yield Production("X-Robots-Tag: all", "kept", of_length(b"X-Robots-Tag: all, max-image-preview:none"))
    for value in (
        b"0",
        b"-5",
        b"1.5",
        b"soon",
        b"",
        b"Wed, 21 Oct 2015 07:28:00 GMT",
        b"0, 0",
        b"\xd9\xa3",
        b"nan",
        b"1e3",
    ):
        yield Production(
            f"Retry-After: {value!r}",
            "lost",
            bare("503 Later", b"Retry-After: " + value, b"Content-Length: 0"),
        )
    for value in (b"3600", b"9" * 400, b"Fri, 31 Dec 9999 23:59:59 GMT", b"99999999999999999999999999"):
        yield Production(
            f"Retry-After: {value[:30]!r}",
            "lost",
            bare("503 Later", b"Retry-After: " + value, b"Content-Length: 0"),
            True,
        )
    yield Production("429", "lost", bare("429 Too Many Requests", b"Content-Length: 0"))
    yield Production("200 with Retry-After", "kept", of_length(b"Retry-After: 3600"))
