"""Download a list of URLs to shards, compared with img2dataset: same images, same server, including start-up.

    python benchmarks/ingest.py [IMAGES ...]

Both run as commands that write shards of 1,000 images, with the shorter side reduced to 448 px, at quality 95. One
local server plays fifty sites; the table is shuffled, or sorted by site. The whole process tree is measured: wall time,
CPU seconds, peak memory, and the time until the first shard is finished. The peer uses the number of threads that was
best for it on two cores. With distant sites the order matters more, so ours is measured again, in both orders, with
responses that take 50 ms.

Two lower bounds are measured first: processing the images alone (decode, resize and encode in memory, one thread per
core), and a minimal program that fetches over plain sockets and writes tar files, without robots.txt, limits, ledger,
hashes or table.
"""

import asyncio
import io
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
from comparison import generated, photographs, report

from tinygptv.data.fetch.fetching import ENVIRONMENT
from tinygptv.data.pictures.storing import resize

IMAGES, ROUNDS = (2000, 20_000), {2000: 3}
SITES = 50
DELAY_SECONDS = 0.05
ORDERS = ("shuffled", "sorted by site")
GOALS = {2000: "ratio >= 3", 20_000: "ratio >= 4"}
SIDE, QUALITY = 448, 95
_POLL_SECONDS = 0.02

_PEER = f"""
import sys
from img2dataset import download
if __name__ == "__main__":
    download(
        url_list=sys.argv[1], output_folder=sys.argv[2], input_format="parquet", url_col="URL", caption_col="TEXT",
        output_format="webdataset", image_size={SIDE}, resize_mode="keep_ratio", resize_only_if_bigger=True,
        skip_reencode=True, encode_quality={QUALITY}, processes_count=1, thread_count=8, number_sample_per_shard=1000,
        enable_wandb=False,
    )
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one command: wall and CPU seconds, peak memory in bytes, and seconds until the first shard."""

    wall: float
    cpu: float
    peak_bytes: float
    first_shard: float


