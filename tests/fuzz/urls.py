"""URLs as tables and redirects hold them, against the parser of the WHATWG's standard, which browsers follow."""

import re
from random import Random
from urllib.parse import urlsplit

import ada_url

from tinygptv.data.columns.urls import host_of, normalise_url
from tinygptv.data.fetch.guard import FetchError, origin_of

_SCHEMES = (
    "http",
    "https",
    "HTTP",
    "hTtPs",
    "ht\ttp",
    "ftp",
    "file",
    "javascript",
    "data",
    "ws",
    "blob:http",
    "",
    "1http",
)
_SEPARATORS = ("://", "://", "://", "://", ":/", ":", ":///", ":\\\\", ":/\\", "//", ":\n//")
_USERS = ("", "", "", "", "", "user@", "user:pass@", "@", ":@", "a@b@", "%40@", "http://x@")
_HOSTS = (
    *("a.example", "A.EXAMPLE", "a.example.", "a..example", "a_b.example", "-a.example", "a-.example", "localhost", ""),
    *(
        "bücher.example",
        "BÜCHER.example",
        "faß.example",
        "straße.de",
        "σς.gr",
        "xn--bcher-kva.example",
        "xn--a.example",
    ),
    *("日本語。jp", "ａ.example", "a\u00adb.example", "a\u200db.example", "☃.net", "💩.la", "ا.example", "a\u2024b.c"),
    *(
        "%61.example",
        "a%2eexample",
        "a%00b",
        "a b",
        "a\tb.example",
        "a<b",
        "a!b",
        "a$b",
        "a|b",
        "a^b",
        "*.example",
        "a,b",
    ),
    *(
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "0x7f000001",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.",
        "09.1",
    ),
    *("[::1]", "[::ffff:127.0.0.1]", "[0:0::1]", "[::1%25eth0]", "[::1", "::1", "[1.2.3.4]", "[]", "[::FFFF:7f00:1]"),
    *(
        "a" * 64 + ".example",
        ".".join(["a" * 60] * 5),
        "１２７.0.0.1",
        "127。0。0。1",
        "①.example",
        "a.example\\@b.example",
    ),
)
_PORTS = ("", "", "", "", ":80", ":443", ":8080", ":0", ":", ":00080", ":65535", ":65536", ":-1", ":8a", ":٨٠", ": 80")
_SEGMENTS = (
    *(".", "..", "%2e", "%2E", "%2e%2e", ".%2E", "%2e.", "...", "..;", "..%2f", "%2f", "%5c", "\\", "\\..\\", ""),
    *(
        "a",
        "b.jpg",
        "é",
        "日本",
        "a b",
        "%20",
        "%",
        "%zz",
        "%4",
        "%00",
        "%C3%A9",
        "%c3%a9",
        "%ff",
        "+",
        "a;b=c",
        "~",
        "%7E",
    ),
    *(
        "'",
        '"',
        "<",
        ">",
        "`",
        "{}",
        "|",
        "^",
        "[",
        "]",
        "!",
        "$",
        "&",
        "(",
        ")",
        "*",
        ",",
        "=",
        ":",
        "@",
        "a\tb",
        "a\nb",
    ),
    *("\x00", "\x7f", "\u0085", "\u2028", "\ufeff", "💩", "C:", "C|"),
)
_QUERIES = (
    "",
    "",
    "?",
    "?a=b&c=d",
    "?q=a b",
    "?q='\"<>",
    "?é=日",
    "?%zz%20",
    "?a?b",
    "?a=http://b/../c",
    "?\\",
    "?{|}^`",
    "?a\tb",
)
_FRAGMENTS = ("", "", "", "#", "#a", "#a#b", "#é ", "#?")
_EDGES = ("", "", "", "", " ", "\t", "\n", "\x00", "\x1f", "\u00a0", "\u3000", "\ufeff")
_DOTS = re.compile(r"(?:\.|%2e){1,2}", re.IGNORECASE)


def cases(random: Random) -> bytes:
    """A URL put together of parts, now and then changed in one place."""
    path = "".join(random.choice("////\\") + random.choice(_SEGMENTS) for _ in range(random.randint(0, 5)))
    parts = (_EDGES, _SCHEMES, _SEPARATORS, _USERS, _HOSTS, _PORTS, (path,), _QUERIES, _FRAGMENTS, _EDGES)
    usual = ("", "http", "://", "", "a.example", "", path, "", "", "")
    # Every part is odd on its own most of the time: two odd ones often only say "no URL" together.
    odd = random.random()
    chosen = [random.choice(part) if random.random() < odd else plain for part, plain in zip(parts, usual, strict=True)]
    url = "".join(chosen)
    if random.random() < 0.2:
        place = random.randrange(len(url) + 1)
        url = url[:place] + chr(random.choice((random.randrange(128), random.randrange(0xD800)))) + url[place + 1 :]
    return url.encode()


def check(data: bytes) -> None:
    """Hold what goes over the wire against what the standard says."""
    url = data.decode()
    expected = _standard(url)
    written = normalise_url(url)
    try:
        origin = origin_of(written)
    except FetchError:
        origin = None
    if expected is None:
        assert origin is None, f"{url!r} is no address of the web, and yet {written!r} is asked of {origin}"
        return
    if origin is None:
        return
    host = expected.hostname.strip("[]")
    assert origin.host == host, f"{url!r} leads to {host!r}, not to {origin.host!r}"
    default = 443 if expected.protocol == "https:" else 80
    assert (f"{origin.scheme}:", origin.port) == (expected.protocol, int(expected.port or default)), (
        f"{url!r}: {origin}"
    )
    assert host_of(written) == origin.host, f"{written!r} is counted under {host_of(written)!r}"
    assert normalise_url(written) == written, f"{written!r} becomes {normalise_url(written)!r}"
    assert written.isascii() and written.isprintable() and " " not in written, f"{written!r} goes over the wire"
    segments = urlsplit(written).path.split("/")
    assert not any(map(_DOTS.fullmatch, segments)), f"{written!r} still has dot segments"
    wanted = expected.href.partition("#")[0]
    assert written == wanted or expected.username or expected.password, f"{url!r} is {wanted!r}, not {written!r}"


def _standard(url: str) -> ada_url.URL | None:
    """What browsers make of it, if it can be asked for at all; space of every kind around it is not part of it."""
    try:
        parsed = ada_url.URL(url.strip())
    except ValueError:
        return None
    return parsed if parsed.protocol in ("http:", "https:") and parsed.hostname else None
