"""A job of 2,000 pictures, all its processes killed at twenty random instants: is anything lost, or there twice?

    python benchmarks/killing.py [SEED]

Not a race but a proof too long for the suite, which disturbs a smaller job. Exit code 1 if it fails.
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
_LONGEST_LIFE_SECONDS = 1.7  # a second of it is start-up: twenty such lives do not finish the job


def start(table: Path, workdir: Path) -> subprocess.Popen[bytes]:
    """The job, with a log of its own."""
    command = [sys.executable, "-m", "tinygptv.cli", "download", "--source", str(table), "--workdir", str(workdir)]
    with workdir.with_suffix(".log").open("ab") as log:
        environment = os.environ | {"TINYGPTV_ALLOW_PRIVATE": "1"}
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process and its descendants as a power cut would."""
    root = psutil.Process(process.pid)
    for each in (root, *root.children(recursive=True)):
        each.kill()
    process.wait()


def disturbed(table: Path, workdir: Path, chance: random.Random) -> tuple[int, int]:
    """Run the job to its end; how often it was killed, and how many shards were half fetched at those moments."""
    kills = torn = 0
    while kills < KILLS:
        process = start(table, workdir)
        try:
            if process.wait(chance.uniform(0.2, _LONGEST_LIFE_SECONDS)) == 0:
                break
            raise RuntimeError(workdir.with_suffix(".log").read_text()[-2000:])
        except subprocess.TimeoutExpired:
            kill_tree(process)
            kills += 1
            torn += len(list(workdir.rglob("*.part")))
    if start(table, workdir).wait() != 0:
        raise RuntimeError(workdir.with_suffix(".log").read_text()[-2000:])
    return kills, torn


def samples(workdir: Path) -> tuple[Counter[str], dict[str, int]]:
    """URL → how many samples, and the manifest's counts."""
    (manifest,) = workdir.glob("raw/*/manifest.json")
    urls = pq.read_table(manifest.parent / "sidecar.parquet", columns=["url"])["url"].to_pylist()
    counts = json.loads(manifest.read_text())
    return Counter(urls), {name: counts[name] for name in ("rows_in", "rows_out")}


def main(seed: int) -> int:
    """One disturbed job; the figure is the number of samples lost or there twice."""
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
            kills, torn = disturbed(table, workdir, random.Random(seed))
            seconds = time.monotonic() - started
            held, counts = samples(workdir)
    wrong = sum(abs(1 - held[url]) for url in urls) + abs(counts["rows_in"] - PICTURES)
    details = {"seed": seed, "kills": kills, "half_fetched_shards": torn, "seconds": round(seconds), **counts}
    about = f"{kind} pictures"
    report("killing: samples lost or repeated", wrong, None, "samples", "0", pictures=about, **details)
    return 1 if wrong or kills < KILLS else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
