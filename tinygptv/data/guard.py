"""Everything between a URL from a table and the bytes behind it: one place, no exceptions.

Schemes, addresses, deadlines, sizes and opt-outs are checked here, on every hop of a redirect and on the very address
that is connected to. Every failure ends as one short name (`dns`, `http_404`, `opted_out`, …) that can be counted.
Proxies named in the environment are not used: behind one, the address could not be checked.
"""

import functools
import http.client
import io
import ipaddress
import os
import queue
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import urllib.response
from collections.abc import Iterable
from email.message import Message
from typing import Any

ALLOW_PRIVATE = "TINYGPTV_ALLOW_PRIVATE"
"""Set to 1 to fetch from loopback and private networks, as tests do; a source may say `allow_private: true`."""

TRANSIENT = frozenset({"connect", "timeout", "truncated", "http_429", "http_5xx"})
"""Failures worth asking again for. An opt-out or a 404 is an answer, not a failure to answer."""

_MAX_BYTES = 64 << 20
_CHUNK = 1 << 16
_DEADLINE_TIMEOUTS = 3
_LONGEST_WAIT_SECONDS = 30.0
_NAMED_STATUS = {401, 403, 404, 410, 429, 451}
_OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex", "noml", "none"}
_SAFE_IN_URL = "!#$%&'()*+,/:;=?@[]~"
_RESOLVERS = 16  # at once; resolvers drop the questions of those who ask more, and every drop costs seconds
_FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (TimeoutError, "timeout"),
    (ssl.SSLError, "tls"),
    (http.client.IncompleteRead, "truncated"),
    (http.client.InvalidURL, "bad_url"),
    (urllib.error.URLError, "bad_url"),
    (OSError, "connect"),
    (ValueError, "bad_url"),
)
"""First match wins: most of these are kinds of OSError."""


class FetchError(Exception):
    """A failed fetch; its text is the failure's name."""


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
    rest = (urllib.parse.quote(part, safe=_SAFE_IN_URL) for part in (parts.path, parts.query))
    return urllib.parse.urlunsplit((parts.scheme, place, *rest, ""))


def refusal(url: str) -> str | None:
    """Why a URL is not even asked for, or None."""
    try:
        parts = urllib.parse.urlsplit(url)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return "bad_url"
    if parts.scheme not in ("http", "https"):
        return "not_http"
    return None if usable else "bad_url"


def host_of(url: str) -> str:
    """The host a URL names, in lower case; empty if none."""
    return urllib.parse.urlsplit(url).hostname or ""


@functools.lru_cache(maxsize=1 << 16)
def addresses(host: str, allow_private: bool) -> tuple[str, ...]:
    """The addresses of `host`. Raises FetchError `dns`, or `private_address` if any is not on the public internet.

    Answers are remembered: asking anew for every picture is what brings resolvers down, and success rates with them.
    """
    try:
        found = sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except (OSError, UnicodeError) as error:
        raise FetchError("dns") from error
    if not allow_private and not all(ipaddress.ip_address(each.partition("%")[0]).is_global for each in found):
        raise FetchError("private_address")
    return tuple(found)


