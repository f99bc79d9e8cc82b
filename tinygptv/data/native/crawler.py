"""URLs → answers by many threads: follows redirects, asks again where that helps, obeys robots.txt and opt-outs.

Each hop of a redirect and each further attempt is a request like any other: it waits for its site's turn, and every
rule is applied to it anew.
"""

import contextlib
import logging
import os
import queue
import threading
import urllib.parse
from types import TracebackType
from typing import Any, Self

from tinygptv.data.guard import (
    CONTACT,
    WORTH_ASKING_AT_ONCE,
    FetchError,
    Origin,
    addresses,
    check_addresses,
    failure_of,
    is_public,
    normalise_url,
    origin_of,
)
from tinygptv.data.native.politeness import Request, Schedule, Site
from tinygptv.data.native.robots import MAX_BYTES, Robots, parse, text_of
from tinygptv.data.native.session import NOT_MODIFIED, REDIRECTS, Answer, Connection, Connections
from tinygptv.definitions.source import Download

logger = logging.getLogger(__name__)

LONGEST_WAIT_SECONDS = 30.0
"""A site that asks to be left alone for longer is not asked again in this run."""

_MOST_HOPS = 5
_MOST_KEPT_CONNECTIONS, _MOST_REMEMBERED_SITES = 256, 20_000
_OPT_OUTS_OF_A_SITE, _TROUBLES_OF_A_SITE = 10, 32
"""So many in a row, and nothing more is asked of a site in this run."""

_UNREADABLE = frozenset({"truncated", "bad_encoding", "too_large"})
"""A robots.txt that came so says something, and nobody knows what."""

_RESOLVERS = 16  # at once; resolvers drop the questions of those who ask more, and every drop costs seconds
PUBLIC_REQUESTS_PER_SECOND = 20.0
_FIRST_BACKOFF_SECONDS = 1.0


