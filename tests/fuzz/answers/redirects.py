"""Answers that say where else the picture is."""

from collections.abc import Iterator

from tests.fuzz.messages import (
    CLOSE,
    EARLY_HINTS,
    Build,
    Part,
    Production,
    bare,
    head,
    length,
    send,
    sleep,
    whole,
)


def productions() -> Iterator[Production]:
    """These kinds."""
    for status in ("301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"):
        yield Production(f"{status[:3]} to a path", "kept", _moved(status, "{path}/there"))
    yield Production("a redirect with a body", "kept", _moved("302 Found", "{path}/there", b"<html>" * 50))
    yield Production("a redirect with a long body", "kept", _moved("302 Found", "{path}/there", b"x" * 200_000))
    yield Production("a redirect and the end", "kept", _moved("302 Found", "{path}/there", end=(CLOSE,)))
    yield Production("a redirect in UTF-8", "kept", _moved("302 Found", "{path}/été"))
    yield Production("a redirect with spaces", "kept", _moved("302 Found", "{path}/a b c"))
    yield Production("a redirect with backslashes", "kept", _moved("302 Found", "{path}\\a\\b"))
    yield Production("a redirect with dots", "kept", _moved("302 Found", "/x/..{path}/./a"))
    yield Production("a redirect with a fragment", "kept", _moved("302 Found", "{path}/a#part"))
    yield Production("a redirect with a query", "kept", _moved("302 Found", "{path}/a?b=c&d=%20"))
    yield Production(
        "a redirect behind 103",
        "kept",
        lambda request, _: (
            send(EARLY_HINTS),
            sleep(0.02),
            send(head("302 Found", f"Location: {request.path}/a".encode(), b"Content-Length: 0")),
        ),
    )
    yield Production(
        "a redirect in chunks",
        "kept",
        lambda request, _: (
            send(
                head("302 Found", f"Location: {request.path}/a".encode(), b"Transfer-Encoding: chunked")
                + b"1\r\nx\r\n0\r\n\r\n"
            ),
        ),
    )
    yield Production(
        "a redirect up to the end",
        "kept",
        lambda request, _: (
            send(head("302 Found", f"Location: {request.path}/a".encode()) + b"Moved."),
            CLOSE,
        ),
    )
    yield Production(
        "a redirect longer than declared",
        "either",
        lambda request, _: (
            send(
                head("302 Found", f"Location: {request.path}/a".encode(), b"Content-Length: 0") + whole(request.stray)
            ),
        ),
    )
    yield Production("a redirect to itself", "lost", _moved("302 Found", "{path}"))
    yield Production("a redirect to nowhere", "lost", bare("302 Found", b"Content-Length: 0"))
    yield Production("a redirect to a file", "lost", _moved("302 Found", "file:///etc/passwd"))
    yield Production("a redirect to no address", "lost", _moved("302 Found", "http://[::1"))
    yield Production("a redirect to another port", "lost", _moved("302 Found", "http://127.0.0.1:9/x"))
    yield Production(
        "a redirect in two fields",
        "either",
        lambda request, _: (
            send(head("302 Found", *[f"Location: {request.path}/{n}".encode() for n in "ab"], b"Content-Length: 0")),
        ),
    )
    yield Production("300", "lost", bare("300 Multiple Choices", b"Content-Length: 0"))


def _moved(status: str, location: str, body: bytes = b"", end: tuple[Part, ...] = ()) -> Build:
    """A redirect; in `location` `{path}` is the path that was asked for, below which the picture lies too."""
    return lambda request, _: (
        send(head(status, b"Location: " + location.format(path=request.path).encode(), length(body)) + body),
        *end,
    )