def resolve_hosts(hosts: Iterable[str], allow_private: bool, deadline_seconds: float) -> dict[str, str | None]:
    """Host → why it cannot be fetched from (`dns`, `private_address`) or None.

    Asks many at once, and gives up on those without an answer by the deadline: on an old table most hosts are gone, and
    waiting for each would cost more than fetching the rest.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()
    verdicts: dict[str, str | None] = dict.fromkeys(hosts, "dns")
    for host in verdicts:
        waiting.put(host)

    def work() -> None:
        while True:
            try:
                host = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                addresses(host, allow_private)
                answers.put((host, None))
            except FetchError as error:
                answers.put((host, str(error)))

    for _ in range(min(_RESOLVERS, len(verdicts))):
        threading.Thread(target=work, daemon=True).start()
    end = time.monotonic() + deadline_seconds
    for _ in range(len(verdicts)):
        try:
            host, verdict = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        verdicts[host] = verdict
    return verdicts


class GuardedOpener(urllib.request.OpenerDirector):
    """An opener for `urllib.request.install_opener`: http(s) only, checked addresses, bounded time and size.

    `open` returns a response whose body has been read. One attempt may take three times `timeout_seconds`; a transient
    failure is retried `retries` times, after the wait a server asks for (at most 30 s). Raises FetchError.
    """

    def __init__(self, user_agent: str, timeout_seconds: float, retries: int, allow_private: bool) -> None:
        super().__init__()
        self._one_hop = urllib.request.OpenerDirector()
        self._one_hop.addheaders = [("User-Agent", user_agent)]
        self._agent_token = user_agent.split("/", 1)[0].strip().lower()
        self._timeout_seconds, self._retries = timeout_seconds, retries
        for handler in (
            _HTTPHandler(allow_private),
            _HTTPSHandler(allow_private),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.UnknownHandler(),
        ):
            self._one_hop.add_handler(handler)

    def open(self, fullurl: Any, data: Any = None, timeout: float | None = None) -> Any:
        """The response to a GET for `fullurl`; whatever headers a caller put on a Request are not sent."""
        url = fullurl if isinstance(fullurl, str) else fullurl.full_url
        attempts_left = self._retries
        while True:
            try:
                return self._attempt(url)
            except (OSError, http.client.HTTPException, ValueError, FetchError) as error:
                failure = classify(error)
                if failure not in TRANSIENT or not attempts_left:
                    raise FetchError(failure) from error
                attempts_left -= 1
                time.sleep(_wait_seconds(error))

    def _attempt(self, url: str) -> urllib.response.addinfourl:
        end = time.monotonic() + _DEADLINE_TIMEOUTS * self._timeout_seconds
        with self._one_hop.open(url, timeout=self._timeout_seconds) as response:
            if opted_out(response.headers, self._agent_token):
                raise FetchError("opted_out")
            body = io.BytesIO()
            while chunk := response.read1(_CHUNK):
                body.write(chunk)
                if body.tell() > _MAX_BYTES:
                    raise FetchError("too_large")
                if time.monotonic() > end:
                    raise FetchError("timeout")
            declared = response.headers.get("Content-Length")
            if declared and declared.isdecimal() and body.tell() < int(declared):
                raise FetchError("truncated")
            body.seek(0)
            return urllib.response.addinfourl(body, response.headers, url, response.status)


def classify(error: BaseException) -> str:
    """The name under which a failure is counted."""
    if isinstance(error, FetchError):
        return str(error)
    if isinstance(error, urllib.error.HTTPError):
        if error.code < 400:
            return "redirect"
        return f"http_{error.code}" if error.code in _NAMED_STATUS else f"http_{error.code // 100}xx"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return classify(error.reason)
    return next((name for kind, name in _FAILURES if isinstance(error, kind)), "protocol")


def opted_out(headers: Message, agent_token: str) -> bool:
    """Whether a response forbids this use: X-Robots-Tag (for all, or for our name) or a TDM reservation."""
    for value in headers.get_all("X-Robots-Tag", []):
        name, colon, scoped = value.partition(":")
        if colon and name.strip().lower() != agent_token:
            continue
        if _OPT_OUTS & {directive.strip().lower() for directive in (scoped if colon else value).split(",")}:
            return True
    return (headers.get("tdm-reservation") or "").strip() == "1"


def _wait_seconds(error: BaseException) -> float:
    asked = error.headers.get("Retry-After") if isinstance(error, urllib.error.HTTPError) else None
    return min(float(asked), _LONGEST_WAIT_SECONDS) if asked and asked.isdecimal() else 1.0


def _connect(host: str, port: int, timeout: float, allow_private: bool) -> socket.socket:
    """A connection to one of the addresses that were checked, never to the result of a second look-up."""
    failure: OSError = ConnectionError(f"{host} has no address")
    for address in addresses(host, allow_private):
        try:
            return socket.create_connection((address, port), timeout)
        except OSError as error:
            failure = error
    raise failure


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


class _HTTPConnection(http.client.HTTPConnection):
    allow_private = False

    def connect(self) -> None:
        self.sock = _connect(self.host, self.port, self.timeout or 0, self.allow_private)


class _HTTPSConnection(http.client.HTTPSConnection):
    allow_private = False

    def connect(self) -> None:
        plain = _connect(self.host, self.port, self.timeout or 0, self.allow_private)
        self.sock = _tls().wrap_socket(plain, server_hostname=self.host)


class _PrivateHTTPConnection(_HTTPConnection):
    allow_private = True


class _PrivateHTTPSConnection(_HTTPSConnection):
    allow_private = True


class _HTTPHandler(urllib.request.HTTPHandler):
    def __init__(self, allow_private: bool) -> None:
        super().__init__()
        self._connection = _PrivateHTTPConnection if allow_private else _HTTPConnection

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._connection, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, allow_private: bool) -> None:
        super().__init__()
        self._connection = _PrivateHTTPSConnection if allow_private else _HTTPSConnection

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(self._connection, req)
