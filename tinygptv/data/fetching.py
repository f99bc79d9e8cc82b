"""Shards of URLs → shards of images, by an engine process that is watched: it ends, or it is ended."""

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from tinygptv.definitions.source import Download
from tinygptv.errors import LaunchError

logger = logging.getLogger(__name__)

_REQUEST = pa.schema([("position", pa.int64()), ("url", pa.string())])
_POLL_SECONDS, _LOG_SECONDS = 0.2, 5.0
_START_SECONDS, _LONGEST_WAIT_SECONDS = 300.0, 60.0
_LOG_TAIL_LINES = 8


class Fetch:
    """The fetching of numbered shards below one folder. What an earlier, interrupted one completed is kept."""

    def __init__(self, folder: Path, download: Download, allow_private: bool) -> None:
        self._folder, self._download, self._allow_private = folder, download, allow_private
        self._todo, self._done, self._progress = (folder / name for name in ("todo", "done", "progress"))
        self._sizes: dict[int, int] = {}
        for leftover in (self._todo, self._progress):
            shutil.rmtree(leftover, ignore_errors=True)
        for wanted in (self._todo, self._progress, self._done):
            wanted.mkdir(parents=True, exist_ok=True)

    def request(self, shard: int, urls: dict[int, str]) -> None:
        """Ask for a shard's URLs, by the position of their rows, unless it is there already."""
        self._sizes[shard] = len(urls)
        if not self._is_done(shard):
            columns = {"position": list(urls), "url": list(urls.values())}
            path = self._todo / f"{shard:05d}.feather"
            with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_file(stream, _REQUEST) as writer:
                writer.write_table(pa.table(columns, schema=_REQUEST))

    def run(self) -> None:
        """Fetch what was requested. Raises LaunchError if the engine fails, stands still or loses rows, OSError if the
        disk is full."""
        missing = [shard for shard in self._sizes if not self._is_done(shard)]
        if not missing:
            return
        total = sum(self._sizes.values())
        ready = total - sum(self._sizes[shard] for shard in missing)
        logger.info("fetching %d URLs (%d of %d are here already)", total - ready, ready, total)
        log = self._folder / "engine.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "tinygptv.data.engine", str(self._folder), self._settings()],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"},
            )
        try:
            self._watch(process, ready, total)
        finally:
            _end(process)
        if process.returncode == errno.ENOSPC:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))
        lost = [shard for shard in missing if not self._is_done(shard)]
        if process.returncode != 0 or lost:
            tail = " | ".join(log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
            raise LaunchError(
                f"the download engine ended with exit code {process.returncode} and {len(lost)} of {len(missing)} "
                f"shards missing or incomplete; its last lines: {tail or 'none'}. "
                "Start the same command again: finished shards are kept"
            )

    def shard(self, number: int) -> dict[int, dict[str, Any]]:
        """Row position → `jpg` (None if it failed), `width`, `height`, `error_message`."""
        columns = ["position", "jpg", "width", "height", "error_message"]
        rows = pq.read_table(self._done / f"{number:05d}.parquet", columns=columns).to_pylist()
        return {row["position"]: row for row in rows}

    def _settings(self) -> str:
        return json.dumps(
            {
                "download": self._download.model_dump(),
                "allow_private": self._allow_private,
                "parent": os.getpid(),
            }
        )

    def _is_done(self, shard: int) -> bool:
        """Its stats are written last; the count is compared because img2dataset goes on after a failed write."""
        if not (self._done / f"{shard:05d}_stats.json").exists():
            return False
        try:
            return pq.read_metadata(self._done / f"{shard:05d}.parquet").num_rows == self._sizes[shard]
        except (OSError, pa.ArrowInvalid):
            return False

    def _watch(self, process: subprocess.Popen[bytes], ready: int, total: int) -> None:
        """Until the process ends, or no URL has been answered for longer than one may take."""
        one_url_seconds = (self._download.retries + 1) * (3 * self._download.timeout_seconds + _LONGEST_WAIT_SECONDS)
        patience_seconds = _START_SECONDS + one_url_seconds
        changed = logged = time.monotonic()
        answered = 0
        while True:
            try:
                process.wait(_POLL_SECONDS)
                return
            except subprocess.TimeoutExpired:
                now, before = time.monotonic(), answered
            answered = sum(_count(path) for path in self._progress.iterdir())
            changed = now if answered != before else changed
            if now - logged > _LOG_SECONDS:
                logger.info("fetched %d of %d", min(ready + answered, total), total)
                logged = now
            if now - changed > patience_seconds:
                raise LaunchError(
                    f"the download engine has answered no URL for {patience_seconds:.0f} s (at {ready + answered} of "
                    f"{total}) and was stopped; start the same command again: finished shards are kept"
                )


def _count(progress: Path) -> int:
    text = progress.read_text()
    return int(text) if text.isdecimal() else 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the engine and its workers, which share its session, whatever state they are in."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()
