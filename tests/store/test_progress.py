"""Lines that say how far long work is."""

import logging
import time

import pytest

from tinygptv.store import progress
from tinygptv.store.progress import Progress, reporting

logger = logging.getLogger(__name__)


def test_what_is_done_and_counted_is_said_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.01)
    work = Progress("filter pairs")
    with caplog.at_level(logging.INFO), reporting(logger, work.describe):
        work.begin("writing")
        assert list(work.count("rows written", ["ab", "cde"], len)) == ["ab", "cde"]
        time.sleep(0.2)
    said = len(caplog.messages)
    assert caplog.messages[-1] == "filter pairs: writing, 5 rows written"
    time.sleep(0.05)
    assert len(caplog.messages) == said, "nothing more once the work is over"


def test_short_work_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), reporting(logger, Progress("a moment").describe):
        """It is over."""
    assert not caplog.messages