class Crawler:
    """Answers requests until it is left; `failed` gets an exception that `on_answer` raised, which is nobody's answer.

    A request is answered exactly once, by one of the crawler's threads, unless the crawler is left before.
    """

    def __init__(
        self, limits: Download, allow_private: bool, failed: "queue.SimpleQueue[BaseException | None]"
    ) -> None:
        self._limits, self._allow_private, self._failed = limits, allow_private, failed
        contact = limits.contact or os.environ.get(CONTACT)
        self._agent_token = limits.user_agent.partition("/")[0].strip().lower()
        self._headers = {"User-Agent": f"{limits.user_agent} (+{contact})" if contact else limits.user_agent}
        self._schedule = Schedule()
        self._connections = Connections(_MOST_KEPT_CONNECTIONS)
        self._sites: dict[Origin, Site] = {}
        self._lock = threading.Lock()
        self._unresolved: queue.SimpleQueue[Site | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(limits.threads)]
        self._resolvers = [threading.Thread(target=self._resolve, daemon=True) for _ in range(_RESOLVERS)]

    def __enter__(self) -> Self:
        for thread in self._threads + self._resolvers:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Finish the requests that are being made, unless there is an error; those that wait are not made."""
        self._schedule.stop()
        for _resolver in self._resolvers:
            self._unresolved.put(None)
        for thread in self._threads if kind is None else ():
            thread.join()

    def submit(self, request: Request) -> None:
        """Have a URL asked for. An address that cannot be asked is answered at once, by the caller's thread."""
        try:
            site = self._site(origin_of(request.url))
        except FetchError as refused:
            request.on_answer(request, refused)
        else:
            self._schedule.add(site, request)

    def _site(self, origin: Origin) -> Site:
        with self._lock:
            site = self._sites.get(origin)
            if site is None:
                if len(self._sites) >= _MOST_REMEMBERED_SITES:
                    self._sites = {known: site for known, site in self._sites.items() if site.expected}
                site = self._sites[origin] = Site(origin)
                self._unresolved.put(site)
            return site

    def _resolve(self) -> None:
        """Resolver threads: learn a site's addresses, and whether they may be connected to."""
        while (site := self._unresolved.get()) is not None:
            try:
                found = addresses(site.origin.host)
                check_addresses(found, self._allow_private)
            except FetchError as refused:
                self._schedule.close(site, refused)
                continue
            site.addresses = found
            rate = self._limits.requests_per_second_per_host
            if rate is None and all(map(is_public, found)):
                rate = PUBLIC_REQUESTS_PER_SECOND
            self._schedule.admit(site, 1, 1 / rate if rate else 0.0)

    def _ask(self) -> None:
        """Fetching threads. What `on_answer` raises ends the crawl, not just the thread."""
        try:
            while (taken := self._schedule.take()) is not None:
                site, request = taken
                answer: Answer | FetchError | None
                try:
                    answer = site.closed or self._answer(site, request)
                except Exception as error:
                    answer = self._after_failure(site, request, error)
                finally:
                    self._schedule.finish(site)
                if isinstance(answer, Answer) and answer.status in REDIRECTS:
                    answer = self._redirect(site, request, answer)
                if answer is not None:
                    request.on_answer(request, answer)
        except BaseException as error:
            self._failed.put(error)

    def _answer(self, site: Site, request: Request) -> Answer:
        if request.has_left_its_origin:
            check_addresses(site.addresses, allow_private=False)
        target = _target(request.url)
        if site.robots is None:
            site.robots = self._robots(site)
            delay = site.robots.delay_seconds
            self._schedule.pause(site, delay)
            self._schedule.admit(
                site, 1 if delay else self._limits.connections_per_host, max(delay, site.seconds_between)
            )
        if not site.robots.allow(target):
            raise FetchError("robots_disallowed")
        conditions = {"If-None-Match": request.etag, "If-Modified-Since": request.last_modified}
        sent = {name: value for name, value in conditions.items() if value}
        answer = self._get(site, target, sent)
        if answer.status == NOT_MODIFIED and not sent:
            raise FetchError("http_3xx", answer.status)
        site.opt_outs_in_a_row = site.troubles_in_a_row = 0
        return answer

    def _get(self, site: Site, target: str, headers: dict[str, str]) -> Answer:
        connection = self._connections.take(site.origin) or Connection(site.origin, site.addresses, self._limits)
        try:
            return connection.get(target, self._headers | headers, self._limits.max_bytes, self._agent_token)
        finally:
            self._connections.keep(site.origin, connection)

    def _robots(self, site: Site) -> Robots:
        """What a site's robots.txt allows: all if it has none.

        Raises FetchError, or what the network raised, if the site does not answer: then nothing may be asked for now.
        """
        if not self._limits.robots:
            return Robots()
        url, found = f"{site.origin}/robots.txt", site.addresses
        for _ in range(_MOST_HOPS):
            origin = origin_of(url)
            if origin != site.origin:
                found = addresses(origin.host)
                check_addresses(found, allow_private=False)
            connection = self._connections.take(origin) or Connection(origin, found, self._limits)
            try:
                answer = connection.get(_target(url), self._headers, MAX_BYTES, agent_token=None, is_cut=True)
            except FetchError as error:
                if error.failure in _UNREADABLE or error.status is None or error.status == 429 or error.status >= 500:
                    raise FetchError(
                        "robots_unreachable" if error.status else error.failure, error.status, error.retry_after
                    ) from error
                return Robots()
            finally:
                if origin == site.origin:
                    self._connections.keep(origin, connection)
                else:
                    connection.close()
            if answer.status not in REDIRECTS:
                return parse(text_of(answer.body), self._agent_token)
            url = _location(url, answer)
        return Robots()

    def _redirect(self, site: Site, request: Request, answer: Answer) -> FetchError | None:
        """Have the next hop asked for, or say why not."""
        if request.hops == _MOST_HOPS:
            return FetchError("too_many_redirects", answer.status)
        try:
            url = _location(request.url, answer)
            next_site = self._site(origin_of(url))
        except FetchError as refused:
            return refused
        request.url, request.hops = url, request.hops + 1
        request.has_left_its_origin |= _leaves(site.origin, next_site.origin)
        self._schedule.add(next_site, request)
        return None

    def _after_failure(self, site: Site, request: Request, error: Exception) -> FetchError | None:
        """The failure, or None if the request will be made again."""
        failure = error if isinstance(error, FetchError) else FetchError(failure_of(error))
        if failure.failure == "other":
            logger.error("%s", request.url, exc_info=error)
        if site.closed:
            return failure
        self._count_against(site, failure)
        is_robots = site.robots is None
        attempts = site.robots_attempts if is_robots else request.attempts
        backoff = _FIRST_BACKOFF_SECONDS * 2**attempts
        wait = failure.retry_after or (backoff if failure.status == 429 else 0.0)
        if wait > LONGEST_WAIT_SECONDS:
            self._schedule.close(site, FetchError("host_busy", retry_after=wait))
            return failure
        self._schedule.pause(site, wait)
        if failure.failure in WORTH_ASKING_AT_ONCE and attempts < self._limits.retries:
            site.robots_attempts += is_robots
            request.attempts += not is_robots
            if is_robots:
                self._schedule.pause(site, backoff)
            self._schedule.add(site, request, wait or backoff)
            return None
        if is_robots:
            self._schedule.close(site, failure)
        return failure

    def _count_against(self, site: Site, failure: FetchError) -> None:
        """Give a site up that refuses, or is out of order, again and again. An answer of any other kind clears it."""
        is_opt_out, is_trouble = failure.failure == "opted_out", failure.failure in WORTH_ASKING_AT_ONCE | {"slow"}
        site.opt_outs_in_a_row = site.opt_outs_in_a_row + 1 if is_opt_out else 0
        site.troubles_in_a_row = site.troubles_in_a_row + 1 if is_trouble else 0
        if site.opt_outs_in_a_row == _OPT_OUTS_OF_A_SITE:
            self._schedule.close(site, FetchError("host_opted_out"))
        if site.troubles_in_a_row == _TROUBLES_OF_A_SITE:
            self._schedule.close(site, FetchError("host_down"))


def facts(request: Request, answer: Answer | FetchError) -> dict[str, Any]:
    """What a `Result` says of a response, whether it failed or not."""
    known: dict[str, Any] = {"attempts": request.attempts + 1, "status": answer.status}
    if request.hops:
        known["final_url"] = request.url
    if isinstance(answer, FetchError):
        return known | {"retry_after": answer.retry_after}
    return known | {"etag": answer.headers.get("ETag"), "last_modified": answer.headers.get("Last-Modified")}


def _target(url: str) -> str:
    """What is asked of the origin: path and query."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))


def _location(url: str, answer: Answer) -> str:
    """Where a redirect leads. Raises FetchError `bad_url`.

    Letters beyond ASCII come as UTF-8, which http.client reads as Latin-1; it is right where they are not UTF-8.
    """
    location = answer.headers.get("Location", "")
    with contextlib.suppress(UnicodeError):
        location = location.encode("latin-1").decode()
    try:
        return normalise_url(urllib.parse.urljoin(url, location))
    except ValueError as error:
        raise FetchError("bad_url", answer.status) from error


def _leaves(before: Origin, after: Origin) -> bool:
    """Whether a redirect leads to somebody else; from http to https of the same host it does not."""
    return before.host != after.host or after.port not in (before.port, 443)
