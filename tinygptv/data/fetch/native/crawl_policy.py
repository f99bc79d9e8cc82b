"""Crawl policy: what may be requested of a site and how to react to its answers (robots.txt, redirects, retries).

Used by one thread only. Requests that may be made wait in a `Schedule`; answered ones are passed on.
"""

import contextlib
import queue
import time
from collections.abc import Callable

from tinygptv.data.fetch.guard import (
    RETRY_AT_ONCE,
    FetchError,
    Origin,
    check_addresses,
    is_public,
    origin_of,
    resolve_url,
    target_of,
)
from tinygptv.data.fetch.native.politeness import Request, Schedule, Site
from tinygptv.data.fetch.native.response import REDIRECTS, Answer
from tinygptv.data.fetch.native.robots import Robots, parse, text_of
from tinygptv.definitions.source import Download

MAX_WAIT_SECONDS = 30.0
"""A site that asks us to wait longer is not requested again in this run."""

PUBLIC_REQUESTS_PER_SECOND = 20.0
_MAX_HOPS = 5
_MAX_REMEMBERED_SITES = 20_000

_MAX_OPT_OUTS_IN_A_ROW, _MAX_FAILURES_IN_A_ROW = 10, 32
"""After so many in a row, nothing more is requested of a site in this run."""

_NO_ROBOTS = frozenset({*range(300, 500)} - {408, 429})
"""Statuses that mean there is no robots.txt. An unreadable one (2xx) may forbid anything."""

_FIRST_BACKOFF_SECONDS = 1.0


