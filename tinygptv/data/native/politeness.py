"""Who is asked when: never more connections to a site, nor requests per second, than are its due.

A thread that wants work takes the request of the site that has waited longest; a site that is full, was asked a moment
ago or wants to be left alone is not among those. So threads wait only when nobody may be asked.
"""

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tinygptv.data.guard import FetchError, Origin
from tinygptv.data.native.robots import Robots
from tinygptv.data.native.session import Answer

_UNLIMITED = 1 << 20


@dataclass(slots=True, eq=False)
class Request:
    """One URL on its way to an answer, which `on_answer` gets; `hops` and `attempts` are those behind it."""

    url: str
    on_answer: Callable[["Request", Answer | FetchError], None]
    etag: str | None = None
    last_modified: str | None = None
    hops: int = 0
    attempts: int = 0
    has_left_its_origin: bool = False


@dataclass(slots=True, eq=False)
class Site:
    """One origin: what waits for it, what it allows, and the connections kept to it.

    `slots` requests at once are its due: none before its addresses are known, one before its robots.txt is. `closed` is
    the answer to everything, once nothing more will be asked of it.
    """

    origin: Origin
    addresses: tuple[str, ...] = ()
    robots: Robots | None = None
    robots_attempts: int = 0
    opt_outs_in_a_row: int = 0
    troubles_in_a_row: int = 0
    closed: FetchError | None = None
    slots: int = 0
    seconds_between: float = 0.0
    waiting: deque[Request] = field(default_factory=deque)
    active: int = 0
    not_before: float = 0.0
    is_ready: bool = False
    expected: int = 0
    """Requests that wait for it, now or later, or are being made."""


class Schedule:
    """The requests that wait, for any number of threads to take them one by one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._order = itertools.count()
        self._ready: list[tuple[float, int, Site]] = []
        self._later: list[tuple[float, int, Site, Request]] = []
        self._is_stopping = False

    def add(self, site: Site, request: Request, delay_seconds: float = 0.0) -> None:
        """Let a request wait for its site, not before the delay has passed."""
        with self._changed:
            site.expected += 1
            if delay_seconds:
                due = time.monotonic() + delay_seconds
                heapq.heappush(self._later, (due, next(self._order), site, request))
                self._changed.notify()
            else:
                site.waiting.append(request)
                self._arrange(site)

    def take(self) -> tuple[Site, Request] | None:
        """The next request that may be made now, waiting for one if need be; None when `stop` was called.

        `finish` must be called for its site once the answer is there.
        """
        with self._changed:
            while not self._is_stopping:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    _, _, site, request = heapq.heappop(self._later)
                    site.waiting.append(request)
                    self._arrange(site)
                if self._ready and self._ready[0][0] <= now:
                    _, _, site = heapq.heappop(self._ready)
                    site.is_ready = False
                    if site.not_before <= now:
                        return self._start(site, now)
                    self._arrange(site)
                    continue
                due = [queue[0][0] for queue in (self._ready, self._later) if queue]
                self._changed.wait(min(due) - now if due else None)
        return None

    def finish(self, site: Site) -> None:
        """One request to a site has been answered."""
        with self._changed:
            site.active -= 1
            site.expected -= 1
            self._arrange(site)

    def admit(self, site: Site, slots: int, seconds_between: float | None = None) -> None:
        """Say how many connections a site may have from now on, and how far apart its requests are."""
        with self._changed:
            site.slots = slots
            site.seconds_between = site.seconds_between if seconds_between is None else seconds_between
            self._arrange(site)

    def pause(self, site: Site, seconds: float) -> None:
        """Ask nothing of a site for so long."""
        with self._changed:
            site.not_before = max(site.not_before, time.monotonic() + seconds)

    def close(self, site: Site, reason: FetchError) -> None:
        """Ask nothing more of a site: `reason` answers all that waits or comes."""
        with self._changed:
            site.closed, site.slots, site.seconds_between, site.not_before = reason, _UNLIMITED, 0.0, 0.0
            self._arrange(site)

    def stop(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    def _start(self, site: Site, now: float) -> tuple[Site, Request]:
        request = site.waiting.popleft()
        site.active += 1
        site.not_before = now + site.seconds_between
        self._arrange(site)
        return site, request

    def _arrange(self, site: Site) -> None:
        """Put a site among the ready ones if it has something to ask and is not full. One thread is woken for it, which
        wakes the next if the site has more: whoever wakes for nothing disturbs those who decode."""
        if site.waiting and site.active < site.slots and not site.is_ready:
            heapq.heappush(self._ready, (max(site.not_before, time.monotonic()), next(self._order), site))
            site.is_ready = True
            self._changed.notify()
