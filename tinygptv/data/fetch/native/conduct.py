"""What may be asked of a site, and what follows from its answers: robots.txt, redirects, further attempts, giving up.

One thread uses it. Requests that may be made wait in a `Schedule`; those that are answered are handed on.
"""

import contextlib
import queue
import time
from collections.abc import Callable

from tinygptv.data.fetch.guard import (
    WORTH_ASKING_AT_ONCE,
    FetchError,
    Origin,
    check_addresses,
    is_public,
    joined_url,
    origin_of,
    target_of,
)
from tinygptv.data.fetch.native.politeness import Request, Schedule, Site
from tinygptv.data.fetch.native.response import REDIRECTS, Answer
from tinygptv.data.fetch.native.robots import Robots, parse, text_of
from tinygptv.definitions.source import Download

MAX_WAIT_SECONDS = 30.0
"""A site that asks to be left alone for longer is not asked again in this run."""

PUBLIC_REQUESTS_PER_SECOND = 20.0
_MAX_HOPS = 5
_MAX_REMEMBERED_SITES = 20_000

_OPT_OUTS_OF_A_SITE, _TROUBLES_OF_A_SITE = 10, 32
"""So many in a row, and nothing more is asked of a site in this run."""

_NO_ROBOTS = frozenset({*range(300, 500)} - {408, 429})
"""Statuses that say that there is no robots.txt. One that came and cannot be read (2xx) says something unknown."""

_FIRST_BACKOFF_SECONDS = 1.0


class Conduct:
    """`unresolved` gets sites whose addresses are wanted, `answer` a request with what became of it. `refuse` says why
    an address that a redirect leads to must not be asked for, or None."""

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
        """What is known of an origin. One that is new will be resolved."""
        site = self._sites.get(origin)
        if site is None:
            if len(self._sites) >= _MAX_REMEMBERED_SITES:
                self._sites = {known: site for known, site in self._sites.items() if site.expected}
            site = self._sites[origin] = Site(origin)
            self._unresolved.put(site)
        return site

    def resolved(self, site: Site, found: tuple[str, ...] | FetchError, now: float) -> None:
        """Take note of a site's addresses, or that it may not be connected to."""
        if isinstance(found, FetchError):
            self.schedule.close(site, found, now)
            return
        site.addresses = found
        if not self._limits.robots:
            self._open(site, Robots(), now)
            return
        self.schedule.admit(site, 1, self._seconds_between(site), now)
        robots = Request(f"{site.origin}/robots.txt", self._heed(site), is_for_robots=True, turn=0)
        self.schedule.add(site, robots, now)

    def refusal(self, site: Site, request: Request) -> FetchError | None:
        """Why a request whose turn it is must not be made, if that is so."""
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

    def heard(self, site: Site, request: Request, outcome: Answer | FetchError, now: float) -> None:
        """Answer a request with what became of it, or have it made again, or its next hop."""
        if isinstance(outcome, FetchError):
            self._after_failure(site, request, outcome, now)
            return
        site.opt_outs_in_a_row = site.troubles_in_a_row = 0
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
        """Let what waits for a site be asked for, as its robots.txt has it."""
        site.robots = robots
        delay = robots.delay_seconds
        self.schedule.pause(site, delay, now)
        slots = 1 if delay else self._limits.connections_per_host
        self.schedule.admit(site, slots, max(delay, self._seconds_between(site)), now)

    def _heed(self, site: Site) -> Callable[[Request, Answer | FetchError], None]:
        """What the answer for a site's robots.txt leads to. Nothing may be asked for if the site does not answer."""

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
        next_site = self.site(origin)
        request.hops.append(url)
        request.has_left_its_origin |= _leaves(site.origin, origin)
        self.schedule.add(next_site, request, now)

    def _after_failure(self, site: Site, request: Request, failure: FetchError, now: float) -> None:
        """Answer with the failure, or have the request made again."""
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
        is_worth_it = failure.failure in WORTH_ASKING_AT_ONCE and not (request.is_for_robots and failure.status)
        if is_worth_it and request.attempts < self._limits.retries:
            request.attempts += 1
            self.schedule.add(site, request, now, wait or backoff)
        else:
            self._answer(request, failure)

    def _count_against(self, site: Site, failure: FetchError, now: float) -> None:
        """Give a site up that refuses, or is out of order, again and again. An answer of any other kind clears it."""
        is_opt_out, is_trouble = failure.failure == "opted_out", failure.failure in WORTH_ASKING_AT_ONCE | {"slow"}
        site.opt_outs_in_a_row = site.opt_outs_in_a_row + 1 if is_opt_out else 0
        site.troubles_in_a_row = site.troubles_in_a_row + 1 if is_trouble else 0
        if site.opt_outs_in_a_row == _OPT_OUTS_OF_A_SITE:
            self.schedule.close(site, FetchError("host_opted_out"), now)
        if site.troubles_in_a_row == _TROUBLES_OF_A_SITE:
            self.schedule.close(site, FetchError("host_down"), now)


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
