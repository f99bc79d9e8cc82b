"""Two million rows filtered and freed of copies, beside pandas; previews; growth from half a million to four.

    python benchmarks/metadata.py [ROWS] [--rounds 3]

Every measurement is a process of its own, ours and the peer's in turns: so the peak of memory is its own. The metadata
is made up in the shape of LAION's: Zipf-like words and hosts, every eighth picture a copy, captions that recur. Both
sides apply the same rules and drop the same copies, which is checked; ours also says what each step drops first, alone
and only. Times are CPU seconds; `seconds` is the clock's. The first look at a chain measures all
rows; every later one compares numbers.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from comparison import report

from tinygptv import catalog
from tinygptv.definitions.filters import FilterChain
from tinygptv.store.artifacts import Manifest, Outcome, Store

CHAIN = "laion_pairs"
COPIES = ("duplicate_image", "duplicate_caption")
PREVIEWS = [
    ("first look, at any rule", "min_side", 220.0),
    ("preview of min_side", "min_side", 256.0),
    ("preview of similarity", "similarity", 0.3),
    ("preview of caption_words", "caption_words", 4.0),
]
SIDECAR = "sidecar.parquet"
FIGURES = ("cpu", "seconds", "peak_bytes", "mapped_bytes")


def chain() -> FilterChain:
    """The rules of the LAION chain, and the copies that pandas can find too."""
    whole = catalog.filter_chain(CHAIN)
    duplicates = [step for step in whole.duplicates if step.name in COPIES]
    others = {"placeholders": [], "decontaminate": None, "balance": None}
    return whole.model_copy(update={"duplicates": duplicates, **others})


def ours(sidecar: Path, kept: Path) -> None:
    """The keys of the rows that our filter keeps."""
    from tinygptv.data.columns.arrow import parquet
    from tinygptv.data.columns.database import connect
    from tinygptv.data.filters.rows import Rows
    from tinygptv.data.filters.rule_attribution import KEPT, judge

    with connect(kept.parent) as database:
        judgement = judge(Rows(database, sidecar, sidecar.parent), chain())
    first = 0
    with parquet(sidecar) as file, pq.ParquetWriter(kept, pa.schema([("key", pa.string())])) as writer:
        for batch in file.iter_batches(20_000, columns=["key"]):
            is_kept = np.packbits(judgement.verdicts[first : first + batch.num_rows] == KEPT, bitorder="little")
            # Not by pa.array, which would import pandas.
            mask = pa.BooleanArray.from_buffers(pa.bool_(), batch.num_rows, [None, pa.py_buffer(is_kept)])
            writer.write_batch(batch.filter(mask))
            first += batch.num_rows


def pandas(sidecar: Path, kept: Path) -> None:
    """The same rules and copies, as one writes them with pandas."""
    import pandas as pd

    columns = ["key", "caption", "language", "width", "height", "content_sha256", "sha256", "similarity", "punsafe"]
    rows = pd.read_parquet(sidecar, columns=[*columns, "pwatermark", "nsfw", "table_row", "table_sha256"])
    short, long = rows[["width", "height"]].min(axis=1), rows[["width", "height"]].max(axis=1)
    lower = rows.caption.str.lower()
    words, letters = lower.str.split(" "), rows.caption.str.replace(r"[^a-zA-Z\s]", "", regex=True).str.len()
    length = rows.caption.str.len()
    varied = words[length >= 60].map(lambda each: len(set(each)) / len(each)).reindex(rows.index, fill_value=1.0)
    keep = (short >= 200) & (long / short <= 3) & (length >= 6) & (length <= 1000) & (words.str.len() >= 3)
    keep &= (letters / length >= 0.5) & (varied >= 0.34)
    keep &= ~lower.str.contains(r"^(?:img|dsc|dscn|dscf|screenshot)[ _-]*[0-9]|\.(?:jpe?g|png|gif|webp)$")
    keep &= ~lower.str.contains("all rights reserved|click (?:here|to enlarge)|image not available|no image")
    keep &= (rows.similarity.fillna(1) >= 0.28) & (rows.punsafe.fillna(0) < 0.5) & (rows.pwatermark.fillna(0) < 0.8)
    keep &= (rows.nsfw.fillna("UNLIKELY") != "NSFW") & (rows.language.fillna("en") == "en")
    keep &= (
        rows.table_sha256.isna() | rows.content_sha256.isna() | (rows.content_sha256 == rows.table_sha256.str.lower())
    )
    left = rows[keep].assign(picture=rows.content_sha256.fillna(rows.sha256), said=lower)
    left = left.sort_values(["similarity", "table_row", "key"], ascending=[False, True, True])
    left = left.drop_duplicates("picture").drop_duplicates("said")
    left[["key"]].sort_index().to_parquet(kept)


def near_copies(sidecar: Path, _: Path) -> None:
    """All pairs of perceptual hashes within four bits, and who of them stays."""
    from tinygptv.data.columns.database import connect
    from tinygptv.data.filters.duplicates import compare
    from tinygptv.data.filters.rows import Rows

    (step,) = (one for one in catalog.filter_chain(CHAIN).duplicates if one.within is not None)
    with connect(sidecar.parent) as database:
        rows = Rows(database, sidecar, sidecar.parent)
        copies = compare(rows, step.model_copy(update={"confirm": False}))
        list(copies.dropped(lambda positions: np.ones(len(positions), np.bool_)))


def whole_chain(sidecar: Path, _: Path) -> None:
    """Every step of the chain: also near copies, placeholders and balance. Looks are not compared: there are none."""
    from tinygptv.data.columns.database import connect
    from tinygptv.data.filters.rows import Rows
    from tinygptv.data.filters.rule_attribution import judge

    every = catalog.filter_chain(CHAIN)
    by_hash_alone = [step.model_copy(update={"confirm": False}) for step in every.duplicates]
    with connect(sidecar.parent) as database:
        rows = Rows(database, sidecar, sidecar.parent)
        judge(rows, every.model_copy(update={"duplicates": by_hash_alone}))


def describe(sidecar: Path, _: Path) -> None:
    """Captions cleaned, languages told."""
    from tinygptv.data.filters import captions

    raw = stored(sidecar)
    captions.describe(raw[0], "made_up", "web", raw[1])


def previews(sidecar: Path, _: Path) -> dict[str, float]:
    """Seconds by the clock to the counts and the places of the pictures: the first look, which measures, and others."""
    from tinygptv.data.filters import preview as module

    store, raw = stored(sidecar)
    module.describe_rows = lambda *_: raw
    module.read_image, module.thumbnail = (lambda *_: b""), (lambda _: b"")
    taken = {}
    for name, rule, threshold in PREVIEWS:
        started = time.perf_counter()
        module.preview(store, "made_up", CHAIN, raw, rule, threshold)
        taken[name] = time.perf_counter() - started
    return taken


def stored(sidecar: Path) -> tuple[Store, Manifest]:
    """The sidecar as a raw artifact without pictures."""
    store = Store(tempfile.mkdtemp(dir=sidecar.parent))

    def build(draft: Path) -> Outcome:
        (draft / SIDECAR).symlink_to(sidecar)
        return Outcome()

    return store, store.make("raw/made_up@0", "benchmark", {}, [], build)


WORK: dict[str, Callable[[Path, Path], Any]] = {
    work.__name__: work for work in (ours, pandas, near_copies, whole_chain, describe, previews)
}


def measured(name: str, sidecar: Path, kept: Path) -> dict[str, Any]:
    """One piece of work in a process of its own: CPU seconds, seconds, peak bytes, and what it answers."""
    command = [sys.executable, __file__, "--work", name, str(sidecar), str(kept)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def median(name: str, sidecars: Path, kept: Path, rounds: int) -> dict[str, float]:
    """Medians of several processes."""
    runs = [measured(name, sidecars, kept) for _ in range(rounds)]
    return {figure: statistics.median(run[figure] for run in runs) for figure in FIGURES}


def beside_pandas(sidecar: Path, folder: Path, rounds: int) -> None:
    """In turns, so that a busy minute of the machine falls on both."""
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "pandas": []}
    for _ in range(rounds):
        for name, done in runs.items():
            done.append(measured(name, sidecar, folder / name))
    keys = [sorted(pq.read_table(folder / name)["key"].to_pylist()) for name in runs]
    if keys[0] != keys[1]:
        raise SystemExit(f"ours keeps {len(keys[0])} rows, pandas {len(keys[1])}, or others")
    count = pq.read_metadata(sidecar).num_rows
    for figure, unit, goal in (
        ("cpu", "CPU s", "<= 0.25 of pandas"),
        ("seconds", "s", "<= 0.25 of pandas"),
        ("peak_bytes", "bytes", "<= 256 MB"),
    ):
        mine, theirs = (statistics.median(run[figure] for run in done) for done in runs.values())
        mapped = {"mapped_bytes": statistics.median(run["mapped_bytes"] for run in runs["ours"])}
        details = {"rows": count, "kept": len(keys[0])} | (mapped if figure == "peak_bytes" else {})
        report(f"filter and deduplicate, {figure}", mine, theirs, unit, goal, **details)


def growth(sidecar: Path, folder: Path, rounds: int) -> None:
    """Time and memory for four sizes, and the line through them: of what pandas can do, and of the whole chain."""
    counts: list[int] = []
    figures: dict[str, list[dict[str, float]]] = {"ours": [], "whole_chain": []}
    total = pq.read_metadata(sidecar).num_rows
    for count in (total // 4, total // 2, total, 2 * total):
        path = folder / f"{count}.parquet"
        make_rows(path, count)
        counts.append(count)
        for name, costs in figures.items():
            costs.append(median(name, path, folder / "kept", rounds))
        path.unlink()
    millions = np.array(counts) / 1e6
    for name, costs in figures.items():
        for figure, unit, goal in (("cpu", "CPU s", "linear"), ("peak_bytes", "bytes", "flat")):
            values = [one[figure] for one in costs]
            slope, start = np.polyfit(millions, values, 1)
            details = {"rows": counts, "values": [round(value, 2) for value in values], "start": round(float(start), 2)}
            if figure == "peak_bytes":
                details["mapped_bytes"] = [one["mapped_bytes"] for one in costs]
            title = f"growth of {name}, {figure} per million rows"
            report(title, float(slope), None, f"{unit}/million rows", goal, **details)


def memory_bytes(field: str) -> int:
    """Of this process alone: `VmHWM`, the peak (`getrusage` begins with what its parent held), or `RssFile`, what of
    the libraries' files is mapped now. How much that is depends on how the system came to hold those files."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) << 10


