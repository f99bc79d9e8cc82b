"""Every stage of the full-size recipe on one GPU within 24 GB, compared with the published loop. Runs offline.

    python -m benchmarks.gpu [--stages stage2,stage4] [--steps 8] [--minutes 8] [--hardware rtx3090]

Weights are random and created on the device. Each side takes timed steps on samples of typical lengths, then a few on
the longest, which determine peak memory. The profile's `memory_gib` is enforced on larger devices too. One JSON line
per figure is written to benchmarks/results/, or to --results. A side that fails, hangs or runs out of memory is
reported and does not affect the others. Exit code 1 if a side failed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.comparison import RESULTS, report
from benchmarks.gpu.requirements import missing

RECIPES = ("tinygptv", "tinygptv_fixed", "tinygptv_tiny")


def main(arguments: list[str]) -> int:
    """Measure, write and print the figures; returns the exit code."""
    parser = _options()
    options = parser.parse_args(arguments)
    if lacking := missing():
        print("missing packages; install them with: pip install " + " ".join(map(repr, lacking)))
        return 1
    from benchmarks.gpu.figures import judge, table
    from benchmarks.gpu.measuring import Processes, measure, prepare
    from benchmarks.gpu.orders import SIDES
    from tinygptv import catalog

    started = time.monotonic()
    recipe, hardware = catalog.recipe(options.recipe), catalog.hardware(options.hardware)
    if hardware.quantize_base != "none":
        parser.error(f"--hardware: {options.hardware} quantizes the base to 4 bits, which is not supported")
    known = [stage.stage for stage in recipe.stages]
    stages = options.stages.split(",") if options.stages else known
    if unknown := set(stages) - set(known):
        parser.error(f"--stages: {options.recipe} has {', '.join(known)}, not {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        processes = Processes(folder, hardware, started + 60 * options.minutes)
        device = processes.device()
        if isinstance(device, str):
            print(device)
            return 1
        print(device.model_dump_json())
        figures, failed = [], False
        alone = {"ranks": 1, "nodes": 1, "hosts": [], "tflops": device.tflops or device.measured_tflops}
        one_rank = hardware.model_copy(update=alone)
        for order in prepare(folder, recipe, stages, one_rank, options.warm_up, options.steps, options.pictures):
            outcomes = {side: measure(order, side, processes.ask) for side in SIDES}
            found = judge(order, outcomes["ours"], outcomes["reference"], device)
            for one in found:
                report(one.name, one.ours, one.peer, one.unit, one.goal, options.results, met=one.met, **one.details)
            figures += found
            failed |= any((outcome.message or "").startswith("failed") for outcome in outcomes.values())
    print("\n".join(table(figures)))
    print(f"{device.name} under the profile {options.hardware}; {time.monotonic() - started:.0f} s in all")
    return int(failed)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--recipe", choices=RECIPES, default=RECIPES[0])
    parser.add_argument("--hardware", default="rtx3090", help="profile in infra/hardware, of which one rank is used")
    parser.add_argument("--stages", help="comma-separated; default: all")
    parser.add_argument("--steps", type=int, default=8, help="timed steps per side and stage")
    parser.add_argument("--warm-up", type=int, default=3, help="untimed steps before")
    parser.add_argument("--pictures", type=int, default=1024)
    parser.add_argument("--minutes", type=float, default=8, help="time limit; nothing is started after it")
    parser.add_argument("--folder", help="where to keep data and logs; default: a temporary folder")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON lines")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
