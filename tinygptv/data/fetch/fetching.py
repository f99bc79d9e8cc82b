"""Shards of URLs → shards of results, by a supervised engine process."""

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

from tinygptv.data.fetch.engine_process import GO, STORAGE_FAILURES, decoding_positions
from tinygptv.data.fetch.refusals import Refusals
from tinygptv.data.fetch.results import FetchRequest, Results, write_request
from tinygptv.data.pictures.plugins import NOTICE
from tinygptv.definitions.source import Download
from tinygptv.errors import LaunchError
from tinygptv.store.progress import reporting

logger = logging.getLogger(__name__)

ENGINES = {"native": "tinygptv.data.fetch.native.engine", "img2dataset": "tinygptv.data.fetch.img2dataset"}
"""Values of a download's `engine:` → the module to start (see `engine_process`)."""

ENVIRONMENT = {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "WANDB_MODE": "disabled",
    "OMP_NUM_THREADS": "1",
    # Pictures are allocated and freed by the megabyte: keep that memory instead of returning it and faulting it in
    # again, in few arenas so that threads share it. Saves a quarter of the CPU time.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 27),
    "MALLOC_ARENA_MAX": "4",
}
"""Environment of every engine."""

_POLL_SECONDS = 0.05
_START_SECONDS, _MAX_WAIT_SECONDS = 60.0, 60.0
_DRAIN_SECONDS = 5.0
_MAX_CRASHES, _MAX_IDLE_CRASHES = 100, 3
"""Engine crashes in one run; consecutive crashes without any answer or decoded picture."""
_MIN_FREE_BYTES = 64 << 20
_BYTES_PER_PIXEL = 0.6  # per pixel of image_size², for the fetched picture and its copy in a shard
_LOG_TAIL_LINES = 8


class Fetch:
    """Fetches numbered shards below one folder; shards that an interrupted run completed are kept.

    No redirect to an address in `refusals` is followed. Entering the context starts an engine at once, so that it loads
    while requests are still being planned.
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

    def request(self, asked: list[FetchRequest]) -> None:
        """Request the next shard, unless its results exist."""
        shard = len(self._sizes)
        self._sizes.append(len(asked))
        if not self._result(shard).exists():
            write_request(self._todo / f"{shard:05d}.jsonl", asked)

    def shards(self) -> Generator[Results]:
        """Yield the results of each requested shard by row position; looking up a missing one waits for it.

        A crashed engine is restarted; a picture that crashes it twice is given up as `engine_crash`. Waiting raises
        LaunchError if the engine fails, stalls or keeps crashing, OSError if the disk is full.
        """
        with contextlib.closing(self._poll()) as polls, reporting(logger, self._describe):
            for shard in range(len(self._sizes)):
                yield Results(self._result(shard), lambda: next(polls, None))
                while not self._result(shard).exists():
                    next(polls, None)

    def results(self, shard: int) -> Results:
        """The results of a shard that `shards` has completed."""
        return Results(self._result(shard))

    def _poll(self) -> Generator[None]:
        """Poll the engine, restarting it after crashes, until every shard is done."""
        logger.info(
            "fetching %d URLs; %d of %d shards are missing", sum(self._sizes), self._missing(), len(self._sizes)
        )
        self._check_room()
        crashes = idle_crashes = 0
        while self._missing():
            size = self._done_bytes()
            with self._engine() as process:
                yield from self._watch(process)
            if not self._missing():
                return
            held = decoding_positions(self._folder)
            crashes, idle_crashes = crashes + 1, 0 if held or self._done_bytes() > size else idle_crashes + 1
            self._check_exit(process.returncode, crashes == _MAX_CRASHES or idle_crashes == _MAX_IDLE_CRASHES)
            self._guilty |= held & self._suspects
            self._suspects |= held
            logger.warning("the download engine was killed by signal %d; restarting it", -process.returncode)

    def _check_room(self) -> None:
        """Raise OSError if the disk is full; warn if space may run out."""
        free = shutil.disk_usage(self._folder).free
        if free < _MIN_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))
        expected = sum(self._sizes) * self._download.image_size**2 * _BYTES_PER_PIXEL
        if expected > free:
            logger.warning("%s: about %.0f GB may be needed, %.0f are free", self._folder, expected / 1e9, free / 1e9)

    @contextlib.contextmanager
    def _engine(self) -> Iterator[subprocess.Popen[bytes]]:
        """A running engine, ended when the context is left."""
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
        """Log each notice of the engine about this machine once."""
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
        """Poll until the process ends. Raises LaunchError if no URL is answered for longer than one may take."""
        patience_seconds = _START_SECONDS + (self._download.retries + 1) * (
            self._download.deadline_seconds + self._download.timeout_seconds + _MAX_WAIT_SECONDS
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
                    f"{self._missing()} shards missing) and was stopped; start the same command again: what was "
                    "fetched is kept"
                )

    def _check_exit(self, exit_code: int, is_last: bool) -> None:
        """Raise the error that an engine's exit code stands for, unless it was killed and may be restarted."""
        if exit_code in STORAGE_FAILURES:
            raise OSError(exit_code, os.strerror(exit_code), str(self._folder))
        if exit_code >= 0 or is_last:
            lines = (self._folder / "engine.log").read_text(errors="replace").splitlines()
            tail = " | ".join(lines[-_LOG_TAIL_LINES:])
            raise LaunchError(
                f"the download engine ended with exit code {exit_code} and {self._missing()} of {len(self._sizes)} "
                f"shards missing; its last lines: {tail or 'none'}. "
                "Start the same command again: what was fetched is kept"
            )

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Let an unfinished engine complete its open requests, then kill its whole session."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._missing():
                process.terminate()
                process.wait(_DRAIN_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _describe(self) -> str:
        there = len(self._sizes) - self._missing()
        return f"{self._answered()} of {sum(self._sizes)} URLs answered; {there} of {len(self._sizes)} shards done"

    def _answered(self) -> int:
        return sum(_count(path) for path in self._progress.iterdir())

    def _missing(self) -> int:
        """The number of missing shards."""
        return sum(not self._result(shard).exists() for shard in range(len(self._sizes)))

    def _done_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._done.iterdir())

    def _result(self, shard: int) -> Path:
        return self._done / f"{shard:05d}.results"


def _count(progress: Path) -> int:
    text = progress.read_text()
    return int(text) if text.isdecimal() else 0
