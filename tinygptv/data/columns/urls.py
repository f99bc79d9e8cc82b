"""Normalisation of URLs, and the host they name, with a WHATWG parser."""

from ada_url import URL

BASE_URL = "__BASE_URL__"
"""Placeholder in a table's URLs for a server address that is only known when the download starts."""

_PLACEHOLDER = "http://base.invalid"


def normalise_url(url: str) -> str:
    """Normalise a URL as a browser does: host in lower case and IDNA 2008, dot segments removed, percent-encoded.

    Fragment, user name and password are removed. Text that is not a URL is returned trimmed. A leading `BASE_URL` is
    kept.
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
    """The normalised host of a URL; empty if there is none."""
    try:
        return URL(url).hostname.strip("[]")
    except ValueError:
        return ""


def host_in_sql(url: str) -> str:
    """SQL for the host of a URL; `url` is an expression. NULL if it is NULL or has no host."""
    return rf"nullif(trim(regexp_extract(lower({url}), '^[a-z][a-z0-9+.-]*://(\[[^\]]*\]|[^/:?#]*)', 1), '[]'), '')"