class CrawlPolicy:
    """Decides what is requested next.

    `unresolved` receives sites whose addresses are needed; `answer` receives each request with its outcome. `refuse`
    returns why a redirect target must not be requested, or None.
    """

    def __init__(
        self,
        limits: Download,
        refuse: Callable[[str], str | None],
        unresolved: "queue.SimpleQueue[Site | None]",
        answer: Callable[[Request, Answer | FetchError], None],
    ) -> None:
        self.schedule = Schedule()
        self.agent_token = limits.user_agent.partition("/")[0].strip().lower()
        self._limits, self._refuse, self._unresolved, self._answer = limits, refuse, unresolved, answer
        self._sites: dict[Origin, Site] = {}

    def site(self, origin: Origin) -> Site:
        """The state of an origin; a new one is queued for resolving."""
        site = self._sites.get(origin)
        if site is None:
            if len(self._sites) >= _MAX_REMEMBERED_SITES:
                self._sites = {known: site for known, site in self._sites.items() if site.expected}
            site = self._sites[origin] = Site(origin)
            self._unresolved.put(site)
        return site

    def on_resolved(self, site: Site, found: tuple[str, ...] | FetchError, now: float) -> None:
        """Record a site's addresses, or that connecting to it is not allowed."""
        if isinstance(found, FetchError):
            self.schedule.close(site, found, now)
            return
        site.addresses = found
        if not self._limits.robots:
            self._open(site, Robots(), now)
            return
        self.schedule.admit(site, 1, self._seconds_between(site), now)
        robots = Request(f"{site.origin}/robots.txt", self._robots_handler(site), is_for_robots=True, turn=0)
        self.schedule.add(site, robots, now)

    def refusal(self, site: Site, request: Request) -> FetchError | None:
        """Why a request that is due must not be made, or None."""
        if site.closed is not None:
            return site.closed
        try:
            if request.has_left_its_origin:
                check_addresses(site.addresses, allow_private=False)
        except FetchError as refused:
            return refused
        rules = None if request.is_for_robots else site.robots
        if rules and rules.rules and not rules.allow(target_of(request.address)):
            return FetchError("robots_disallowed")
        return None

    def on_outcome(self, site: Site, request: Request, outcome: Answer | FetchError, now: float) -> None:
        """Handle a request's outcome: answer it, retry it, or follow its redirect."""
        if isinstance(outcome, FetchError):
            self._after_failure(site, request, outcome, now)
            return
        site.opt_outs_in_a_row = site.failures_in_a_row = 0
        if outcome.status in REDIRECTS:
            self._redirect(site, request, outcome, now)
        else:
            self._answer(request, outcome)

    def _seconds_between(self, site: Site) -> float:
        rate = self._limits.requests_per_second_per_host
        if rate is None and all(map(is_public, site.addresses)):
            rate = PUBLIC_REQUESTS_PER_SECOND
        return 1 / rate if rate else 0.0

    def _open(self, site: Site, robots: Robots, now: float) -> None:
        """Allow the requests that wait for a site, within its robots.txt."""
        site.robots = robots
        delay = robots.delay_seconds
        self.schedule.pause(site, delay, now)
        slots = 1 if delay else self._limits.connections_per_host
        self.schedule.admit(site, slots, max(delay, self._seconds_between(site)), now)

    def _robots_handler(self, site: Site) -> Callable[[Request, Answer | FetchError], None]:
        """The callback for a site's robots.txt. If the site does not answer, nothing may be requested."""

        def on_answer(_: Request, answer: Answer | FetchError) -> None:
            now = time.monotonic()
            if isinstance(answer, Answer):
                self._open(site, parse(text_of(answer.body), self.agent_token), now)
            elif answer.status in _NO_ROBOTS:
                self._open(site, Robots(), now)
            else:
                name = "robots_unreachable" if answer.status else answer.failure
                self.schedule.close(site, FetchError(name, answer.status, answer.retry_after), now)

        return on_answer

    def _redirect(self, site: Site, request: Request, answer: Answer, now: float) -> None:
        """Queue the next hop, or answer why it must not be requested."""
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
        next_site = self.site(origin)
        request.hops.append(url)
        request.has_left_its_origin |= _leaves_site(site.origin, origin)
        self.schedule.add(next_site, request, now)

    def _after_failure(self, site: Site, request: Request, failure: FetchError, now: float) -> None:
        """Retry the request, or answer with the failure."""
        if site.closed:
            self._answer(request, failure)
            return
        self._count_against(site, failure, now)
        backoff = _FIRST_BACKOFF_SECONDS * 2**request.attempts
        wait = failure.retry_after or (backoff if failure.status == 429 else 0.0)
        if wait > MAX_WAIT_SECONDS:
            self.schedule.close(site, FetchError("host_busy", retry_after=wait), now)
            self._answer(request, failure)
            return
        self.schedule.pause(site, wait, now)
        is_worth_it = failure.failure in RETRY_AT_ONCE and not (request.is_for_robots and failure.status)
        if is_worth_it and request.attempts < self._limits.retries:
            request.attempts += 1
            self.schedule.add(site, request, now, wait or backoff)
        else:
            self._answer(request, failure)

    def _count_against(self, site: Site, failure: FetchError, now: float) -> None:
        """Give up on a site after too many opt-outs or failures in a row; any other answer resets the count."""
        is_opt_out, is_failure = failure.failure == "opted_out", failure.failure in RETRY_AT_ONCE | {"slow"}
        site.opt_outs_in_a_row = site.opt_outs_in_a_row + 1 if is_opt_out else 0
        site.failures_in_a_row = site.failures_in_a_row + 1 if is_failure else 0
        if site.opt_outs_in_a_row == _MAX_OPT_OUTS_IN_A_ROW:
            self.schedule.close(site, FetchError("host_opted_out"), now)
        if site.failures_in_a_row == _MAX_FAILURES_IN_A_ROW:
            self.schedule.close(site, FetchError("host_down"), now)


def _location(url: str, answer: Answer) -> str:
    """The target of a redirect. Raises FetchError `bad_url`.

    Headers are decoded as Latin-1; a target that is valid UTF-8 is taken as UTF-8.
    """
    location = answer.headers.get("Location") or ""
    with contextlib.suppress(UnicodeError):
        location = location.encode("latin-1").decode()
    try:
        return resolve_url(url, location)
    except FetchError as error:
        raise FetchError(error.failure, answer.status) from error


def _leaves_site(before: Origin, after: Origin) -> bool:
    """Whether a redirect leads to another site. From http to https of the same host does not count."""
    return before.host != after.host or after.port not in (before.port, 443)
