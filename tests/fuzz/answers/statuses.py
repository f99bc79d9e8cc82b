"""Statuses, with and without a body, and what is no status line."""

from collections.abc import Iterator

from tests.fuzz.messages import CLOSE, HOLD, TIMEOUT_408, Production, bare, of_length, send, whole


def productions() -> Iterator[Production]:
    """These kinds."""
    yield Production("203", "kept", of_length(status="203 Non-Authoritative Information"))
    yield Production("no reason phrase", "kept", of_length(status="200"))
    yield Production("an empty reason phrase", "kept", of_length(status="200 "))
    yield Production(
        "a reason phrase beyond ASCII",
        "kept",
        lambda request, _: (send(whole(request.picture).replace(b"200 OK", "200 Données".encode())),),
    )
    yield Production("201", "either", of_length(status="201 Created"))
    yield Production("204", "lost", bare("204 No Content"))
    yield Production("204 with a length of 0", "lost", bare("204 No Content", b"Content-Length: 0"))
    yield Production("204 with a body", "either", of_length(status="204 No Content"))
    yield Production(
        "204 with chunks",
        "either",
        bare("204 No", b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n"),
    )
    yield Production("205", "lost", bare("205 Reset Content", b"Content-Length: 0"))
    yield Production("205 with a body", "either", of_length(status="205 Reset Content"))
    yield Production(
        "206",
        "either",
        lambda request, _: (
            send(
                whole(
                    request.picture[:50], b"Content-Range: bytes 0-49/%d" % len(request.picture), status="206 Partial"
                )
            ),
        ),
    )
    yield Production("304 unasked", "lost", bare("304 Not Modified", b'ETag: "a"'))
    yield Production(
        "304 with the length of what it stands for", "lost", bare("304 Not Modified", b"Content-Length: 700")
    )
    yield Production("304 with a body", "either", of_length(status="304 Not Modified"))
    yield Production("404 with a picture", "lost", of_length(status="404 Not Found"))
    yield Production(
        "404 in chunks", "lost", bare("404 No", b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n")
    )
    yield Production("404 up to the end", "lost", bare("404 Not Found", body=b"nothing here", end=(CLOSE,)))
    yield Production(
        "404 cut short", "lost", bare("404 Not Found", b"Content-Length: 90", body=b"nothing", end=(CLOSE,))
    )
    yield Production("410", "lost", bare("410 Gone", b"Content-Length: 0"))
    yield Production(
        "a page beyond any limit",
        "lost",
        bare("404 No", b"Content-Length: 9999999", body=b"x" * 9999, end=(HOLD,)),
    )
    yield Production("500", "lost", bare("500 Oh", b"Content-Length: 2", body=b"no"))
    yield Production("status 600", "lost", bare("600 What", b"Content-Length: 0"))
    yield Production("status 99", "lost", bare("99 What", b"Content-Length: 0"))
    yield Production("status 1000", "lost", bare("1000 What", b"Content-Length: 0", end=(CLOSE,)))
    yield Production("status 000", "lost", bare("000 What", b"Content-Length: 0"))
    yield Production("a status that is no number", "lost", bare("OK 200", b"Content-Length: 0"))
    yield Production("no HTTP at all", "lost", lambda request, _: (send(b"SSH-2.0-OpenSSH_9.7\r\n"), HOLD))
    yield Production("HTTP/0.9", "either", lambda request, _: (send(request.picture), CLOSE))
    yield Production("ICY", "either", lambda request, _: (send(whole(request.picture).replace(b"HTTP/1.1", b"ICY")),))
    yield Production("http in lower case", "either", lambda r, _: (send(whole(r.picture).replace(b"HTTP", b"http")),))
    yield Production("408 as the answer", "lost", lambda *_: (send(TIMEOUT_408), CLOSE))
    yield Production("421", "lost", bare("421 Misdirected Request", b"Content-Length: 0"))
