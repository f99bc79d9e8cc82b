"""Compare our code with a peer: the same work, alternating, reported as a ratio.

Each figure is one JSON line, printed and appended to benchmarks/results/DATE.jsonl. Times are CPU seconds of this
process unless stated otherwise, because they are more reliable than wall time on a shared machine.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PHOTOGRAPHS = Path(__file__).parents[2] / "shared" / "data" / "images"
"""Real photographs next to the checkout. Without them, benchmarks use generated images and say so."""


def seconds_of(work: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def in_turns(ours: Callable[[], Any], peer: Callable[[], Any], rounds: int = 7) -> tuple[float, float]:
    """Median CPU seconds of each, alternating. A first round, which fills caches, is not counted."""
    times = [(seconds_of(ours), seconds_of(peer)) for _ in range(rounds + 1)][1:]
    return statistics.median(mine for mine, _ in times), statistics.median(theirs for _, theirs in times)


def report(
    name: str, ours: float | None, peer: float | None, unit: str, goal: str, folder: Path = RESULTS, **details: Any
) -> None:
    """Report one figure. `goal` refers to the ratio, or to `ours` without a peer. None: could not be measured."""
    figure = {
        "name": name,
        "ours": None if ours is None else round(ours, 4),
        "peer": None if peer is None else round(peer, 4),
        "ratio": None if ours is None or peer is None else round(ours / peer, 4),
        "unit": unit,
        "goal": goal,
        **details,
        **_machine(),
    }
    line = json.dumps(figure)
    print(line, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{datetime.now(UTC):%Y-%m-%d}.jsonl").open("a") as stream:
        stream.write(line + "\n")


def photographs(minimum: int) -> tuple[list[bytes], str]:
    """At least `minimum` JPEGs, repeated if necessary, and their kind: `real`, or `generated` if there are none."""
    found = sorted((PHOTOGRAPHS / "coco").rglob("*.jpg")) + sorted((PHOTOGRAPHS / "llava_pretrain").rglob("*.jpg"))
    kind = "real" if found else "generated"
    pictures = [path.read_bytes() for path in found] or generated(100)
    return (pictures * (minimum // len(pictures) + 1))[:minimum] if len(pictures) < minimum else pictures, kind


def generated(count: int, megapixels: float = 0.46) -> list[bytes]:
    """JPEGs of noisy gradients with sizes and aspect ratios like images on the web."""
    import numpy as np
    import simplejpeg

    chance = np.random.default_rng(0)
    pictures = []
    for _ in range(count):
        aspect, pixels = chance.uniform(0.6, 1.7), megapixels * 1e6 * chance.uniform(0.5, 1.5)
        height, width = int((pixels / aspect) ** 0.5), int((pixels * aspect) ** 0.5)
        slope = np.linspace(0, 200, width)[None, :, None] * chance.uniform(0.2, 1, 3)
        grain = chance.normal(20, 8, (height, width, 1))
        image = np.clip(slope + grain, 0, 255).astype(np.uint8)
        pictures.append(simplejpeg.encode_jpeg(np.ascontiguousarray(image), 82, "RGB", "420"))
    return pictures


def _machine() -> dict[str, Any]:
    commit = ""
    if shutil.which("git"):
        asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        commit = asked.stdout.strip()
    return {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "commit": commit,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
