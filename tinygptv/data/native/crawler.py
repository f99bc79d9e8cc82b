"""URLs → answers, many at a time: follows redirects, asks again where that helps, obeys robots.txt and opt-outs.

One thread decides and drives the wire; resolvers look hosts up, and workers, one more than there are cores, are handed
the answers. Each hop of a redirect and each further attempt is a request like any other: it waits for its site's turn,
and every rule is applied to it anew.
"""

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tinygptv.data.guard import (
    CONTACT,
    WORTH_ASKING_AT_ONCE,
    FetchError,
    Origin,
    addresses,
    check_addresses,
    is_public,
    joined_url,
    origin_of,
    target_of,
)
from tinygptv.data.native.politeness import Request, Schedule, Site
from tinygptv.data.native.response import Answer
from tinygptv.data.native.robots import MAX_BYTES, Robots, parse, text_of
from tinygptv.data.native.wire import REDIRECTS, Exchange, Repeat, Wire
from tinygptv.definitions.source import Download

logger = logging.getLogger(__name__)

MAX_WAIT_SECONDS = 30.0
"""A site that asks to be left alone for longer is not asked again in this run."""

_MAX_HOPS = 5
_MAX_REMEMBERED_SITES = 20_000
_MAX_PENDING = 8192
"""Requests in memory. Among so many are enough sites to keep the wire busy, however the table is sorted."""

_MAX_HELD_BYTES = 64 << 20
"""Of bodies that wait for a worker; with more, nothing new is asked for."""

_OPT_OUTS_OF_A_SITE, _TROUBLES_OF_A_SITE = 10, 32
"""So many in a row, and nothing more is asked of a site in this run."""

_NO_ROBOTS = frozenset({*range(300, 500)} - {408, 429})
"""Statuses that say that there is no robots.txt. One that came and cannot be read (2xx) says something unknown."""

_RESOLVERS = 16  # at once; resolvers drop the questions of those who ask more, and every drop costs seconds
PUBLIC_REQUESTS_PER_SECOND = 20.0
_FIRST_BACKOFF_SECONDS = 1.0

Failed = queue.SimpleQueue[BaseException | None]


