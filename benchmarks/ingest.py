"""A list of URLs to shards, beside img2dataset: the same pictures from the same server, start-up included.

    python benchmarks/ingest.py [IMAGES ...]

Both begin as a command and end with shards of 1,000, their shorter side brought down to 448 px at quality 95. The
pictures lie on fifty sites, of one server on loopback; the table is shuffled, or sorted by site. Measured from outside,
over the whole tree of processes: the clock, CPU seconds, the most memory at one moment, and when the first shard was
finished. The peer runs with the number of threads that served it best on two cores. Where sites are far away, order
matters more: ours is measured once more with answers that take 50 ms, in both orders.

What nobody can do without is measured first: the pictures alone, in memory, decoded, brought down and encoded by a
thread per core; and the plainest program, bare sockets to the same server on the same cores, no robots.txt, limits,
ledger, hashes or table, and the JPEGs put into tar files one after the other.
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
    """What one command took: seconds by the clock and of CPU, bytes at the worst moment, seconds to the first shard."""

    wall: float
    cpu: float
    peak_bytes: float
    first_shard: float


class Tree:
    """A process and its descendants, watched until the first one ends."""

    def __init__(self, command: list[str], log: Path) -> None:
        environment = os.environ | {"TINYGPTV_ALLOW_PRIVATE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
        self._log = log
        with log.open("wb") as stream:
            self._process = psutil.Popen(command, stdout=stream, stderr=stream, env=environment)
        self._cpu: dict[int, float] = {}
        self._peak = 0

    def watch(self, first_shard: Callable[[], bool]) -> Cost:
        """Until it ends. Raises RuntimeError if it fails."""
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
    """Fifty sites of a server in a process of its own, so that its time is nobody's: /N is the file N of the folder,
    counted round and round."""
    command = [sys.executable, __file__, "--serve", str(folder), str(delay_seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())
        server.terminate()


def serve(folder: Path, delay_seconds: float) -> None:
    """The server's side of `serving`: as little work as possible for each request."""
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


def made_small(picture: bytes) -> bytes:
    """Decoded, brought down and encoded, if it is large; as everybody has to."""
    pixels = simplejpeg.decode_jpeg(picture, "RGBX")
    height, width, _ = pixels.shape
    if (scale := SIDE / min(height, width)) >= 1:
        return picture
    small = resize(pixels, round(width * scale), round(height * scale))
    return bytes(simplejpeg.encode_jpeg(small, QUALITY, "RGBX", "420"))


