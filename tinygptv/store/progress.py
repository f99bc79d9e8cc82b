"""Long work says how far it is: a line every few seconds, whatever the thread that does it is waiting for."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

INTERVAL_SECONDS = 5.0

T = TypeVar("T")


class Progress:
    """How far some work is: it `begin`s one thing after the other, and `count`s what passes."""

    def __init__(self, name: str) -> None:
        self._name, self._doing = name, "beginning"
        self._counts: dict[str, int] = {}

    def begin(self, what: str) -> None:
        """Say what is being done from now on."""
        self._doing = what

    def count(self, what: str, items: Iterable[T], size: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
        """The items, counted by their size."""
        for item in items:
            self._counts[what] = self._counts.get(what, 0) + size(item)
            yield item

    def describe(self) -> str:
        """What is being done, and all counts."""
        counted = "".join(f", {number:,} {what}" for what, number in self._counts.items())
        return f"{self._name}: {self._doing}{counted}"


@contextlib.contextmanager
def reporting(logger: logging.Logger, describe: Callable[[], str]) -> Iterator[None]:
    """Log what `describe` says, every `INTERVAL_SECONDS` until the context is left; nothing if it is left before.

    `describe` is called by another thread, and must only read.
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
