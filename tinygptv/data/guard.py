"""What may be fetched, from where, and the name under which every refusal and failure is counted: one place.

Schemes, addresses and opt-outs are judged here, on every hop of a redirect and on the very address that is connected
to. Every failure ends as one short name (`dns`, `http_404`, `opted_out`, …). Proxies named in the environment are not
used: behind one, the address could not be checked.
"""

import email.utils
import http.client
import ipaddress
import os
import re
import socket
import ssl
import time
import urllib.parse
from email.message import Message
from typing import NamedTuple

ALLOW_PRIVATE = "TINYGPTV_ALLOW_PRIVATE"
"""Set to 1 to fetch from loopback and private networks, as tests do; a source may say `allow_private: true`."""

CONTACT = "TINYGPTV_CONTACT"
"""Whom site owners may write to: a web page or an address, for sources that do not say it themselves."""

TRANSIENT = frozenset(
    {
        *("dns", "connect", "timeout", "slow", "truncated", "protocol"),
        *("http_429", "http_5xx", "robots_unreachable", "host_busy", "host_down"),
    }
)
"""Failures that may pass. An opt-out or a 404 is an answer, not a failure to answer."""

WORTH_ASKING_AT_ONCE = frozenset({"connect", "timeout", "truncated", "protocol", "http_429", "http_5xx"})
"""Of these, the ones that may have passed a moment later."""

NEVER_AGAIN = frozenset({"http_410", "http_451", "opted_out"})
"""Answers that hold: a URL that gave one is not asked for again by any later download."""

_NAMED_STATUS = {401, 403, 404, 410, 429, 451}
_OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex", "noml", "none"}
_WITH_VALUES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
_SAFE_IN_URL = "!#$%&'()*+,/:;=?@[]~"
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"[0-9a-z._-]+|[0-9a-f:.]+")
_LONGEST_RETRY_AFTER_SECONDS = 30 * 86_400.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (TimeoutError, "timeout"),
    (ssl.SSLError, "tls"),
    (ConnectionError, "connect"),
    (http.client.IncompleteRead, "truncated"),
    (http.client.HTTPException, "protocol"),
    (OSError, "connect"),
    (ValueError, "protocol"),
)
"""First match wins: a time-out and a TLS failure are kinds of OSError, a server's hanging up is a bad status line."""


class FetchError(Exception):
    """A failed fetch; its text is the failure's name. `retry_after`: the seconds a server asked to be left alone."""

    def __init__(self, failure: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(failure)
        self.failure, self.status, self.retry_after = failure, status, retry_after


class Origin(NamedTuple):
    """Who is asked: robots.txt, limits and kept connections belong to one of these."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == (443 if self.scheme == "https" else 80)
        return f"{self.scheme}://{host}{'' if usual else f':{self.port}'}"


def private_allowed(declared: bool) -> bool:
    """Whether a source may fetch from private addresses: it says so, or the environment does."""
    return declared or os.environ.get(ALLOW_PRIVATE) == "1"


def normalise_url(url: str) -> str:
    """The URL as it goes over the wire: no fragment, host in lower case and IDNA, other text percent-encoded."""
    url = url.strip()
    try:
        parts = urllib.parse.urlsplit(url)
        place = parts.netloc.lower()
        if not place.isascii():
            port = f":{parts.port}" if parts.port else ""
            place = (parts.hostname or "").encode("idna").decode("ascii") + port
    except ValueError:
        return url
    rest = (urllib.parse.quote(_BARE_PERCENT.sub("%25", part), safe=_SAFE_IN_URL) for part in (parts.path, parts.query))
    return urllib.parse.urlunsplit((parts.scheme, place, *rest, ""))


def refusal(url: str) -> str | None:
    """Why a URL is not even asked for, or None."""
    try:
        origin_of(url)
    except FetchError as error:
        return error.failure
    return None


def origin_of(url: str) -> Origin:
    """Whom a URL asks. Raises FetchError `not_http` or `bad_url`."""
    try:
        parts = urllib.parse.urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError as error:
        raise FetchError("bad_url") from error
    if scheme not in ("http", "https"):
        raise FetchError("not_http")
    if not _HOST.fullmatch(host) or port == 0:
        raise FetchError("bad_url")
    return Origin(scheme, host, port or (443 if scheme == "https" else 80))


def host_of(url: str) -> str:
    """The host a URL names, in lower case; empty if none."""
    return urllib.parse.urlsplit(url).hostname or ""


def addresses(host: str) -> tuple[str, ...]:
    """The addresses of `host`, sorted. Raises FetchError `dns`."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError("dns") from error
    return tuple(sorted({str(info[4][0]) for info in found}))


def is_public(address: str) -> bool:
    """Whether an address is on the public internet, also when it is an IPv4 address in IPv6 clothes."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        parsed = inner or parsed
    return parsed.is_global and not parsed.is_multicast


def check_addresses(found: tuple[str, ...], allow_private: bool) -> None:
    """Raise FetchError `private_address` if any address is not on the public internet and none such is allowed."""
    if not allow_private and not all(map(is_public, found)):
        raise FetchError("private_address")


def failure_of_status(status: int) -> str:
    """The name of an answer that is no picture: `http_404`, or the class of a status nobody needs to tell apart."""
    return f"http_{status}" if status in _NAMED_STATUS else f"http_{status // 100}xx"


def failure_of(error: Exception) -> str:
    """The name under which a failure is counted."""
    if isinstance(error, FetchError):
        return error.failure
    return next((name for kind, name in _FAILURES if isinstance(error, kind)), "other")


def opted_out(headers: Message, agent_token: str) -> bool:
    """Whether a response forbids this use: X-Robots-Tag (for all, or for our name) or a TDM reservation.

    A value may name whom it means, `somebot: noindex, nofollow`, and that holds until the next name.
    """
    for value in headers.get_all("X-Robots-Tag", []):
        meant = True
        for part in map(str.strip, value.lower().split(",")):
            if part.startswith(_WITH_VALUES):
                continue
            name, colon, directive = part.rpartition(":")
            meant = name.strip() in (agent_token, "*") if colon else meant
            if meant and directive.strip() in _OPT_OUTS:
                return True
    return (headers.get("tdm-reservation") or "").strip() == "1"


def retry_after_seconds(headers: Message) -> float | None:
    """How long a server asks to be left alone: Retry-After as seconds or as a date; None if it does not say.

    More than a month is taken for a month.
    """
    asked = (headers.get("Retry-After") or "").strip()
    try:
        date = None if asked.isdecimal() else email.utils.parsedate_to_datetime(asked)
        seconds = float(asked) if date is None else date.timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER_SECONDS)
