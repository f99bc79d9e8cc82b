"""When each site is asked: never more requests at once, nor per second, than its limits allow.

The next request is the earliest one whose site may be asked: a site that is full, was asked a moment ago or wants to be
left alone is skipped. Used by one thread only, so nothing is locked.
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
    """One URL to fetch; `on_answer` receives the answer. `attempts` counts failed ones, `hops` are the redirects
    followed, the last of which is the current address."""

    url: str
    on_answer: Callable[["Request", Answer | FetchError], None]
    etag: str | None = None
    last_modified: str | None = None
    hops: list[str] = field(default_factory=list)
    attempts: int = 0
    has_left_its_origin: bool = False
    is_for_robots: bool = False
    turn: int = -1
    """Position in the fetch order, kept through redirects and retries."""

    @property
    def address(self) -> str:
        """The address to request now."""
        return self.hops[-1] if self.hops else self.url


@dataclass(slots=True, eq=False)
class Site:
    """One origin: its waiting requests and its limits.

    At most `slots` requests run at once; none before its addresses are known. Requests for robots.txt are `urgent`:
    they alone are made before `robots` is known. Once `closed` is set, it answers every request.
    """

    origin: Origin
    addresses: tuple[str, ...] = ()
    robots: Robots | None = None
    opt_outs_in_a_row: int = 0
    failures_in_a_row: int = 0
    closed: FetchError | None = None
    slots: int = 0
    seconds_between: float = 0.0
    urgent: deque[Request] = field(default_factory=deque)
    waiting: deque[Request] = field(default_factory=deque)
    active: int = 0
    not_before: float = 0.0
    is_ready: bool = False
    expected: int = 0
    """Requests that wait for it, now or later, or are in flight."""


class Schedule:
    """The waiting requests. `now` is the caller's monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._turns, self._order = itertools.count(), itertools.count()
        self._ready: list[tuple[int, int, Site]] = []
        self._resting: list[tuple[float, int, Site]] = []
        self._later: list[tuple[float, int, Site, Request]] = []

    def add(self, site: Site, request: Request, now: float, delay_seconds: float = 0.0) -> None:
        """Queue a request for its site, once the delay has passed."""
        site.expected += 1
        if request.turn < 0:
            request.turn = next(self._turns)
        if delay_seconds:
            heapq.heappush(self._later, (now + delay_seconds, next(self._order), site, request))
        else:
            self._queue(site, request, now)

    def take(self, now: float) -> tuple[Site, Request] | None:
        """The next request that may be made now, or None. Call `finish` for its site once it is answered."""
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
        """The earliest time at which `take` may have a request again, if nothing else happens."""
        due = [queue[0][0] for queue in (self._resting, self._later) if queue]
        return min(due, default=None)

    def finish(self, site: Site, now: float) -> None:
        """Record that a request to a site has been answered."""
        site.active -= 1
        site.expected -= 1
        self._arrange(site, now)

    def admit(self, site: Site, slots: int, seconds_between: float, now: float) -> None:
        """Set how many requests a site may have at once, and the seconds between them."""
        site.slots, site.seconds_between = slots, seconds_between
        self._arrange(site, now)

    def pause(self, site: Site, seconds: float, now: float) -> None:
        """Request nothing of a site for so many seconds."""
        site.not_before = max(site.not_before, now + seconds)

    def close(self, site: Site, reason: FetchError, now: float) -> None:
        """Request nothing more of a site: all waiting and future requests are answered with the first `reason`."""
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
        """Put a site with work and a free slot among the ready or the resting ones."""
        if site.is_ready or not self._has_work(site):
            return
        site.is_ready = True
        if site.not_before > now:
            heapq.heappush(self._resting, (site.not_before, next(self._order), site))
        else:
            turn = (site.urgent or site.waiting)[0].turn
            heapq.heappush(self._ready, (turn, next(self._order), site))
