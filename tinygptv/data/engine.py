"""img2dataset as a process of its own: `python -m tinygptv.data.engine FOLDER SETTINGS`.

Its downloader, resizer and writer do the work; its command line does not. That one starts a logger process that
outlives it, waits for ever for a killed worker, and forgets samples when the disk is full. Here each shard is one task
of a process pool that notices a dead worker, every URL goes through `guard`, and the caller counts what came back.

FOLDER holds `todo/NNNNN.feather` (position, url); each becomes `done/NNNNN.parquet` (position, jpg, width, height,
error_message) and then `done/NNNNN_stats.json`, which marks it complete. `progress/` counts URLs answered so far.
"""

import concurrent.futures
import ctypes
import errno
import io
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from img2dataset.downloader import Downloader
from img2dataset.resizer import Resizer
from img2dataset.writer import ParquetSampleWriter
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel

from tinygptv.data.guard import GuardedOpener
from tinygptv.definitions.source import Download

SHARD_DIGITS = 5
_MAX_PIXELS = 64_000_000
_PNG_BIT_DEPTH = 24  # the byte of a PNG that says so; Pillow hides it, and OpenCV would clip 16 bits to white
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_PROGRESS_SECONDS = 1.0


class Settings(BaseModel):
    """What the process is told."""

    download: Download
    allow_private: bool
    parent: int


class PictureResizer(Resizer):
    """img2dataset's resizer, given only what it stores faithfully.

    The size is read from the header before anything is decoded; sideways photographs are turned, 16-bit ones scaled,
    and metadata (camera, place) is left behind. Failures are the short names `guard` uses.
    """

    def __call__(self, img_stream: io.BytesIO, blurring_bbox_list: list[Any] | None = None) -> tuple[Any, ...]:
        try:
            stored = super().__call__(_plain_picture(img_stream), blurring_bbox_list)
        except UnidentifiedImageError:
            return None, None, None, None, None, "not_image"
        except Image.DecompressionBombError:
            return None, None, None, None, None, "too_large"
        except (OSError, ValueError, SyntaxError):
            return None, None, None, None, None, "broken_image"
        return stored if stored[0] is not None else (*stored[:-1], "broken_image")


def _plain_picture(stream: io.BytesIO) -> io.BytesIO:
    """The same stream if its picture is upright, 8-bit and without metadata, else such a picture, uncompressed."""
    with Image.open(stream) as picture:
        if picture.width * picture.height > _MAX_PIXELS:
            raise Image.DecompressionBombError
        is_deep_grey = picture.mode.startswith("I;16")
        is_deep_png = picture.format == "PNG" and stream.getvalue()[_PNG_BIT_DEPTH] == 16
        if not (is_deep_grey or is_deep_png or picture.getexif()):
            stream.seek(0)
            return stream
        shallow = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)) if is_deep_grey else picture
        plain = io.BytesIO()
        ImageOps.exif_transpose(shallow).convert("RGB").save(plain, "BMP")
    plain.seek(0)
    return plain


class CountingOpener(GuardedOpener):
    """Counts answers, good or bad, into a file that the watching process reads."""

    def __init__(self, progress: Path, settings: Settings) -> None:
        download = settings.download
        super().__init__(download.user_agent, download.timeout_seconds, download.retries, settings.allow_private)
        self._progress, self._lock, self._count, self._written = progress, threading.Lock(), 0, 0.0

    def open(self, fullurl: Any, data: Any = None, timeout: float | None = None) -> Any:
        try:
            return super().open(fullurl, data, timeout)
        finally:
            with self._lock:
                self._count += 1
                if time.monotonic() - self._written > _PROGRESS_SECONDS:
                    self._progress.write_text(str(self._count))
                    self._written = time.monotonic()


def main(folder: Path, settings: Settings) -> None:
    """Fetch every shard in `todo/`. The first one that fails ends the process with its exception."""
    prepare(folder, settings)
    todo = sorted((folder / "todo").glob("*.feather"))
    if settings.download.processes == 1:
        for path in todo:
            fetch_shard(path, settings)
        return
    for_workers = settings.model_copy(update={"parent": os.getpid()})
    with concurrent.futures.ProcessPoolExecutor(
        settings.download.processes, multiprocessing.get_context("spawn"), prepare, (folder, for_workers)
    ) as pool:
        for _ in pool.map(fetch_shard, todo, [settings] * len(todo)):
            pass


def prepare(folder: Path, settings: Settings) -> None:
    """Make this process end with its parent, and fetch only through the guard."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != settings.parent:
        sys.exit("the process that wanted this download is gone")
    progress = folder / "progress" / str(os.getpid())
    urllib.request.install_opener(CountingOpener(progress, settings))


def fetch_shard(path: Path, settings: Settings) -> None:
    """`todo/NNNNN.feather` → `done/NNNNN.parquet` and its stats. The opener has its own retries and opt-out rules."""
    download = settings.download
    resizer = PictureResizer(download.image_size, "keep_ratio", resize_only_if_bigger=True, skip_reencode=True)
    downloader = Downloader(
        sample_writer_class=ParquetSampleWriter,
        resizer=resizer,
        thread_count=download.threads,
        save_caption=False,
        extract_exif=False,
        output_folder=str(path.parent.parent / "done"),
        column_list=["position", "url"],
        timeout=download.timeout_seconds,
        number_sample_per_shard=download.samples_per_shard,
        oom_shard_count=SHARD_DIGITS,
        compute_hash=None,
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=None,
    )
    downloader.download_shard((int(path.stem), str(path)))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Settings.model_validate(json.loads(sys.argv[2])))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(errno.ENOSPC)
