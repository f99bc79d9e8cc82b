"""Ranks for test_launch.py: they say their process id and do what their job file asks, without any training."""

import json
import os
import signal
import sys
from pathlib import Path

from tinygptv.errors import DataError
from tinygptv.train import rank


def act(job: Path, beat: rank.Beat) -> None:
    number = int(os.environ["RANK"])
    sys.stdout.write(f"rank {number} is {os.getpid()}\n")
    sys.stdout.flush()
    match json.loads(job.read_text())[number]:
        case "end":
            return
        case "fail":
            # Open until this process has ended, which is what the other rank's echo waits for.
            os.open(job.with_suffix(".fifo"), os.O_WRONLY)
            raise DataError("the shard is empty; draw it again")
        case "echo":
            job.with_suffix(".fifo").read_bytes()
            raise RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1234")
        case "be killed":
            # Not before the other rank has said its process id.
            job.with_suffix(".fifo").read_bytes()
            os.kill(os.getpid(), signal.SIGKILL)
        case "tell and wait":
            os.close(os.open(job.with_suffix(".fifo"), os.O_WRONLY))
            signal.pause()
        case "wait":
            stuck()
        case "die once":
            if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)
        case "wait once":
            if not (waited := job.with_suffix(".waited")).exists():
                waited.touch()
                stuck()
        case "hang once":
            if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                beat("looking for an end")
                stuck()


def stuck() -> None:
    while True:  # the question where it is wakes it, too
        signal.pause()


if __name__ == "__main__":
    rank.run(act)
