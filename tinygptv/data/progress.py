"""Long work says how far it is: a line every few seconds, whatever the thread that does it is waiting for."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

INTERVAL_SECONDS = 5.0


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
