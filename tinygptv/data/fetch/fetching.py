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
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Self

from tinygptv.data.fetch.engine_process import GO, STORAGE_FAILURES, in_hand
from tinygptv.data.fetch.refusals import Refusals
from tinygptv.data.fetch.results import Asked, Results, write_request
from tinygptv.data.pictures.plugins import NOTICE
from tinygptv.definitions.source import Download
from tinygptv.errors import LaunchError
from tinygptv.store.progress import reporting

logger = logging.getLogger(__name__)

ENGINES = {"native": "tinygptv.data.fetch.native.engine", "img2dataset": "tinygptv.data.fetch.img2dataset"}
"""What `engine:` of a download may name → the module that is started (see `engine_process`)."""

ENVIRONMENT = {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "WANDB_MODE": "disabled",
    "OMP_NUM_THREADS": "1",
    # Pictures come and go by the megabyte: memory is kept for the next one rather than given back and faulted in again,
    # in few arenas, so that threads share it. A quarter less work for the same pictures.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 27),
    "MALLOC_ARENA_MAX": "4",
}
"""What every engine runs under."""

_POLL_SECONDS = 0.05
_START_SECONDS, _LONGEST_WAIT_SECONDS = 60.0, 60.0
_DRAIN_SECONDS = 5.0
_MOST_DEATHS, _MOST_IDLE_DEATHS = 100, 3
"""Of engines in one run; and of engines that neither answered nor decoded anything, in a row."""
_LEAST_FREE_BYTES = 64 << 20
_BYTES_PER_PIXEL = 0.6  # of the square of image_size, for a picture as fetched and its copy in a shard
_LOG_TAIL_LINES = 8


