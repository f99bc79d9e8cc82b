"""Header fields: many, long, folded, broken."""

from collections.abc import Iterator

from tests.fuzz.messages import CLOSE, Production, head, of_length, send, whole, with_head


def productions() -> Iterator[Production]:
    """These kinds."""
    many = [b"X-Field-%d: %d" % (number, number) for number in range(150)]
    yield Production("150 fields", "kept", of_length(*many))
    yield Production("a field of 60 KB", "kept", of_length(b"Content-Security-Policy: " + b"x" * 60_000))
    yield Production(
        "fields without end", "lost", lambda *_: (send(head("200 OK", *[b"X: " + b"y" * 9000] * 300)), CLOSE)
    )
    yield Production("a folded field", "kept", of_length(b"X-Long: one\r\n two\r\n\tthree"))
    yield Production("a folded length", "either", with_head(b"Content-Length:\r\n @"))
    yield Production("lines that end with LF", "kept", with_head(b"Content-Length: @", line_end=b"\n"))
    yield Production("lines that end with CR", "either", with_head(b"Content-Length: @", line_end=b"\r"))
    yield Production("fields beyond ASCII", "kept", of_length(b"Server: caf\xe9", b"X-Name: \xd0\xbf"))
    yield Production("an empty field", "kept", of_length(b"X-Empty:", b"X-Space:   "))
    yield Production("a NUL in a field", "either", of_length(b"X-Null: a\x00b"))
    yield Production("a CR in a field", "either", of_length(b"X-Return: a\rb"))
    yield Production("a line without a colon", "either", of_length(b"This is no field"))
    yield Production("a field without a name", "either", of_length(b": value"))
    yield Production("space before the colon", "either", with_head(b"Content-Length : @"))
    yield Production("space before the first field", "either", with_head(b" X: y", b"Content-Length: @"))
    yield Production("odd names of fields", "either", of_length(b"X(y): z", b"\xc3\xa9: a", b"[a]: b"))
    yield Production("an empty line first", "either", lambda request, _: (send(b"\r\n" + whole(request.picture)),))
    yield Production("names in any case", "kept", with_head(b"cOnTeNt-LeNgTh: @"))
    yield Production("cookies", "kept", of_length(*[b"Set-Cookie: a%d=b; Path=/; HttpOnly" % n for n in range(60)]))
    yield Production("an upgrade is offered", "kept", of_length(b"Upgrade: h2,h2c", b"Connection: Upgrade"))
    yield Production("Alt-Svc", "kept", of_length(b'Alt-Svc: h3=":443"; ma=86400'))
    yield Production("a type that is no picture", "either", of_length(b"Content-Type: text/html"))
