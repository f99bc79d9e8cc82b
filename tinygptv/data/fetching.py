"""Shards of URLs → shards of results, by an engine process that is watched: it ends, or it is ended."""

import contextlib
import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tinygptv.data.engine_process import STORAGE_FAILURES
from tinygptv.data.results import Asked, Results, write_request
from tinygptv.definitions.source import Download
from tinygptv.errors import LaunchError

logger = logging.getLogger(__name__)

ENGINES = {"native": "tinygptv.data.native.engine", "img2dataset": "tinygptv.data.img2dataset_engine"}
"""What `engine:` of a download may name → the module that is started (see `engine_process`)."""

_ENVIRONMENT = {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "WANDB_MODE": "disabled",
    "OMP_NUM_THREADS": "1",
    # Pictures come and go by the megabyte: memory is kept for the next one rather than given back and faulted in again,
    # in few arenas, so that threads share it. A quarter less work for the same pictures.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 27),
    "MALLOC_ARENA_MAX": "4",
}

_POLL_SECONDS, _LOG_SECONDS = 0.05, 5.0
_START_SECONDS, _LONGEST_WAIT_SECONDS = 60.0, 60.0
_DRAIN_SECONDS = 5.0
_MOST_DEATHS = 3
_LEAST_FREE_BYTES = 64 << 20
_BYTES_PER_PIXEL = 0.6  # of the square of image_size, for a picture as fetched and its copy in a shard
_LOG_TAIL_LINES = 8


class Fetch:
    """The fetching of numbered shards below one folder. What an earlier, interrupted one completed is kept."""

    def __init__(self, folder: Path, download: Download, allow_private: bool) -> None:
        self._folder, self._download, self._allow_private = folder, download, allow_private
        self._todo, self._done, self._progress = (folder / name for name in ("todo", "done", "progress"))
        self._sizes: list[int] = []
        for leftover in (self._todo, self._progress):
            shutil.rmtree(leftover, ignore_errors=True)
        for wanted in (self._todo, self._progress, self._done):
            wanted.mkdir(parents=True, exist_ok=True)

    def request(self, asked: list[Asked]) -> None:
        """Ask for the next shard, unless it is there already."""
        shard = len(self._sizes)
        self._sizes.append(len(asked))
        if not self._result(shard).exists():
            write_request(self._todo / f"{shard:05d}.jsonl", asked)

    def shards(self) -> Iterator[Results]:
        """The results of what was requested, by row position, shard after shard, while the engine goes on.

        An engine that is killed is started again. Raises LaunchError if it fails, stands still or is killed again and
        again, OSError if the disk is full.
        """
        missing = sum(not self._result(shard).exists() for shard in range(len(self._sizes)))
        if not missing:
            yield from (Results(self._result(shard)) for shard in range(len(self._sizes)))
            return
        logger.info("fetching %d URLs; %d of %d shards are missing", sum(self._sizes), missing, len(self._sizes))
        self._check_room()
        given, deaths = 0, 0
        while given < len(self._sizes):
            with self._engine() as process:
                for shard in self._watch(process, given):
                    yield Results(self._result(shard))
                    given = shard + 1
            if given == len(self._sizes):
                break
            deaths += process.returncode < 0
            self._judge_end(process.returncode, deaths)
            logger.warning("the download engine was killed by signal %d; starting it again", -process.returncode)

    def _check_room(self) -> None:
        """Raise OSError if there is no room to begin with; warn if there may not be enough."""
        free = shutil.disk_usage(self._folder).free
        if free < _LEAST_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))
        expected = sum(self._sizes) * self._download.image_size**2 * _BYTES_PER_PIXEL
        if expected > free:
            logger.warning("%s: about %.0f GB may be needed, %.0f are free", self._folder, expected / 1e9, free / 1e9)

    @contextlib.contextmanager
    def _engine(self) -> Iterator[subprocess.Popen[bytes]]:
        """The engine, started; whatever happens, it has ended when the context is left."""
        settings = {
            "download": self._download.model_dump(),
            "allow_private": self._allow_private,
            "parent": os.getpid(),
        }
        with (self._folder / "engine.log").open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", ENGINES[self._download.engine], str(self._folder), json.dumps(settings)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | _ENVIRONMENT,
            )
        try:
            yield process
        finally:
            _end(process)

    def _watch(self, process: subprocess.Popen[bytes], next_shard: int) -> Iterator[int]:
        """Each finished shard, in order, until the process ends. Raises LaunchError once no URL has been answered for
        longer than one may take."""
        patience_seconds = _START_SECONDS + (self._download.retries + 1) * (
            self._download.deadline_seconds + self._download.timeout_seconds + _LONGEST_WAIT_SECONDS
        )
        changed = logged = time.monotonic()
        answered, has_ended = 0, False
        while next_shard < len(self._sizes):
            if self._result(next_shard).exists():
                yield next_shard
                next_shard += 1
                changed = time.monotonic()
                continue
            if has_ended:
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
                has_ended = True
                continue
            now, before = time.monotonic(), answered
            answered = sum(_count(path) for path in self._progress.iterdir())
            changed = now if answered != before else changed
            if now - logged > _LOG_SECONDS:
                logger.info("%d URLs answered; %d of %d shards are there", answered, next_shard, len(self._sizes))
                logged = now
            if now - changed > patience_seconds:
                raise LaunchError(
                    f"the download engine has answered no URL for {patience_seconds:.0f} s (after {answered}, at shard "
                    f"{next_shard}) and was stopped; start the same command again: what was fetched is kept"
                )

    def _judge_end(self, exit_code: int, deaths: int) -> None:
        """Raise what an engine's end means, unless it was killed and may be started again."""
        if exit_code in STORAGE_FAILURES:
            raise OSError(exit_code, os.strerror(exit_code), str(self._folder))
        if exit_code >= 0 or deaths == _MOST_DEATHS:
            lost = sum(not self._result(shard).exists() for shard in range(len(self._sizes)))
            lines = (self._folder / "engine.log").read_text(errors="replace").splitlines()
            tail = " | ".join(lines[-_LOG_TAIL_LINES:])
            raise LaunchError(
                f"the download engine ended with exit code {exit_code} and {lost} of {len(self._sizes)} shards "
                f"missing; its last lines: {tail or 'none'}. "
                "Start the same command again: what was fetched is kept"
            )

    def _result(self, shard: int) -> Path:
        return self._done / f"{shard:05d}.results"


def _count(progress: Path) -> int:
    text = progress.read_text()
    return int(text) if text.isdecimal() else 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have the engine finish what it is doing, if it still runs; then end it and its workers, who share its session."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.terminate()
        process.wait(_DRAIN_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
