"""URLs as values of a column: their one spelling, and the host they name. By a parser of the WHATWG standard."""

from ada_url import URL

BASE_URL = "__BASE_URL__"
"""In a table's URL: the address of a server that is known only when the download starts."""

_PLACEHOLDER = "http://base.invalid"


def normalise_url(url: str) -> str:
    """The URL as a browser writes it: host in lower case and IDNA 2008, dot segments removed, percent-encoded.

    Fragment, user name and password are left out. What cannot be read as a URL comes back as it is, trimmed. A leading
    `BASE_URL` stays as it is.
    """
    url = url.strip()
    has_base = url.startswith(BASE_URL)
    try:
        parsed = URL(_PLACEHOLDER + url.removeprefix(BASE_URL)) if has_base else URL(url)
    except ValueError:
        return url
    if "#" in parsed.href:
        parsed.hash = ""
    if parsed.username or parsed.password:
        parsed.username = parsed.password = ""
    written = parsed.href
    return BASE_URL + written.removeprefix(_PLACEHOLDER) if has_base else written


def host_of(url: str) -> str:
    """The host a URL names, as it is looked up; empty if none."""
    try:
        return URL(url).hostname.strip("[]")
    except ValueError:
        return ""


def host_in_sql(url: str) -> str:
    """SQL for the host of a URL; `url` is an expression. NULL if it is that, or names no host."""
    return rf"nullif(trim(regexp_extract(lower({url}), '^[a-z][a-z0-9+.-]*://(\[[^\]]*\]|[^/:?#]*)', 1), '[]'), '')"