class Crawler:
    """Answers requests until it is left; `failed` gets an exception that `on_answer` raised, which is nobody's answer.

    A request is answered exactly once, by a worker, unless the crawler is left before. `refuse` says why an address
    that a redirect leads to must not be asked for, or None.
    """

    def __init__(
        self,
        limits: Download,
        allow_private: bool,
        failed: Failed,
        refuse: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._limits, self._allow_private, self._failed, self._refuse = limits, allow_private, failed, refuse
        contact = limits.contact or os.environ.get(CONTACT)
        self._agent_token = limits.user_agent.partition("/")[0].strip().lower()
        self._headers = [
            f"User-Agent: {limits.user_agent} (+{contact})" if contact else f"User-Agent: {limits.user_agent}"
        ]
        self._schedule, self._wire = Schedule(), Wire()
        self._sites: dict[Origin, Site] = {}
        self._room = threading.Semaphore(_MAX_PENDING)
        self._is_stopping = self._is_abandoned = False
        self._inbox: queue.SimpleQueue[Callable[[float], None]] = queue.SimpleQueue()
        self._unresolved: queue.SimpleQueue[Site | None] = queue.SimpleQueue()
        self._answered: queue.SimpleQueue[tuple[Request, Answer | FetchError] | None] = queue.SimpleQueue()
        self._under_way = self._held_bytes = 0
        self._is_full, self._counting = False, threading.Lock()
        worker_count = (os.cpu_count() or 1) + 1
        self._driver = threading.Thread(target=self._guarded(self._drive), daemon=True)
        self._workers = [threading.Thread(target=self._guarded(self._work), daemon=True) for _ in range(worker_count)]
        self._resolvers = [
            threading.Thread(target=self._guarded(self._resolve), daemon=True) for _ in range(_RESOLVERS)
        ]

    def __enter__(self) -> Self:
        for thread in (self._driver, *self._workers, *self._resolvers):
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Finish the requests that are being made, unless there is an error; those that wait are not made."""
        self._is_abandoned = kind is not None
        self.stop()
        for _resolver in self._resolvers:
            self._unresolved.put(None)
        self._driver.join()
        for _worker in self._workers:
            self._answered.put(None)
        for worker in self._workers:
            worker.join()
        self._wire.close()

    def submit(self, request: Request) -> None:
        """Have a URL asked for; waits while too many are pending, until one is answered or `stop` is called.

        An address that cannot be asked is answered at once, by the caller's thread.
        """
        try:
            origin = origin_of(request.url)
        except FetchError as refused:
            request.on_answer(request, refused)
            return
        while not self._room.acquire(timeout=0.2):
            if self._is_stopping:
                return
        self._post(lambda now: self._schedule.add(self._site(origin), request, now))

    def stop(self) -> None:
        """Begin no further request. May be called from a signal handler."""
        self._is_stopping = True
        self._wire.wake()

    def _guarded(self, work: Callable[[], None]) -> Callable[[], None]:
        """What goes wrong in a thread ends the crawl, not just the thread."""

        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._failed.put(error)
                self._is_stopping = True

        return run

    def _post(self, what: Callable[[float], None]) -> None:
        """Have the driver do something."""
        self._inbox.put(what)
        self._wire.wake()

    # Resolver threads.

    def _resolve(self) -> None:
        """Learn a site's addresses, and whether they may be connected to."""
        while (site := self._unresolved.get()) is not None:
            try:
                found = addresses(site.origin.host)
                check_addresses(found, self._allow_private)
            except FetchError as refused:
                self._post(self._resolved(site, refused))
            else:
                self._post(self._resolved(site, found))

    # Workers.

    def _work(self) -> None:
        """Hand answers on."""
        while (answered := self._answered.get()) is not None and not self._is_abandoned:
            request, answer = answered
            try:
                request.on_answer(request, answer)
            finally:
                self._room.release()
                self._count(-1, -_size(answer))

    def _count(self, requests: int, held_bytes: int) -> None:
        """Requests on the wire or in the hands of a worker, and the bytes of bodies that wait for one."""
        with self._counting:
            self._under_way += requests
            self._held_bytes += held_bytes
        if self._is_full and requests < 0:
            self._wire.wake()

    # The driver.

    def _drive(self) -> None:
        while not self._is_abandoned and (len(self._wire) or not self._is_stopping):
            now = time.monotonic()
            while not self._inbox.empty():
                self._inbox.get()(now)
            wait = self._begin_what_may_begin(now)
            for exchange in self._wire.step(wait):
                self._finish(exchange, time.monotonic())

    def _begin_what_may_begin(self, now: float) -> float | None:
        """Start requests, as many as the limits allow; the seconds until there may be more to start, if known."""
        while not self._is_stopping:
            self._is_full = self._under_way >= self._limits.threads or self._held_bytes > _MAX_HELD_BYTES
            if self._is_full:
                return None
            taken = self._schedule.take(now)
            if taken is None:
                due = self._schedule.next_due()
                return None if due is None else max(0.0, due - now)
            self._begin(*taken, now)
        return None

    def _site(self, origin: Origin) -> Site:
        site = self._sites.get(origin)
        if site is None:
            if len(self._sites) >= _MAX_REMEMBERED_SITES:
                self._sites = {known: site for known, site in self._sites.items() if site.expected}
            site = self._sites[origin] = Site(origin)
            self._unresolved.put(site)
        return site

    def _resolved(self, site: Site, found: tuple[str, ...] | FetchError) -> Callable[[float], None]:
        def admit(now: float) -> None:
            if isinstance(found, FetchError):
                self._schedule.close(site, found, now)
                return
            site.addresses = found
            if not self._limits.robots:
                self._open(site, Robots(), now)
                return
            self._schedule.admit(site, 1, self._seconds_between(site), now)
            robots = Request(f"{site.origin}/robots.txt", self._heed(site), is_for_robots=True)
            self._schedule.add(site, robots, now)

        return admit

    def _seconds_between(self, site: Site) -> float:
        rate = self._limits.requests_per_second_per_host
        if rate is None and all(map(is_public, site.addresses)):
            rate = PUBLIC_REQUESTS_PER_SECOND
        return 1 / rate if rate else 0.0

    def _open(self, site: Site, robots: Robots, now: float) -> None:
        """Let what waits for a site be asked for, as its robots.txt has it."""
        site.robots = robots
        delay = robots.delay_seconds
        self._schedule.pause(site, delay, now)
        slots = 1 if delay else self._limits.connections_per_host
        self._schedule.admit(site, slots, max(delay, self._seconds_between(site)), now)

    def _heed(self, site: Site) -> Callable[[Request, Answer | FetchError], None]:
        """What the answer for a site's robots.txt leads to. Nothing may be asked for if the site does not answer."""

        def on_answer(_: Request, answer: Answer | FetchError) -> None:
            now = time.monotonic()
            if isinstance(answer, Answer):
                self._open(site, parse(text_of(answer.body), self._agent_token), now)
            elif answer.status in _NO_ROBOTS:
                self._open(site, Robots(), now)
            else:
                name = "robots_unreachable" if answer.status else answer.failure
                self._schedule.close(site, FetchError(name, answer.status, answer.retry_after), now)

        return on_answer

    def _begin(self, site: Site, request: Request, now: float) -> None:
        self._count(1, 0)
        try:
            if site.closed is not None:
                raise site.closed
            if request.has_left_its_origin:
                check_addresses(site.addresses, allow_private=False)
            rules = None if request.is_for_robots else site.robots
            if rules and rules.rules and not rules.allow(target_of(request.address)):
                raise FetchError("robots_disallowed")
        except FetchError as refused:
            self._schedule.finish(site, now)
            self._answer(request, refused)
            return
        self._wire.start(self._exchange(site, request))

    def _exchange(self, site: Site, request: Request, repeat: Repeat | None = None) -> Exchange:
        conditions = {"If-None-Match": request.etag, "If-Modified-Since": request.last_modified}
        asked = [f"{name}: {value}" for name, value in conditions.items() if value]
        return Exchange(
            request.address,
            site.addresses,
            site.origin,
            self._headers + asked,
            self._limits,
            (site, request),
            max_bytes=MAX_BYTES if request.is_for_robots else self._limits.max_bytes,
            agent_token=None if request.is_for_robots else self._agent_token,
            is_cut=request.is_for_robots,
            is_conditional=bool(asked),
            repeat=repeat,
        )

    def _finish(self, exchange: Exchange, now: float) -> None:
        site, request = exchange.owner
        outcome = exchange.outcome
        assert outcome is not None
        if exchange.repeat is not None:
            self._wire.start(self._exchange(site, request, exchange.repeat))
            return
        if exchange.connected_to in site.addresses:  # the next connection need not find out anew which address answers
            others = (address for address in site.addresses if address != exchange.connected_to)
            site.addresses = (exchange.connected_to, *others)
        self._schedule.finish(site, now)
        if isinstance(outcome, FetchError):
            self._after_failure(site, request, outcome, now)
            return
        site.opt_outs_in_a_row = site.troubles_in_a_row = 0
        if outcome.status in REDIRECTS:
            self._redirect(site, request, outcome, now)
        else:
            self._answer(request, outcome)

    def _answer(self, request: Request, answer: Answer | FetchError) -> None:
        if request.is_for_robots:
            self._count(-1, 0)
            request.on_answer(request, answer)
            return
        self._count(0, _size(answer))
        self._answered.put((request, answer))

    def _redirect(self, site: Site, request: Request, answer: Answer, now: float) -> None:
        """Have the next hop asked for, or say why not."""
        try:
            if len(request.hops) == _MAX_HOPS:
                raise FetchError("too_many_redirects", answer.status)
            url = _location(request.address, answer)
            origin = origin_of(url)
            if (failure := self._refuse(url)) and not request.is_for_robots:
                raise FetchError(failure, answer.status)
        except FetchError as refused:
            self._answer(request, refused)
            return
        self._count(-1, 0)
        next_site = self._site(origin)
        request.hops.append(url)
        request.has_left_its_origin |= _leaves(site.origin, origin)
        self._schedule.add(next_site, request, now)

    def _after_failure(self, site: Site, request: Request, failure: FetchError, now: float) -> None:
        """Answer with the failure, or have the request made again."""
        if site.closed:
            self._answer(request, failure)
            return
        self._count_against(site, failure, now)
        backoff = _FIRST_BACKOFF_SECONDS * 2**request.attempts
        wait = failure.retry_after or (backoff if failure.status == 429 else 0.0)
        if wait > MAX_WAIT_SECONDS:
            self._schedule.close(site, FetchError("host_busy", retry_after=wait), now)
            self._answer(request, failure)
            return
        self._schedule.pause(site, wait, now)
        is_worth_it = failure.failure in WORTH_ASKING_AT_ONCE and not (request.is_for_robots and failure.status)
        if is_worth_it and request.attempts < self._limits.retries:
            self._count(-1, 0)
            request.attempts += 1
            self._schedule.add(site, request, now, wait or backoff)
        else:
            self._answer(request, failure)

    def _count_against(self, site: Site, failure: FetchError, now: float) -> None:
        """Give a site up that refuses, or is out of order, again and again. An answer of any other kind clears it."""
        is_opt_out, is_trouble = failure.failure == "opted_out", failure.failure in WORTH_ASKING_AT_ONCE | {"slow"}
        site.opt_outs_in_a_row = site.opt_outs_in_a_row + 1 if is_opt_out else 0
        site.troubles_in_a_row = site.troubles_in_a_row + 1 if is_trouble else 0
        if site.opt_outs_in_a_row == _OPT_OUTS_OF_A_SITE:
            self._schedule.close(site, FetchError("host_opted_out"), now)
        if site.troubles_in_a_row == _TROUBLES_OF_A_SITE:
            self._schedule.close(site, FetchError("host_down"), now)


def facts(request: Request, answer: Answer | FetchError) -> dict[str, Any]:
    """What a `Result` says of a response, whether it failed or not."""
    known: dict[str, Any] = {"attempts": request.attempts + 1, "status": answer.status}
    if request.hops:
        known |= {"final_url": request.address, "hops": request.hops}
    if isinstance(answer, FetchError):
        return known | {"retry_after": answer.retry_after}
    return known | {"etag": answer.headers.get("ETag"), "last_modified": answer.headers.get("Last-Modified")}


def _size(answer: Answer | FetchError) -> int:
    return len(answer.body) if isinstance(answer, Answer) else 0


def _location(url: str, answer: Answer) -> str:
    """Where a redirect leads. Raises FetchError `bad_url`.

    Letters beyond ASCII come as UTF-8, which fields are not read as; it is right where they are not UTF-8.
    """
    location = answer.headers.get("Location") or ""
    with contextlib.suppress(UnicodeError):
        location = location.encode("latin-1").decode()
    try:
        return joined_url(url, location)
    except FetchError as error:
        raise FetchError(error.failure, answer.status) from error


def _leaves(before: Origin, after: Origin) -> bool:
    """Whether a redirect leads to somebody else; from http to https of the same host it does not."""
    return before.host != after.host or after.port not in (before.port, 443)
