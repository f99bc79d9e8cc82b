"""The entry point of each rank under torchrun: make it end with its agent, then train.

Heavy imports come after that, because a rank must also end if its agent dies while it is importing.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tinygptv.errors import TinyGPTVError
from tinygptv.train.events import record
from tinygptv.train.launch.heartbeat import RANKS, Heartbeat
from tinygptv.train.launch.torchrun import end_with_agent, failures, record_failure

Beat = Callable[[str], None]


def run(train: Callable[[Path, Beat], None]) -> None:
    """Call `train` with the job file named on the command line and the function that reports a sign of life.

    An error ends the rank and is left in a file for the launcher. A group that was restarted after an error that would
    happen again ends at once.
    """
    end_with_agent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", type=Path, required=True)
    job, rank = parser.parse_args().job, int(os.environ["RANK"])
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s", stream=sys.stdout)
    if any(failure["final"] for failure in failures(job.parent)):
        os._exit(1)
    # torchrun's own restart count ignores ranks that were lost on other machines.
    begun_before = (job.parent / RANKS / f"{rank}.heartbeat.json").exists()
    heartbeat = Heartbeat(job.parent / RANKS, rank)
    if rank == 0 and begun_before:
        record(job.parent, "restarted")
    try:
        train(job, heartbeat.beat)
    except Exception as error:
        record_failure(job, rank, time.time(), error)
        expected = isinstance(error, TinyGPTVError)
        logging.error("rank %d: %s: %s", rank, type(error).__name__, error, exc_info=None if expected else error)
        # Exit at once: a regular exit would wait for collectives that other ranks are still in.
        os._exit(1)


def _train(job: Path, beat: Beat) -> None:
    from tinygptv.train import worker

    worker.train(job, beat)


if __name__ == "__main__":
    run(_train)