def make_rows(path: Path, count: int) -> None:
    """Metadata of `count` rows as a described sidecar holds it."""
    from tinygptv.data.shards.shards import SCHEMA

    chance = np.random.default_rng(0)
    letters = chance.integers(97, 123, (30_000, 10)).astype(np.uint8).view("S10").ravel().astype(str)
    words = np.array([word[:length] for word, length in zip(letters, chance.integers(2, 11, 30_000), strict=True)])
    words[:12] = ["the", "of", "and", "a", "in", "with", "dog", "cat", "red", "house", "street", "tree"]
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for first in range(0, count, 50_000):
            rows = min(50_000, count - first)
            known = _columns(chance, words, np.arange(first, first + rows))
            arrays = [
                pa.array(known[field.name], field.type) if field.name in known else pa.nulls(rows, field.type)
                for field in SCHEMA
            ]
            writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))


def _columns(chance: np.random.Generator, words: Any, places: Any) -> dict[str, Any]:
    rows = len(places)
    chosen = np.minimum(chance.zipf(1.25, (rows, 14)) - 1, len(words) - 1)
    captions = [" ".join(words[row[:length]]) for row, length in zip(chosen, chance.integers(1, 15, rows), strict=True)]
    for place in np.flatnonzero(chance.random(rows) < 0.05).tolist():
        captions[place] = captions[place // 7]
    pictures = np.where(chance.random(rows) < 0.12, chance.integers(0, places[0] // 3 + 1, rows), places)
    hashes = [f"{int(picture) * 2654435761 % 2**64:064x}" for picture in pictures]
    hosts = np.minimum(chance.zipf(1.3, rows), 200_000)
    return {
        "key": [f"{place:020x}" for place in places],
        "url": [f"https://cdn{host}.example/images/{place}.jpg" for host, place in zip(hosts, places, strict=True)],
        "caption": captions,
        "caption_raw": captions,
        "language": ["en"] * rows,
        "table_name": ["part-00000"] * rows,
        "table_row": places,
        "width": chance.integers(60, 1600, rows).astype(np.int32),
        "height": chance.integers(60, 1600, rows).astype(np.int32),
        "original_width": chance.integers(60, 1600, rows).astype(np.int32),
        "original_height": chance.integers(60, 1600, rows).astype(np.int32),
        "sha256": hashes,
        "content_sha256": hashes,
        "phash": (pictures.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64),
        "similarity": chance.normal(0.31, 0.03, rows),
        "punsafe": chance.beta(0.3, 3, rows),
        "pwatermark": chance.beta(0.5, 1.5, rows),
        "nsfw": ["UNLIKELY"] * rows,
        "licence": ["?"] * rows,
    }


def main() -> None:
    """All figures, or with --work one measurement, printed as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="?", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", nargs=3, metavar=("NAME", "SIDECAR", "KEPT"))
    options = parser.parse_args()
    if options.work:
        name, sidecar, kept = options.work
        started, cpu = time.perf_counter(), time.process_time()
        answer = WORK[name](Path(sidecar), Path(kept))
        took = {
            "cpu": time.process_time() - cpu,
            "seconds": time.perf_counter() - started,
        }
        took |= {"peak_bytes": memory_bytes("VmHWM"), "mapped_bytes": memory_bytes("RssFile")}
        print(json.dumps(took | {"answer": answer}))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sidecar = folder / SIDECAR
        make_rows(sidecar, options.rows)
        beside_pandas(sidecar, folder, options.rounds)
        for name, seconds in measured("previews", sidecar, folder / "kept")["answer"].items():
            report(name, seconds, None, "s", "-" if name.startswith("first") else "< 1 s", rows=options.rows)
        for name in ("near_copies", "describe"):
            figures = measured(name, sidecar, folder / "kept")
            report(f"{name}, cpu", figures["cpu"], None, "CPU s", "-", rows=options.rows, peak=figures["peak_bytes"])
        growth(sidecar, folder, options.rounds)


if __name__ == "__main__":
    main()
