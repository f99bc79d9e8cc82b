"""Kill all processes of a download of 2,000 images twenty times, and check that nothing is lost or duplicated.

    python benchmarks/killing.py [SEED]

Not a benchmark but a check that is too slow for the test suite, which kills a smaller download. Exit code 1 on failure.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from comparison import photographs, report
from ingest import serving

PICTURES, KILLS = 2000, 20
_MAX_LIFETIME_SECONDS = 1.7  # one second of it is start-up, so twenty attempts do not finish the download


def start(table: Path, workdir: Path) -> subprocess.Popen[bytes]:
    """Start the download, with a log."""
    command = [sys.executable, "-m", "tinygptv.cli", "download", "--source", str(table), "--workdir", str(workdir)]
    with workdir.with_suffix(".log").open("ab") as log:
        environment = os.environ | {"TINYGPTV_ALLOW_PRIVATE": "1"}
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its descendants without warning."""
    root = psutil.Process(process.pid)
    for each in (root, *root.children(recursive=True)):
        each.kill()
    process.wait()


def run_with_kills(table: Path, workdir: Path, chance: random.Random) -> tuple[int, int]:
    """Run the download to its end with kills; returns the number of kills, and of partial shards at those moments."""
    kills = partial = 0
    while kills < KILLS:
        process = start(table, workdir)
        try:
            if process.wait(chance.uniform(0.2, _MAX_LIFETIME_SECONDS)) == 0:
                break
            raise RuntimeError(workdir.with_suffix(".log").read_text()[-2000:])
        except subprocess.TimeoutExpired:
            kill_tree(process)
            kills += 1
            partial += len(list(workdir.rglob("*.part")))
    if start(table, workdir).wait() != 0:
        raise RuntimeError(workdir.with_suffix(".log").read_text()[-2000:])
    return kills, partial


def samples(workdir: Path) -> tuple[Counter[str], dict[str, int]]:
    """Number of samples per URL, and the manifest's counts."""
    (manifest,) = workdir.glob("raw/*/manifest.json")
    urls = pq.read_table(manifest.parent / "sidecar.parquet", columns=["url"])["url"].to_pylist()
    counts = json.loads(manifest.read_text())
    return Counter(urls), {name: counts[name] for name in ("rows_in", "rows_out")}


def main(seed: int) -> int:
    """Run one download with kills, and report the number of lost and duplicated samples."""
    found, kind = photographs(PICTURES)
    with tempfile.TemporaryDirectory() as scratch:
        served, table, workdir = (Path(scratch) / name for name in ("served", "pairs.parquet", "work"))
        served.mkdir()
        for number, picture in enumerate(found[:PICTURES]):
            (served / str(number)).write_bytes(picture)
        with serving(served) as sites:
            urls = [f"{sites[number % len(sites)]}/{number}" for number in range(PICTURES)]
            pq.write_table(pa.table({"URL": urls, "TEXT": [f"number {number}" for number in range(PICTURES)]}), table)
            started = time.monotonic()
            kills, partial = run_with_kills(table, workdir, random.Random(seed))
            seconds = time.monotonic() - started
            held, counts = samples(workdir)
    wrong = sum(abs(1 - held[url]) for url in urls) + abs(counts["rows_in"] - PICTURES)
    details = {"seed": seed, "kills": kills, "half_fetched_shards": partial, "seconds": round(seconds), **counts}
    about = f"{kind} pictures"
    report("killing: samples lost or repeated", wrong, None, "samples", "0", pictures=about, **details)
    return 1 if wrong or kills < KILLS else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
