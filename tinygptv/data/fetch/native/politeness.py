"""Who is asked when: never more requests to a site at a time, nor per second, than are its due.

What is taken next is what came first, of the sites that may be asked: a site that is full, was asked a moment ago or
wants to be left alone is not among those. One thread uses it, so nothing here is locked.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tinygptv.data.fetch.guard import FetchError, Origin
from tinygptv.data.fetch.native.response import Answer
from tinygptv.data.fetch.native.robots import Robots

_UNLIMITED = 1 << 20


@dataclass(slots=True, eq=False)
class Request:
    """One URL on its way to an answer, which `on_answer` gets; `attempts` are those behind it, `hops` the addresses it
    was redirected to, of which the last one is asked now."""

    url: str
    on_answer: Callable[["Request", Answer | FetchError], None]
    etag: str | None = None
    last_modified: str | None = None
    hops: list[str] = field(default_factory=list)
    attempts: int = 0
    has_left_its_origin: bool = False
    is_for_robots: bool = False
    turn: int = -1
    """Its place in the order of asking, which hops and further attempts keep."""

    @property
    def address(self) -> str:
        """What is asked for now."""
        return self.hops[-1] if self.hops else self.url


@dataclass(slots=True, eq=False)
class Site:
    """One origin: what waits for it and what it allows.

    `slots` requests at once are its due: none before its addresses are known. Requests for robots.txt are `urgent`:
    they alone are made before `robots` is known. `closed` is the answer to everything, once nothing more will be asked.
    """

    origin: Origin
    addresses: tuple[str, ...] = ()
    robots: Robots | None = None
    opt_outs_in_a_row: int = 0
    troubles_in_a_row: int = 0
    closed: FetchError | None = None
    slots: int = 0
    seconds_between: float = 0.0
    urgent: deque[Request] = field(default_factory=deque)
    waiting: deque[Request] = field(default_factory=deque)
    active: int = 0
    not_before: float = 0.0
    is_ready: bool = False
    expected: int = 0
    """Requests that wait for it, now or later, or are being made."""


class Schedule:
    """The requests that wait. `now` is what the caller's clock says, in seconds."""

    def __init__(self) -> None:
        self._turns, self._order = itertools.count(), itertools.count()
        self._ready: list[tuple[int, int, Site]] = []
        self._resting: list[tuple[float, int, Site]] = []
        self._later: list[tuple[float, int, Site, Request]] = []

    def add(self, site: Site, request: Request, now: float, delay_seconds: float = 0.0) -> None:
        """Let a request wait for its site, not before the delay has passed."""
        site.expected += 1
        if request.turn < 0:
            request.turn = next(self._turns)
        if delay_seconds:
            heapq.heappush(self._later, (now + delay_seconds, next(self._order), site, request))
        else:
            self._queue(site, request, now)

    def take(self, now: float) -> tuple[Site, Request] | None:
        """The next request that may be made now, if any; `finish` must be called for its site once it is answered."""
        while self._later and self._later[0][0] <= now:
            _, _, site, request = heapq.heappop(self._later)
            self._queue(site, request, now)
        while self._resting and self._resting[0][0] <= now:
            _, _, site = heapq.heappop(self._resting)
            site.is_ready = False
            self._arrange(site, now)
        while self._ready:
            _, _, site = heapq.heappop(self._ready)
            site.is_ready = False
            if site.not_before <= now and self._has_work(site):
                return site, self._start(site, now)
            self._arrange(site, now)
        return None

    def next_due(self) -> float | None:
        """When `take`, which has nothing now, may have something if nothing else happens before."""
        due = [queue[0][0] for queue in (self._resting, self._later) if queue]
        return min(due, default=None)

    def finish(self, site: Site, now: float) -> None:
        """One request to a site has been answered."""
        site.active -= 1
        site.expected -= 1
        self._arrange(site, now)

    def admit(self, site: Site, slots: int, seconds_between: float, now: float) -> None:
        """Say how many requests at a time a site may have from now on, and how far apart they are."""
        site.slots, site.seconds_between = slots, seconds_between
        self._arrange(site, now)

    def pause(self, site: Site, seconds: float, now: float) -> None:
        """Ask nothing of a site for so long."""
        site.not_before = max(site.not_before, now + seconds)

    def close(self, site: Site, reason: FetchError, now: float) -> None:
        """Ask nothing more of a site: `reason`, or the one it was closed for before, answers all
        that waits or comes."""
        site.closed = site.closed or reason
        site.slots, site.seconds_between, site.not_before = _UNLIMITED, 0.0, 0.0
        self._arrange(site, now)

    def _queue(self, site: Site, request: Request, now: float) -> None:
        (site.urgent if request.is_for_robots else site.waiting).append(request)
        self._arrange(site, now)

    def _has_work(self, site: Site) -> bool:
        may_be_asked = site.robots is not None or site.closed is not None
        return site.active < site.slots and bool(site.urgent or (may_be_asked and site.waiting))

    def _start(self, site: Site, now: float) -> Request:
        request = (site.urgent or site.waiting).popleft()
        site.active += 1
        site.not_before = now + site.seconds_between
        self._arrange(site, now)
        return request

    def _arrange(self, site: Site, now: float) -> None:
        """Put a site among the ready ones, or those that have to rest, if it has something to ask and is not full."""
        if site.is_ready or not self._has_work(site):
            return
        site.is_ready = True
        if site.not_before > now:
            heapq.heappush(self._resting, (site.not_before, next(self._order), site))
        else:
            turn = (site.urgent or site.waiting)[0].turn
            heapq.heappush(self._ready, (turn, next(self._order), site))
