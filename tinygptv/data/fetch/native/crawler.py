"""URLs → answers, many at a time.

One thread decides (`conduct`) and drives the wire; resolvers look hosts up, and workers, as many as there are cores,
are handed the answers. Each hop of a redirect and each further attempt is a request like any other: it waits for its
site's turn, and every rule is applied to it anew.
"""

import os
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Self

from tinygptv.data.fetch.guard import CONTACT, FetchError, addresses, check_addresses, origin_of
from tinygptv.data.fetch.native.conduct import Conduct
from tinygptv.data.fetch.native.exchange import Exchange, Repeat
from tinygptv.data.fetch.native.politeness import Request, Site
from tinygptv.data.fetch.native.response import Answer
from tinygptv.data.fetch.native.robots import MAX_BYTES
from tinygptv.data.fetch.native.wire import Wire
from tinygptv.definitions.source import Download

_MAX_PENDING = 8192
"""Requests in memory. Among so many are enough sites to keep the wire busy, however the table is sorted."""

_MAX_HELD_BYTES = 64 << 20
"""Of bodies that wait for a worker; with more, nothing new is asked for."""

_RESOLVERS = 16  # at once; resolvers drop the questions of those who ask more, and every drop costs seconds
_ROOM_SECONDS = 0.2


class Crawler:
    """Answers requests until it is left; `failed` gets an exception that `on_answer` raised, which is nobody's answer.

    A request is answered exactly once, by a worker, unless the crawler is left before. `refuse` says why an address
    that a redirect leads to must not be asked for, or None.
    """

    def __init__(
        self,
        limits: Download,
        allow_private: bool,
        failed: "queue.SimpleQueue[BaseException | None]",
        refuse: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._limits, self._allow_private, self._failed = limits, allow_private, failed
        contact = limits.contact or os.environ.get(CONTACT)
        self._headers = [f"User-Agent: {limits.user_agent}" + (f" (+{contact})" if contact else "")]
        self._inbox: queue.SimpleQueue[Callable[[float], None]] = queue.SimpleQueue()
        self._unresolved: queue.SimpleQueue[Site | None] = queue.SimpleQueue()
        self._answered: queue.SimpleQueue[tuple[Request, Answer | FetchError] | None] = queue.SimpleQueue()
        self._wire = Wire()
        self._conduct = Conduct(limits, refuse, self._unresolved, self._hand_on)
        self._room = threading.Semaphore(_MAX_PENDING)
        self._is_stopping = self._is_abandoned = False
        self._handed_on = self._held_bytes = 0
        self._is_full, self._counting = False, threading.Lock()
        self._low_water = limits.threads * 3 // 4
        work = [self._work] * (os.cpu_count() or 1)
        self._driver, *self._others = [
            threading.Thread(target=self._guarded, args=(task,), daemon=True)
            for task in (self._drive, *work, *[self._resolve] * _RESOLVERS)
        ]
        self._workers = self._others[: len(work)]

    def __enter__(self) -> Self:
        for thread in (self._driver, *self._others):
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        """Finish the requests that are being made, unless there is an error; those that wait are not made."""
        self._is_abandoned = kind is not None
        self.stop()
        self._driver.join()
        for _resolver in range(_RESOLVERS):
            self._unresolved.put(None)
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
        while not self._room.acquire(timeout=_ROOM_SECONDS):
            if self._is_stopping:
                return
        self._post(lambda now: self._conduct.schedule.add(self._conduct.site(origin), request, now))

    def stop(self) -> None:
        """Begin no further request. May be called from a signal handler."""
        self._is_stopping = True
        self._wire.wake()

    def _guarded(self, task: Callable[[], None]) -> None:
        """What goes wrong in a thread ends the crawl, not just the thread."""
        try:
            task()
        except BaseException as error:
            self._failed.put(error)
            self._is_stopping = True

    def _post(self, what: Callable[[float], None]) -> None:
        """Have the driver do something."""
        self._inbox.put(what)
        self._wire.wake()

    def _resolve(self) -> None:
        """Resolver threads: learn sites' addresses, and whether they may be connected to."""
        while (site := self._unresolved.get()) is not None:
            found: tuple[str, ...] | FetchError
            try:
                found = addresses(site.origin.host)
                check_addresses(found, self._allow_private)
            except FetchError as refused:
                found = refused
            self._post(partial(self._conduct.resolved, site, found))

    def _work(self) -> None:
        """Workers: hand answers to those who asked."""
        while (answered := self._answered.get()) is not None and not self._is_abandoned:
            request, answer = answered
            try:
                request.on_answer(request, answer)
            finally:
                self._room.release()
                self._count(-1, -_size(answer))

    def _hand_on(self, request: Request, answer: Answer | FetchError) -> None:
        """To the workers, but for what the driver itself asked for."""
        if request.is_for_robots:
            request.on_answer(request, answer)
            return
        self._count(1, _size(answer))
        self._answered.put((request, answer))

    def _count(self, answers: int, held_bytes: int) -> None:
        """Answers that workers have not dealt with, and the bytes of their bodies."""
        with self._counting:
            self._handed_on += answers
            self._held_bytes += held_bytes
        if self._is_full and answers < 0 and len(self._wire) + self._handed_on <= self._low_water:
            self._wire.wake()

    def _drive(self) -> None:
        """The driver: make the requests whose turn it is, and do what follows from their answers."""
        while not self._is_abandoned and (len(self._wire) or not self._is_stopping):
            now = time.monotonic()
            while not self._inbox.empty():
                self._inbox.get()(now)
            wait = self._begin_what_may_begin(now)
            for exchange in self._wire.step(wait):
                self._finish(exchange, time.monotonic())

    def _begin_what_may_begin(self, now: float) -> float | None:
        """Start requests, as many as the limits allow; the seconds until there may be more to start, if known."""
        schedule = self._conduct.schedule
        while not self._is_stopping:
            under_way = len(self._wire) + self._handed_on
            most = self._low_water if self._is_full else self._limits.threads - 1
            self._is_full = under_way > most or self._held_bytes > _MAX_HELD_BYTES
            if self._is_full:
                return None
            taken = schedule.take(now)
            if taken is None:
                due = schedule.next_due()
                return None if due is None else max(0.0, due - now)
            site, request = taken
            refused = self._conduct.refusal(site, request)
            if refused is None:
                self._wire.start(self._exchange(site, request))
            else:
                schedule.finish(site, now)
                self._hand_on(request, refused)
        return None

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
            agent_token=None if request.is_for_robots else self._conduct.agent_token,
            is_cut=request.is_for_robots,
            is_conditional=bool(asked),
            repeat=repeat,
        )

    def _finish(self, exchange: Exchange, now: float) -> None:
        site, request = exchange.owner
        if exchange.repeat is not None:
            self._wire.start(self._exchange(site, request, exchange.repeat))
            return
        if exchange.connected_to in site.addresses:  # the next connection need not find out anew which address answers
            others = (address for address in site.addresses if address != exchange.connected_to)
            site.addresses = (exchange.connected_to, *others)
        self._conduct.schedule.finish(site, now)
        assert exchange.outcome is not None
        self._conduct.heard(site, request, exchange.outcome, now)


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
