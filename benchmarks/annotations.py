"""A million annotated records read: in how much memory, and how fast, beside loading the files whole.

    python benchmarks/annotations.py [RECORDS]

Each kind is a process of its own, once with a thousand records and once with all, so that what a record costs in memory
can be told from what the interpreter does. One record in a hundred is broken. What is kept of a record is its key, by
which duplicates are known, and, where a second file holds the questions, those. The peer is what the published readers
do: `json.load` of every file. Times are CPU seconds.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from comparison import report

from tinygptv.data.annotations import AnnotationReader
from tinygptv.definitions.source import AnnotationFormat, AnnotationsSource
from tinygptv.store.artifacts import Store

KINDS: dict[str, AnnotationFormat] = {
    "lines": "llava_conversation",
    "list": "llava_conversation",
    "two_files_joined": "vqav2",
}
BROKEN_EVERY = 100
FEW = 1000


def records(kind: str, count: int) -> Iterator[str]:
    """As JSON; one in a hundred has no answer."""
    for number in range(count):
        answer = "" if number % BROKEN_EVERY == 0 else "holding an umbrella"
        if kind == "two_files_joined":
            yield json.dumps({"question_id": number, "image_id": 1, "answers": [{"answer": answer}] * 10})
        else:
            said = [{"from": "human", "value": "What is he doing?"}, {"from": "gpt", "value": answer * 10}]
            yield json.dumps({"id": str(number), "image": "1.jpg", "conversations": said})


def write(folder: Path, kind: str, count: int) -> AnnotationsSource:
    """The files of a kind, and the source that names them."""
    files = {"annotations": folder / "annotations.json"}
    before, between, after = {"lines": ("", "\n", "\n"), "list": ("[", ",\n", "]")}.get(
        kind, ('{"annotations": [', ",\n", "]}")
    )
    _write_all(files["annotations"], before, between, after, records(kind, count))
    if kind == "two_files_joined":
        files["questions"] = folder / "questions.json"
        asked = (
            json.dumps({"question_id": number, "question": f"What is number {number}?"}) for number in range(count)
        )
        _write_all(files["questions"], '{"questions": [', ",\n", "]}", asked)
    for name in ("1.jpg", "COCO_train2014_000000000001.jpg"):
        (folder / name).touch()
    places = {role: str(path) for role, path in files.items()}
    return AnnotationsSource(
        kind="annotations", about="", licence="", format=KINDS[kind], files=places, images=str(folder)
    )


def _write_all(path: Path, before: str, between: str, after: str, items: Iterator[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(before)
        for number, item in enumerate(items):
            file.write(between * (number > 0) + item)
        file.write(after)


def read(source: AnnotationsSource, folder: Path, count: int) -> None:
    """Every record, by our reader."""
    reader = AnnotationReader(Store(str(folder)), "made_up", source)
    kept = sum(1 for _ in reader)
    assert reader.drops == {"empty_answer": -(-count // BROKEN_EVERY)}
    assert kept + reader.drops.total() == reader.rows_in == count


def load(source: AnnotationsSource, lines: bool) -> list[object]:
    """Every file, whole."""
    texts = [Path(place).read_text(encoding="utf-8") for place in source.files.values()]
    return [[json.loads(line) for line in text.splitlines()] if lines else json.loads(text) for text in texts]


def measure(kind: str, count: int, peer: bool) -> None:
    """Print what reading cost this process."""
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder), kind, count)
        size, start = sum(Path(place).stat().st_size for place in source.files.values()), time.process_time()
        loaded = load(source, kind == "lines") if peer else read(source, Path(folder), count)
        seconds = time.process_time() - start
        del loaded
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"cpu_seconds": seconds, "peak": peak, "bytes": size}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        measure(options.kind, options.records, options.peer)
        return
    for kind in KINDS:
        few, many, peer = (
            _in_a_process(kind, *asked) for asked in ((FEW, False), (options.records, False), (options.records, True))
        )
        report(
            f"annotations_memory_{kind}",
            (many["peak"] - few["peak"]) / options.records,
            (peer["peak"] - few["peak"]) / options.records,
            "bytes of memory per record",
            "<= 0.2",
            records=options.records,
            file_megabytes=round(many["bytes"] / 1e6),
            peak_megabytes=round(many["peak"] / 1e6),
            records_per_cpu_second=round(options.records / many["cpu_seconds"]),
            peer_records_per_cpu_second=round(options.records / peer["cpu_seconds"]),
        )


def _in_a_process(kind: str, count: int, peer: bool) -> dict[str, float]:
    command = [sys.executable, __file__, str(count), "--kind", kind, *(["--peer"] if peer else [])]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


if __name__ == "__main__":
    main()
