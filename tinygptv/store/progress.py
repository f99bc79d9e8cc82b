"""Progress of long-running work: a log line every few seconds, from a separate thread."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

INTERVAL_SECONDS = 5.0

T = TypeVar("T")


class Progress:
    """The state of some work: the current activity (`begin`) and counts of items processed (`count`)."""

    def __init__(self, name: str) -> None:
        self._name, self._doing = name, "starting"
        self._counts: dict[str, int] = {}

    def begin(self, what: str) -> None:
        """Set the current activity."""
        self._doing = what

    def count(self, what: str, items: Iterable[T], size: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
        """Pass the items through, counting them by size."""
        for item in items:
            self._counts[what] = self._counts.get(what, 0) + size(item)
            yield item

    def describe(self) -> str:
        """The current activity and all counts."""
        counted = "".join(f", {number:,} {what}" for what, number in self._counts.items())
        return f"{self._name}: {self._doing}{counted}"


@contextlib.contextmanager
def reporting(logger: logging.Logger, describe: Callable[[], str]) -> Iterator[None]:
    """Log `describe()` every `INTERVAL_SECONDS` within the context.

    `describe` is called from another thread and must only read.
    """
    is_over = threading.Event()

    def report() -> None:
        while not is_over.wait(INTERVAL_SECONDS):
            logger.info("%s", describe())

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        is_over.set()
        reporter.join()
