"""The img2dataset engine: `python -m tinygptv.data.fetch.img2dataset FOLDER SETTINGS` (see `engine_process`).

Its downloader does the work, through the three seams it has: what opens URLs is our crawler, with all its guards and
manners; what makes pictures is `pictures`; what keeps samples is a result log. Its command line is not used: it starts
a logger process that outlives it, and waits for ever for a worker that was killed.
"""

import concurrent.futures
import io
import multiprocessing
import os
import queue
import threading
import urllib.request
import urllib.response
from dataclasses import dataclass, field, fields
from email.message import Message
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
from img2dataset.downloader import Downloader

from tinygptv.data.fetch.engine_process import Progress, Settings, end_with_parent, run_engine
from tinygptv.data.fetch.guard import FetchError
from tinygptv.data.fetch.native.crawler import Crawler, facts
from tinygptv.data.fetch.native.politeness import Request
from tinygptv.data.fetch.native.response import NOT_MODIFIED, Answer
from tinygptv.data.fetch.results import Asked, Result, ResultLog, read_request
from tinygptv.data.pictures.storing import PictureError, StoredPicture, store_picture
from tinygptv.definitions.source import Download

_SHARD_DIGITS = 5
_UNCHANGED = "unchanged"


@dataclass
class Shard:
    """What the opener and the writer of one shard tell each other; `failure` is the first thing that went wrong."""

    log: ResultLog
    asked: dict[str, Asked]
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    failure: BaseException | None = None


class CrawlerOpener(urllib.request.OpenerDirector):
    """What img2dataset's `urlopen` calls: answers come from the crawler, a failure is an exception of that name."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__()
        self._crawler = crawler
        self.shard: Shard | None = None

    def open(self, fullurl: Any, data: Any = None, timeout: float | None = None) -> Any:
        assert self.shard is not None
        if self.shard.failure is not None:
            raise self.shard.failure
        asked = self.shard.asked[fullurl.full_url]
        answered, answers = threading.Event(), []

        def keep(_: Request, answer: Answer | FetchError) -> None:
            answers.append(answer)
            answered.set()

        request = Request(asked.url, keep, asked.etag, asked.last_modified)
        self._crawler.submit(request)
        answered.wait()
        (answer,) = answers
        self.shard.facts[asked.url] = facts(request, answer)
        if isinstance(answer, FetchError):
            raise answer
        if answer.status == NOT_MODIFIED:
            raise FetchError(_UNCHANGED)
        return urllib.response.addinfourl(io.BytesIO(answer.body), Message(), asked.url, answer.status)


class SampleMaker:
    """What img2dataset's downloader takes for its resizer and for its writer of samples.

    It calls them in turn, from one thread, and swallows what they raise until `close`.
    """

    def __init__(self, shard: Shard, limits: Download, progress: Progress) -> None:
        self._shard, self._limits, self._progress = shard, limits, progress
        self._picture: StoredPicture | None = None

    def __call__(self, img_stream: io.BytesIO, blurring_bbox_list: None = None) -> tuple[Any, ...]:
        """(jpeg, width, height, original width, original height, failure)"""
        self._picture = None
        try:
            self._picture = made = store_picture(img_stream.getvalue(), self._limits)
        except PictureError as error:
            return None, None, None, None, None, error.reason
        return made.jpeg, made.width, made.height, made.original_width, made.original_height, None

    def write(self, jpeg: bytes | None, _key: str, _caption: str | None, meta: dict[str, Any]) -> None:
        """Keep one sample or failure."""
        asked = self._shard.asked[meta["url"]]
        heard = self._shard.facts.get(asked.url, {}) | {"content_sha256": meta["sha256"]}
        if meta["error_message"] == _UNCHANGED or (jpeg and meta["sha256"] == asked.content_sha256):
            result = Result(asked.position, is_unchanged=True, **heard | {"content_sha256": asked.content_sha256})
        elif jpeg is None or self._picture is None:
            result = Result(asked.position, meta["error_message"], **heard)
        else:
            described = {known.name: getattr(self._picture, known.name) for known in fields(self._picture)}
            result = Result(asked.position, **heard, **described)
        try:
            self._shard.log.append(result)
        except OSError as error:
            self._shard.failure = error
            raise
        self._progress.add()

    def close(self) -> None:
        """Raise what went wrong, or RuntimeError if samples were lost."""
        if self._shard.failure is not None:
            raise self._shard.failure
        if not self._shard.log.is_whole:
            raise RuntimeError("img2dataset lost samples of a shard")


class Worker:
    """Fetches shards, one after the other, with one crawler for all of them."""

    def __init__(self, folder: Path, download: Download, crawler: Crawler) -> None:
        self._folder, self._download, self._progress = folder, download, Progress(folder)
        self._opener = CrawlerOpener(crawler)
        urllib.request.install_opener(self._opener)

    def fetch_shard(self, path: Path) -> None:
        """`todo/NNNNN.jsonl` → `done/NNNNN.results`."""
        asked = read_request(path)
        log = ResultLog(self._folder / "done" / f"{path.stem}.results", len(asked))
        missing = [one for one in asked if one.position not in log.known]
        if not missing:
            return
        shard = self._opener.shard = Shard(log, {one.url: one for one in missing})
        scratch = self._folder / "img2dataset"
        scratch.mkdir(exist_ok=True)
        urls = scratch / f"{path.stem}.feather"
        table = pa.table({"url": [one.url for one in missing]})
        with pa.OSFile(str(urls), "wb") as stream, pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)
        maker = SampleMaker(shard, self._download, self._progress)
        downloader = Downloader(
            sample_writer_class=lambda *_: maker,
            resizer=maker,
            thread_count=self._download.threads,
            save_caption=False,
            extract_exif=False,
            output_folder=str(scratch),
            column_list=["url"],
            timeout=self._download.deadline_seconds,
            number_sample_per_shard=max(2, len(asked)),
            oom_shard_count=_SHARD_DIGITS,
            compute_hash="sha256",
            verify_hash_type=None,
            encode_format="jpg",
            retries=0,
            user_agent_token=None,
            disallowed_header_directives=None,
        )
        downloader.download_shard((int(path.stem), str(urls)))


def fetch_all(folder: Path, settings: Settings) -> None:
    """Fetch every shard in `todo/`, by one process or several. The first failure ends them."""
    todo = sorted((folder / "todo").glob("*.jsonl"))
    processes = settings.download.processes
    if processes == 1:
        fetch_some(folder, settings, todo)
        return
    for_workers = settings.model_copy(update={"parent": os.getpid()})
    shares = [todo[number::processes] for number in range(processes)]
    with concurrent.futures.ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), end_with_parent, (for_workers.parent,)
    ) as pool:
        for _ in pool.map(fetch_some, [folder] * processes, [for_workers] * processes, shares):
            pass


def fetch_some(folder: Path, settings: Settings, todo: list[Path]) -> None:
    """Fetch some shards in this process, which has its share of what each host's due is."""
    own_share = max(1, settings.download.connections_per_host // settings.download.processes)
    download = settings.download.model_copy(update={"connections_per_host": own_share})
    with Crawler(download, settings.allow_private, queue.SimpleQueue()) as crawler:
        worker = Worker(folder, download, crawler)
        for path in todo:
            worker.fetch_shard(path)


if __name__ == "__main__":
    run_engine(fetch_all)
