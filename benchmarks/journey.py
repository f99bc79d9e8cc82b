"""What the default journey costs on this machine: one JSON line per figure, under benchmarks/results/.

    python benchmarks/journey.py [RUN]

Finished arrows are not repeated: their manifests say how long they took when they were made.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tinygptv.journey import RUN, Arrow, open_journey, train_all
from tinygptv.store.artifacts import Manifest

RESULTS = Path(__file__).parent / "results"
RATES = {"samples_per_second": "samples/s", "peak_memory_bytes": "bytes", "weight_bytes": "bytes"}


def figures(arrow: Arrow, manifest: Manifest) -> Iterator[dict[str, object]]:
    """Seconds of an arrow, and the rates and sizes its manifest tells."""
    yield {"figure": f"{arrow}: time", "value": manifest.seconds, "unit": "s"}
    for name, unit in RATES.items():
        if name in manifest.details:
            yield {"figure": f"{arrow}: {name}", "value": manifest.details[name], "unit": unit}


def main() -> None:
    """Run what is not finished, then write the figures."""
    journey = open_journey(*sys.argv[1:2] or [RUN])
    train_all(journey)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    about = {
        "commit": commit.stdout.strip(),
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "recipe": journey.run.recipe_name,
        "hardware": journey.run.hardware_name,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}.jsonl"
    with path.open("a") as stream:
        for arrow in journey.arrows():
            for figure in figures(arrow, journey.find(arrow)):
                stream.write(json.dumps(figure | {"made": journey.find(arrow).created} | about) + "\n")
    print(path)


if __name__ == "__main__":
    main()