def pictures_alone(folder: Path) -> None:
    """Print the seconds by the clock that the pictures of a folder take if they are all that is done."""
    pictures = [path.read_bytes() for path in folder.iterdir()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = time.monotonic()
        for _ in pool.map(made_small, pictures):
            """One after the other, until all are made."""
        print(time.monotonic() - started)


def plainest(address: str, images: int, target: Path) -> None:
    """Fetch /0 to /`images`, make them small, and put them into tar files of 1,000; nothing else."""
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
        return made_small(local.stream.read(length))

    with ThreadPoolExecutor((os.cpu_count() or 1) + 1) as pool:
        for first in range(0, images, 1000):
            numbers = range(first, min(first + 1000, images))
            with tarfile.open(target / f"{first // 1000:05d}.tar", "w") as tar:
                for number, picture in zip(numbers, pool.map(fetch, numbers), strict=True):
                    member = tarfile.TarInfo(f"{number}.jpg")
                    member.size = len(picture)
                    tar.addfile(member, io.BytesIO(picture))


def floor(folder: Path) -> float:
    """What `pictures_alone` prints, with memory kept as our engine keeps it."""
    command = [sys.executable, __file__, "--pictures-alone", str(folder)]
    return float(subprocess.run(command, capture_output=True, check=True, env=os.environ | ENVIRONMENT).stdout)


def floor_with_fetching(address: str, images: int, folder: Path) -> float:
    """Seconds by the clock of `plainest`, start-up included."""
    command = [sys.executable, __file__, "--plainest", address, str(images), str(folder)]
    started = time.monotonic()
    subprocess.run(command, check=True, env=os.environ | ENVIRONMENT)
    return time.monotonic() - started


def ours(table: Path, folder: Path) -> Cost:
    """`tinygptv download`: shards, their sidecar, the ledger and the manifest."""
    command = [sys.executable, "-m", "tinygptv.cli", "download", "--source", str(table), "--workdir", str(folder)]
    return Tree(command, folder / "log").watch(lambda: any(folder.rglob("00000.tar")))


def peer(table: Path, folder: Path) -> Cost:
    """img2dataset, called as its command line calls itself."""
    script = folder / "peer.py"
    script.write_text(_PEER)
    command = [sys.executable, str(script), str(table), str(folder / "out")]
    return Tree(command, folder / "log").watch((folder / "out" / "00000_stats.json").exists)


def write_table(path: Path, sites: list[str], images: int, order: str) -> None:
    """So many addresses, evenly on all sites, in an order."""
    rows = [(f"{sites[number * SITES // images]}/{number}", f"picture number {number}") for number in range(images)]
    if order == "shuffled":
        random.Random(0).shuffle(rows)
    urls, texts = zip(*rows, strict=True)
    pq.write_table(pa.table({"URL": urls, "TEXT": texts}), path)


def compare(served: Path, scratch: Path, images: int, order: str, details: dict[str, object]) -> Cost:
    """Ours and the peer in turns; report their costs, and return ours."""
    mine, theirs = [], []
    with serving(served) as sites:
        table = scratch / "pairs.parquet"
        write_table(table, sites, images, order)
        for _ in range(ROUNDS.get(images, 1)):
            for costs, run in ((mine, ours), (theirs, peer)):
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    costs.append(run(table, Path(folder)))
    middle = {
        name: [statistics.median(getattr(cost, name) for cost in costs) for costs in (mine, theirs)]
        for name in Cost.__slots__
    }
    told = details | {"images": images, "order": order, "sites": SITES, "rounds": len(mine)}
    rates = [[images / seconds for seconds in middle[name]] for name in ("cpu", "wall")]
    report("ingest: images per CPU second", *rates[0], "images/CPU s", "ratio >= 1.25", **told)
    report("ingest: images per second", *rates[1], "images/s", GOALS.get(images, "ratio >= 3"), **told)
    report("ingest: peak memory", *middle["peak_bytes"], "bytes", "ours <= 400e6", **told)
    report("ingest: first shard", *middle["first_shard"], "s", "ratio <= 0.5", **told)
    return Cost(*(middle[name][0] for name in Cost.__slots__))


def measure_floors(served: Path, scratch: Path, images: int, details: dict[str, object]) -> None:
    """Report what nobody can do without."""
    tars = scratch / "plainest"
    tars.mkdir()
    with serving(served) as sites:
        plain = floor_with_fetching(sites[0], images, tars)
    alone = floor(served) * images / len(list(served.iterdir()))
    report("ingest: the pictures alone", alone, None, "s", "none", images=images, **details)
    report("ingest: the plainest program", plain, None, "s", "none", images=images, **details)


def measure_far_sites(served: Path, scratch: Path, images: int, details: dict[str, object]) -> None:
    """Report the two orders against each other where every answer takes its time."""
    walls = []
    for order in ORDERS:
        with serving(served, DELAY_SECONDS) as sites, tempfile.TemporaryDirectory(dir=scratch) as folder:
            table = scratch / "pairs.parquet"
            write_table(table, sites, images, order)
            walls.append(ours(table, Path(folder)).wall)
    told = details | {"images": images, "sites": SITES, "delay_seconds": DELAY_SECONDS}
    report("ingest: sorted by site and far away, against shuffled", *reversed(walls), "s", "ratio <= 1.2", **told)


def main(sizes: list[int]) -> None:
    """Half photographs, half generated."""
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
            told = details | {"images": images, "sites": SITES}
            report("ingest: sorted by site, against shuffled", *reversed(walls), "s", "ratio <= 1.2", **told)
        measure_far_sites(served, Path(scratch), sizes[-1], details)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), float(sys.argv[3]))
    elif sys.argv[1:2] == ["--pictures-alone"]:
        pictures_alone(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--plainest"]:
        plainest(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        main([int(given) for given in sys.argv[1:]] or list(IMAGES))
