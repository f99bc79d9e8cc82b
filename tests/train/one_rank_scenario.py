"""What the rank of test_worker.py's one-rank start runs: the job it was given, then one that two ranks began."""

import os
from pathlib import Path

from tests.train.training_scenario import train
from tinygptv.train import rank, worker


def scenario(job: Path, beat: rank.Beat) -> None:
    worker.train(job, beat)
    train(Path(os.environ["MOVED"]))


if __name__ == "__main__":
    rank.run(scenario)
