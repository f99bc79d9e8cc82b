"""How an answer says where its body ends: by a length, in chunks, or by the end of the connection."""

import gzip
from collections.abc import Iterator

from tests.fuzz.messages import CLOSE, Production, bare, chunks, head, in_chunks, of_length, send, with_head


def productions() -> Iterator[Production]:
    """These kinds."""
    yield Production("a length", "kept", of_length())
    yield Production("a length and the end", "kept", of_length(b"Connection: close", end=(CLOSE,)))
    yield Production("close, unannounced", "kept", of_length(end=(CLOSE,)))
    yield Production("close, announced and not done", "kept", of_length(b"Connection: close"))
    yield Production(
        "keep-alive with a time", "kept", of_length(b"Keep-Alive: timeout=1, max=5", b"Connection: keep-alive")
    )
    yield Production("up to the end", "kept", lambda request, _: (send(head() + request.picture), CLOSE))
    yield Production("HTTP/1.0", "kept", of_length(version="1.0", end=(CLOSE,)))
    yield Production("HTTP/1.0 kept", "kept", of_length(b"Connection: keep-alive", version="1.0"))
    yield Production("HTTP/1.0 up to the end", "kept", lambda r, _: (send(head(version="1.0") + r.picture), CLOSE))
    yield Production("HTTP/1.2", "either", of_length(version="1.2"))
    yield Production("HTTP/2.0 in text", "either", of_length(version="2.0"))
    yield Production("chunks", "kept", in_chunks())
    yield Production("Chunked", "kept", in_chunks(b"transfer-encoding: Chunked"))
    yield Production("chunks and a length", "kept", in_chunks(b"Transfer-Encoding: chunked", b"Content-Length: 7"))
    yield Production("a length and chunks", "kept", in_chunks(b"Content-Length: 7", b"Transfer-Encoding: chunked"))
    yield Production("chunk extensions", "kept", in_chunks(extension=b';a=b;c="d e"'))
    yield Production("upper-case sizes", "kept", in_chunks(size="%X"))
    yield Production("sizes with leading zeros", "kept", in_chunks(size="%08x"))
    yield Production("space behind sizes", "either", in_chunks(size="%x  "))
    yield Production("trailers", "kept", in_chunks(last=b"0\r\nX-Checksum: 1\r\nETag: y\r\n\r\n"))
    yield Production("an opt-out in a trailer", "either", in_chunks(last=b"0\r\nX-Robots-Tag: noai\r\n\r\n"))
    yield Production("the last chunk as 000", "kept", in_chunks(last=b"000\r\n\r\n"))
    yield Production("chunks without the last line", "either", in_chunks(last=b"0\r\n", end=(CLOSE,)))
    yield Production("chunks without a last one", "either", in_chunks(last=b"", end=(CLOSE,)))
    yield Production(
        "chunks of bad size",
        "broken_off",
        bare("200 OK", b"Transfer-Encoding: chunked", body=b"xyz\r\nabc\r\n"),
    )
    yield Production(
        "a negative chunk",
        "broken_off",
        bare("200 OK", b"Transfer-Encoding: chunked", body=b"-5\r\nabcde\r\n"),
    )
    yield Production(
        "a huge chunk",
        "broken_off",
        bare("200 OK", b"Transfer-Encoding: chunked", body=b"f" * 17 + b"\r\nabc"),
    )
    yield Production("chunked twice", "either", in_chunks(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"))
    yield Production(
        "chunks with LF alone",
        "either",
        lambda r, random: (
            send(head("200 OK", b"Transfer-Encoding: chunked") + b"%x\n" % len(r.picture) + r.picture + b"\n0\n\n"),
            CLOSE,
        ),
    )
    yield Production(
        "gzip, chunked",
        "either",
        lambda r, random: (
            send(head("200 OK", b"Transfer-Encoding: gzip, chunked") + chunks(gzip.compress(r.picture), random)),
            send(b"0\r\n\r\n"),
        ),
    )
    yield Production("chunked, identity", "either", in_chunks(b"Transfer-Encoding: chunked, identity"))
    yield Production("identity, chunked", "either", in_chunks(b"Transfer-Encoding: identity, chunked"))
    yield Production("Transfer-Encoding: identity", "either", of_length(b"Transfer-Encoding: identity"))
    yield Production("an unknown Transfer-Encoding", "either", of_length(b"Transfer-Encoding: cow"))
    yield Production(
        "an unknown one up to the end",
        "either",
        lambda request, _: (
            send(head("200 OK", b"Transfer-Encoding: cow") + request.picture),
            CLOSE,
        ),
    )
    yield Production("lengths that agree", "either", with_head(b"Content-Length: @", b"Content-Length: @"))
    yield Production("a list of lengths that agree", "either", with_head(b"Content-Length: @, @"))
    yield Production("lengths that differ", "either", with_head(b"Content-Length: @", b"Content-Length: 9"))
    yield Production(
        "lengths that differ, shorter first", "either", with_head(b"Content-Length: 9", b"Content-Length: @")
    )
    yield Production("a list of lengths that differ", "either", with_head(b"Content-Length: 9, @"))
    yield Production("a signed length", "either", with_head(b"Content-Length: +@"))
    yield Production("a negative length", "either", with_head(b"Content-Length: -@"))
    yield Production("a length in hex", "either", with_head(b"Content-Length: 0x@"))
    yield Production("a length and text", "either", with_head(b"Content-Length: @abc"))
    yield Production("an empty length", "either", with_head(b"Content-Length: "))
    yield Production("leading zeros", "kept", with_head(b"Content-Length: 000000@"))
    yield Production("space around the length", "kept", with_head(b"Content-Length: \t @ \t"))
    yield Production("a length beyond numbers", "either", with_head(b"Content-Length: " + b"9" * 30))
    yield Production("a length beyond memory", "lost", with_head(b"Content-Length: 9223372036854775807"))