class Fetch:
    """The fetching of numbered shards below one folder. What an earlier, interrupted one completed is kept.

    No redirect is followed to an address that `refusals` name.

    As a context it has an engine get ready at once, while what to ask for is found out.
    """

    def __init__(self, folder: Path, download: Download, allow_private: bool, refusals: Refusals | None = None) -> None:
        self._folder, self._download, self._allow_private = folder, download, allow_private
        self._todo, self._done, self._progress = (folder / name for name in ("todo", "done", "progress"))
        self._sizes: list[int] = []
        self._suspects: set[int] = set()
        self._guilty: set[int] = set()
        self._spare: subprocess.Popen[bytes] | None = None
        for leftover in (self._todo, self._progress):
            shutil.rmtree(leftover, ignore_errors=True)
        for wanted in (self._todo, self._progress, self._done):
            wanted.mkdir(parents=True, exist_ok=True)
        if refusals is not None:
            refusals.write(folder)

    def __enter__(self) -> Self:
        self._spare = self._start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._spare is not None:
            self._end(self._spare)

    def request(self, asked: list[Asked]) -> None:
        """Ask for the next shard, unless it is there already."""
        shard = len(self._sizes)
        self._sizes.append(len(asked))
        if not self._result(shard).exists():
            write_request(self._todo / f"{shard:05d}.jsonl", asked)

    def shards(self) -> Generator[Results]:
        """The results of what was requested, by row position, shard after shard; one that is not there yet is waited
        for when it is looked up.

        An engine that is killed is started again; a picture over which it crashes twice is given up: `engine_crash`.
        Waiting raises LaunchError if the engine fails, stands still or dies again and again, OSError if the disk is
        full.
        """
        with contextlib.closing(self._looks()) as looks, reporting(logger, self._describe):
            for shard in range(len(self._sizes)):
                yield Results(self._result(shard), lambda: next(looks, None))
                while not self._result(shard).exists():
                    next(looks, None)

    def results(self, shard: int) -> Results:
        """Those of a shard that is known to be asked for; what is not there yet is waited for by `shards` alone."""
        return Results(self._result(shard))

    def _looks(self) -> Generator[None]:
        """One look at the engine after the other, until it has done everything."""
        logger.info("fetching %d URLs; %d of %d shards are missing", sum(self._sizes), self._lost(), len(self._sizes))
        self._check_room()
        deaths = idle_deaths = 0
        while self._lost():
            size = self._done_bytes()
            with self._engine() as process:
                yield from self._watch(process)
            if not self._lost():
                return
            held = in_hand(self._folder)
            deaths, idle_deaths = deaths + 1, 0 if held or self._done_bytes() > size else idle_deaths + 1
            self._judge_end(process.returncode, deaths == _MOST_DEATHS or idle_deaths == _MOST_IDLE_DEATHS)
            self._guilty |= held & self._suspects
            self._suspects |= held
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
        """An engine at work; whatever happens, it has ended when the context is left."""
        process, self._spare = self._spare or self._start(), None
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(GO)
            yield process
        finally:
            self._end(process)
            self._repeat_notices()

    def _repeat_notices(self) -> None:
        """Log what an engine has found missing on this machine, each line once."""
        lines = (self._folder / "engine.log").read_text(errors="replace").splitlines()
        for line in dict.fromkeys(line for line in lines if NOTICE in line):
            logger.warning("%s", line)

    def _start(self) -> subprocess.Popen[bytes]:
        settings = {
            "download": self._download.model_dump(),
            "allow_private": self._allow_private,
            "parent": os.getpid(),
            "suspects": sorted(self._suspects),
            "guilty": sorted(self._guilty),
        }
        with (self._folder / "engine.log").open("wb") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", ENGINES[self._download.engine], str(self._folder), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | ENVIRONMENT,
            )

    def _watch(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """One look after the other, until the process ends. Raises LaunchError once no URL has been answered for longer
        than one may take."""
        patience_seconds = _START_SECONDS + (self._download.retries + 1) * (
            self._download.deadline_seconds + self._download.timeout_seconds + _LONGEST_WAIT_SECONDS
        )
        changed, answered = time.monotonic(), 0
        while process.poll() is None:
            yield
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
            now, before = time.monotonic(), answered
            answered = self._answered()
            changed = now if answered != before else changed
            if now - changed > patience_seconds:
                raise LaunchError(
                    f"the download engine has answered no URL for {patience_seconds:.0f} s (after {answered}, with "
                    f"{self._lost()} shards missing) and was stopped; start the same command again: what was fetched "
                    "is kept"
                )

    def _judge_end(self, exit_code: int, is_last: bool) -> None:
        """Raise what an engine's end means, unless it was killed and may be started again."""
        if exit_code in STORAGE_FAILURES:
            raise OSError(exit_code, os.strerror(exit_code), str(self._folder))
        if exit_code >= 0 or is_last:
            lines = (self._folder / "engine.log").read_text(errors="replace").splitlines()
            tail = " | ".join(lines[-_LOG_TAIL_LINES:])
            raise LaunchError(
                f"the download engine ended with exit code {exit_code} and {self._lost()} of {len(self._sizes)} shards "
                f"missing; its last lines: {tail or 'none'}. "
                "Start the same command again: what was fetched is kept"
            )

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Have an engine that is not done finish what is under way; then end it and its workers, all of its session."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._lost():
                process.terminate()
                process.wait(_DRAIN_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _describe(self) -> str:
        there = len(self._sizes) - self._lost()
        return f"{self._answered()} of {sum(self._sizes)} URLs answered; {there} of {len(self._sizes)} shards are there"

    def _answered(self) -> int:
        return sum(_count(path) for path in self._progress.iterdir())

    def _lost(self) -> int:
        """How many shards are missing."""
        return sum(not self._result(shard).exists() for shard in range(len(self._sizes)))

    def _done_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._done.iterdir())

    def _result(self, shard: int) -> Path:
        return self._done / f"{shard:05d}.results"


def _count(progress: Path) -> int:
    text = progress.read_text()
    return int(text) if text.isdecimal() else 0
