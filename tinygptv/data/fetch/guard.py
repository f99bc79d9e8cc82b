"""What may be fetched and from where, and the names under which refusals and failures are counted.

Schemes, addresses and opt-outs are checked here, on every redirect and on the very address connected to. URLs are
parsed by the WHATWG rules that browsers follow, so robots.txt, the resolver and the request agree on what a URL means.
Every failure has one short name (`dns`, `http_404`, `opted_out`, …). Proxies from the environment are not used: behind
one, addresses could not be checked.
"""

import email.utils
import functools
import ipaddress
import os
import re
import socket
import time
from typing import NamedTuple, Protocol

from ada_url import URL, join_url

from tinygptv.data.columns.urls import normalise_url

ALLOW_PRIVATE = "TINYGPTV_ALLOW_PRIVATE"
"""Set to 1 to fetch from loopback and private networks, as tests do; a source can set `allow_private: true`."""

CONTACT = "TINYGPTV_CONTACT"
"""Contact for site owners, a web page or address; used by sources that do not set their own."""

TRANSIENT = frozenset(
    {
        *("dns", "connect", "timeout", "slow", "truncated", "protocol"),
        *("http_408", "http_429", "http_5xx", "robots_unreachable", "host_busy", "host_down"),
    }
)
"""Failures that may pass. Opt-outs and 404 are definite answers and not among them."""

RETRY_AT_ONCE = frozenset({"connect", "timeout", "truncated", "protocol", "http_408", "http_429", "http_5xx"})
"""The transient failures that are worth an immediate retry."""

PERMANENT = frozenset({"http_410", "http_451", "opted_out"})
"""Permanent answers: no later download requests such a URL again."""

_NAMED_STATUS = {401, 403, 404, 408, 410, 429, 451}
_OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex", "noml", "none"}
_WITH_VALUES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
_MAX_RETRY_AFTER_SECONDS = 30 * 86_400.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_HTTP = re.compile(r"https?:", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}


class Headers(Protocol):
    """Response headers, looked up case-insensitively."""

    def get(self, name: str, /) -> str | None:
        """The first value."""

    def get_all(self, name: str, /) -> list[str] | None:
        """Every value, in order; None or nothing if there is none."""


class FetchError(Exception):
    """A failed fetch; the message is the failure's name. `retry_after`: seconds the server asked us to wait."""

    def __init__(self, failure: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(failure)
        self.failure, self.status, self.retry_after = failure, status, retry_after


class Origin(NamedTuple):
    """Scheme, host and port; robots.txt, limits and open connections are per origin."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == (443 if self.scheme == "https" else 80)
        return f"{self.scheme}://{host}{'' if usual else f':{self.port}'}"


def private_allowed(declared: bool) -> bool:
    """Whether fetching from private addresses is allowed, by the source or by the environment."""
    return declared or os.environ.get(ALLOW_PRIVATE) == "1"


def resolve_url(url: str, location: str) -> str:
    """Resolve `location` against `url` and normalise it. Raises FetchError `bad_url`."""
    try:
        return normalise_url(join_url(url, location))
    except ValueError as error:
        raise FetchError("bad_url") from error


def refusal(url: str) -> str | None:
    """Why a URL must not be requested, or None."""
    try:
        origin_of(url)
    except FetchError as error:
        return error.failure
    return None


def origin_of(url: str) -> Origin:
    """The origin of a URL. Raises FetchError `not_http` or `bad_url`."""
    try:
        parsed = URL(url)
    except ValueError as error:
        raise FetchError("bad_url" if _HTTP.match(url.strip()) else "not_http") from error
    scheme = parsed.protocol.removesuffix(":")
    if scheme not in _PORTS:
        raise FetchError("not_http")
    port = int(parsed.port) if parsed.port else _PORTS[scheme]
    if port == 0:
        raise FetchError("bad_url")
    return Origin(scheme, parsed.hostname.strip("[]"), port)


def target_of(url: str) -> str:
    """The request target (path and query) of a normalised URL."""
    return "/" + url.split("/", 3)[3]


def addresses(host: str) -> tuple[str, ...]:
    """The addresses of `host` in the resolver's order (RFC 6724), unroutable ones last.

    Raises FetchError `dns`.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchError("dns") from error
    known = dict.fromkeys((info[0], str(info[4][0])) for info in found)
    return tuple(address for _, address in sorted(known, key=lambda one: not _has_route(one[0])))


@functools.cache
def _has_route(family: int) -> bool:
    """Whether this machine has a route for an address family. Connecting a UDP socket sends nothing."""
    example = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}.get(socket.AddressFamily(family))
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((example, 9))
    except OSError:
        return False
    return True


def is_public(address: str) -> bool:
    """Whether an address is public; IPv4 addresses embedded in IPv6 are unwrapped first."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        parsed = inner or parsed
    return parsed.is_global and not parsed.is_multicast


def check_addresses(found: tuple[str, ...], allow_private: bool) -> None:
    """Raise FetchError `private_address` if any address is not public, unless private ones are allowed."""
    if not allow_private and not all(map(is_public, found)):
        raise FetchError("private_address")


def failure_of_status(status: int) -> str:
    """The failure name of a status: `http_404`, or its class (`http_5xx`) where the exact status does not matter.

    A status beyond all classes counts as a server error (RFC 9110, 15).
    """
    status = min(status, 599)
    return f"http_{status}" if status in _NAMED_STATUS else f"http_{status // 100}xx"


def opted_out(headers: Headers, agent_token: str) -> bool:
    """Whether a response forbids this use, by X-Robots-Tag (for all agents or ours) or a TDM reservation.

    A value may name an agent, as in `somebot: noindex, nofollow`, which holds until the next name.
    """
    for value in headers.get_all("X-Robots-Tag") or ():
        meant = True
        for part in map(str.strip, value.lower().split(",")):
            if part.startswith(_WITH_VALUES):
                continue
            name, colon, directive = part.rpartition(":")
            meant = name.strip() in (agent_token, "*") if colon else meant
            if meant and directive.strip() in _OPT_OUTS:
                return True
    return (headers.get("tdm-reservation") or "").strip() == "1"


def retry_after_seconds(headers: Headers) -> float | None:
    """Seconds a server asks to wait: Retry-After as a number or a date; None without a valid one.

    Capped at 30 days.
    """
    asked = (headers.get("Retry-After") or "").strip()
    try:
        date = None if asked.isdecimal() else email.utils.parsedate_to_datetime(asked)
        seconds = float(asked) if date is None else date.timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_SECONDS)
