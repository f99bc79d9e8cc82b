"""What may be fetched, from where, and the name under which every refusal and failure is counted: one place.

Schemes, addresses and opt-outs are judged here, on every hop of a redirect and on the very address that is connected
to. URLs are read as browsers read them, by a parser of the WHATWG standard, so that robots.txt, the resolver and the
request mean the same. Every failure ends as one short name (`dns`, `http_404`, `opted_out`, …).
Proxies named in the environment are not used: behind one, the address could not be checked.
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
"""Set to 1 to fetch from loopback and private networks, as tests do; a source may say `allow_private: true`."""

CONTACT = "TINYGPTV_CONTACT"
"""Whom site owners may write to: a web page or an address, for sources that do not say it themselves."""

TRANSIENT = frozenset(
    {
        *("dns", "connect", "timeout", "slow", "truncated", "protocol"),
        *("http_408", "http_429", "http_5xx", "robots_unreachable", "host_busy", "host_down"),
    }
)
"""Failures that may pass. An opt-out or a 404 is an answer, not a failure to answer."""

WORTH_ASKING_AT_ONCE = frozenset({"connect", "timeout", "truncated", "protocol", "http_408", "http_429", "http_5xx"})
"""Of these, the ones that may have passed a moment later."""

NEVER_AGAIN = frozenset({"http_410", "http_451", "opted_out"})
"""Answers that hold: a URL that gave one is not asked for again by any later download."""

_NAMED_STATUS = {401, 403, 404, 408, 410, 429, 451}
_OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex", "noml", "none"}
_WITH_VALUES = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
_LONGEST_RETRY_AFTER_SECONDS = 30 * 86_400.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_HTTP = re.compile(r"https?:", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}


class Headers(Protocol):
    """What is asked of a response's header fields, by name whatever its case."""

    def get(self, name: str, /) -> str | None:
        """The first value."""

    def get_all(self, name: str, /) -> list[str] | None:
        """Every value, in order; None or nothing if there is none."""


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


def joined_url(url: str, location: str) -> str:
    """Where `location` leads, seen from `url`, in its one spelling. Raises FetchError `bad_url`."""
    try:
        return normalise_url(join_url(url, location))
    except ValueError as error:
        raise FetchError("bad_url") from error


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
    """What is asked of the origin, path and query, of a URL in its one spelling."""
    return "/" + url.split("/", 3)[3]


def addresses(host: str) -> tuple[str, ...]:
    """The addresses of `host` in the resolver's order (RFC 6724), those that no route leads to behind the others.

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
    """Whether this machine can send to the public addresses of a family at all; asking the kernel sends nothing."""
    example = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}.get(socket.AddressFamily(family))
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((example, 9))
    except OSError:
        return False
    return True


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
    """The name of an answer that is no picture: `http_404`, or the class of a status nobody needs to tell apart.

    What is beyond all classes counts as a server's error (RFC 9110, 15).
    """
    status = min(status, 599)
    return f"http_{status}" if status in _NAMED_STATUS else f"http_{status // 100}xx"


def opted_out(headers: Headers, agent_token: str) -> bool:
    """Whether a response forbids this use: X-Robots-Tag (for all, or for our name) or a TDM reservation.

    A value may name whom it means, `somebot: noindex, nofollow`, and that holds until the next name.
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