class Tree:
    """A process and its descendants, measured until the process ends."""

    def __init__(self, command: list[str], log: Path) -> None:
        environment = os.environ | {"TINYGPTV_ALLOW_PRIVATE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
        self._log = log
        with log.open("wb") as stream:
            self._process = psutil.Popen(command, stdout=stream, stderr=stream, env=environment)
        self._cpu: dict[int, float] = {}
        self._peak = 0

    def watch(self, first_shard: Callable[[], bool]) -> Cost:
        """Measure until the process ends. Raises RuntimeError if it fails."""
        started, first = time.monotonic(), 0.0
        while self._process.poll() is None:
            self._look()
            if not first and first_shard():
                first = time.monotonic() - started
            time.sleep(_POLL_SECONDS)
        wall = time.monotonic() - started
        if self._process.returncode:
            raise RuntimeError(f"exit code {self._process.returncode}: {self._log.read_text(errors='replace')[-2000:]}")
        return Cost(wall, sum(self._cpu.values()), self._peak, first or wall)

    def _look(self) -> None:
        memory = 0
        try:
            for process in (self._process, *self._process.children(recursive=True)):
                times = process.cpu_times()
                self._cpu[process.pid] = times.user + times.system
                memory += process.memory_info().rss
        except psutil.NoSuchProcess:
            return
        self._peak = max(self._peak, memory)


@contextmanager
def serving(folder: Path, delay_seconds: float = 0.0) -> Iterator[list[str]]:
    """Run the server in a separate process, which is not measured; yields the addresses of its fifty sites.

    /N is file N of the folder, modulo the number of files.
    """
    command = [sys.executable, __file__, "--serve", str(folder), str(delay_seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())
        server.terminate()


def serve(folder: Path, delay_seconds: float) -> None:
    """The server process of `serving`, with as little work per request as possible."""
    pictures = [(folder / str(number)).read_bytes() for number in range(len(list(folder.iterdir())))]

    class Pictures(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._transport, self._asked = transport, b""

        def data_received(self, data: bytes) -> None:
            self._asked += data
            while b"\r\n\r\n" in self._asked:
                request, _, self._asked = self._asked.partition(b"\r\n\r\n")
                number = request.split(b" ", 2)[1][1:]
                body = pictures[int(number) % len(pictures)] if number.isdigit() else b""
                status = b"200 OK" if body else b"404 Not Found"
                head = b"HTTP/1.1 %s\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
                if delay_seconds:
                    asyncio.get_running_loop().call_later(delay_seconds, self._send, head + body, request)
                else:
                    self._send(head + body, request)

        def _send(self, answer: bytes, request: bytes) -> None:
            self._transport.write(answer)
            if b"Connection: close" in request:
                self._transport.close()

    async def listen() -> None:
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(Pictures, f"127.0.2.{site + 1}", 0) for site in range(SITES)]
        places = [server.sockets[0].getsockname() for server in servers]
        print(json.dumps([f"http://{host}:{port}" for host, port in places]), flush=True)
        await asyncio.gather(*(server.serve_forever() for server in servers))

    asyncio.run(listen())


def reduced(picture: bytes) -> bytes:
    """Decode, resize and encode a large image; this work is necessary in any implementation."""
    pixels = simplejpeg.decode_jpeg(picture, "RGBX")
    height, width, _ = pixels.shape
    if (scale := SIDE / min(height, width)) >= 1:
        return picture
    small = resize(pixels, round(width * scale), round(height * scale))
    return bytes(simplejpeg.encode_jpeg(small, QUALITY, "RGBX", "420"))


def process_images(folder: Path) -> None:
    """Print the wall time of processing the images of a folder, and nothing else."""
    pictures = [path.read_bytes() for path in folder.iterdir()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = time.monotonic()
        for _ in pool.map(reduced, pictures):
            """Wait for all results."""
        print(time.monotonic() - started)


def minimal_download(address: str, images: int, target: Path) -> None:
    """Fetch images 0 to `images`, reduce them, and write them to tar files of 1,000; nothing else."""
    host, _, port = address.removeprefix("http://").partition(":")
    local = threading.local()

    def fetch(number: int) -> bytes:
        if not hasattr(local, "socket"):
            local.socket = socket.create_connection((host, int(port)))
            local.stream = local.socket.makefile("rb", 1 << 16)
        local.socket.sendall(b"GET /%d HTTP/1.1\r\nHost: %s\r\n\r\n" % (number, host.encode()))
        length = 0
        while line := local.stream.readline().strip():
            if line.startswith(b"Content-Length:"):
                length = int(line.partition(b":")[2])
        return reduced(local.stream.read(length))

    with ThreadPoolExecutor((os.cpu_count() or 1) + 1) as pool:
        for first in range(0, images, 1000):
            numbers = range(first, min(first + 1000, images))
            with tarfile.open(target / f"{first // 1000:05d}.tar", "w") as tar:
                for number, picture in zip(numbers, pool.map(fetch, numbers), strict=True):
                    member = tarfile.TarInfo(f"{number}.jpg")
                    member.size = len(picture)
                    tar.addfile(member, io.BytesIO(picture))


def processing_floor(folder: Path) -> float:
    """Run `process_images` with the allocator settings of our engine; returns its wall time."""
    command = [sys.executable, __file__, "--process-images", str(folder)]
    return float(subprocess.run(command, capture_output=True, check=True, env=os.environ | ENVIRONMENT).stdout)


def fetching_floor(address: str, images: int, folder: Path) -> float:
    """Wall time of `minimal_download`, including start-up."""
    command = [sys.executable, __file__, "--minimal_download", address, str(images), str(folder)]
    started = time.monotonic()
    subprocess.run(command, check=True, env=os.environ | ENVIRONMENT)
    return time.monotonic() - started


def ours(table: Path, folder: Path) -> Cost:
    """Run `tinygptv download`: shards, sidecar, ledger and manifest."""
    command = [sys.executable, "-m", "tinygptv.cli", "download", "--source", str(table), "--workdir", str(folder)]
    return Tree(command, folder / "log").watch(lambda: any(folder.rglob("00000.tar")))


def peer(table: Path, folder: Path) -> Cost:
    """Run img2dataset as its own command line does."""
    script = folder / "peer.py"
    script.write_text(_PEER)
    command = [sys.executable, str(script), str(table), str(folder / "out")]
    return Tree(command, folder / "log").watch((folder / "out" / "00000_stats.json").exists)


def write_table(path: Path, sites: list[str], images: int, order: str) -> None:
    """Write a table of URLs, distributed evenly over all sites, in the given order."""
    rows = [(f"{sites[number * SITES // images]}/{number}", f"picture number {number}") for number in range(images)]
    if order == "shuffled":
        random.Random(0).shuffle(rows)
    urls, texts = zip(*rows, strict=True)
    pq.write_table(pa.table({"URL": urls, "TEXT": texts}), path)


def compare(served: Path, scratch: Path, images: int, order: str, details: dict[str, object]) -> Cost:
    """Measure ours and the peer, alternating; reports both and returns ours."""
    mine, theirs = [], []
    with serving(served) as sites:
        table = scratch / "pairs.parquet"
        write_table(table, sites, images, order)
        for _ in range(ROUNDS.get(images, 1)):
            for costs, run in ((mine, ours), (theirs, peer)):
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    costs.append(run(table, Path(folder)))
    medians = {
        name: [statistics.median(getattr(cost, name) for cost in costs) for costs in (mine, theirs)]
        for name in Cost.__slots__
    }
    about = details | {"images": images, "order": order, "sites": SITES, "rounds": len(mine)}
    rates = [[images / seconds for seconds in medians[name]] for name in ("cpu", "wall")]
    report("ingest: images per CPU second", *rates[0], "images/CPU s", "ratio >= 1.25", **about)
    report("ingest: images per second", *rates[1], "images/s", GOALS.get(images, "ratio >= 3"), **about)
    report("ingest: peak memory", *medians["peak_bytes"], "bytes", "ours <= 400e6", **about)
    report("ingest: first shard", *medians["first_shard"], "s", "ratio <= 0.5", **about)
    return Cost(*(medians[name][0] for name in Cost.__slots__))


def measure_floors(served: Path, scratch: Path, images: int, details: dict[str, object]) -> None:
    """Report the two lower bounds."""
    tars = scratch / "minimal"
    tars.mkdir()
    with serving(served) as sites:
        plain = fetching_floor(sites[0], images, tars)
    alone = processing_floor(served) * images / len(list(served.iterdir()))
    report("ingest: the pictures alone", alone, None, "s", "none", images=images, **details)
    report("ingest: the minimal_download program", plain, None, "s", "none", images=images, **details)


def measure_far_sites(served: Path, scratch: Path, images: int, details: dict[str, object]) -> None:
    """Compare the two orders with slow responses."""
    walls = []
    for order in ORDERS:
        with serving(served, DELAY_SECONDS) as sites, tempfile.TemporaryDirectory(dir=scratch) as folder:
            table = scratch / "pairs.parquet"
            write_table(table, sites, images, order)
            walls.append(ours(table, Path(folder)).wall)
    about = details | {"images": images, "sites": SITES, "delay_seconds": DELAY_SECONDS}
    report("ingest: sorted by site and far away, against shuffled", *reversed(walls), "s", "ratio <= 1.2", **about)


def main(sizes: list[int]) -> None:
    """Run all comparisons with half photographs, half generated images."""
    found, kind = photographs(1000)
    made = generated(100)
    details: dict[str, object] = {"pictures": f"half {kind}, half generated", "peer_is": "img2dataset 1.47.0"}
    with tempfile.TemporaryDirectory() as scratch:
        served = Path(scratch) / "served"
        served.mkdir()
        for number in range(2000):
            (served / str(number)).write_bytes((found[number // 2 % 1000]) if number % 2 else made[number // 2 % 100])
        measure_floors(served, Path(scratch), sizes[0], details)
        for images in sizes:
            walls = [compare(served, Path(scratch), images, order, details).wall for order in ORDERS]
            about = details | {"images": images, "sites": SITES}
            report("ingest: sorted by site, against shuffled", *reversed(walls), "s", "ratio <= 1.2", **about)
        measure_far_sites(served, Path(scratch), sizes[-1], details)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), float(sys.argv[3]))
    elif sys.argv[1:2] == ["--process-images"]:
        process_images(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--minimal_download"]:
        minimal_download(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        main([int(given) for given in sys.argv[1:]] or list(IMAGES))
