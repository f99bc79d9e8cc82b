"""Every stage of the full-size recipe on one GPU, within 24 GB, beside the published loop; no network, no weight files.

    python -m benchmarks.gpu [--stages stage2,stage4] [--steps 8] [--minutes 8] [--hardware rtx3090]

Weights are random and made on the device. Both sides take steps on samples of usual lengths, which are timed, then some
of the longest, which decide about memory. What the profile's `memory_gib` forbids is refused on a larger device too.
One JSON line per figure goes to benchmarks/results/, or below --results. Made for a machine that is lent for minutes:
a side that fails, hangs or does not fit is a result and loses no other. Ends with 1 if a side failed.
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
    """Measure, write, print; the exit code."""
    parser = _options()
    options = parser.parse_args(arguments)
    if lacking := missing():
        print("this machine lacks packages; where there is a network: pip install " + " ".join(map(repr, lacking)))
        return 1
    from benchmarks.gpu.figures import judge, table
    from benchmarks.gpu.measuring import Processes, measure, prepare
    from benchmarks.gpu.orders import SIDES
    from tinygptv import catalog

    began = time.monotonic()
    recipe, hardware = catalog.recipe(options.recipe), catalog.hardware(options.hardware)
    if hardware.quantize_base != "none":
        parser.error(f"--hardware: {options.hardware} rounds the base to 4 bits, which random weights here cannot be")
    known = [stage.stage for stage in recipe.stages]
    stages = options.stages.split(",") if options.stages else known
    if unknown := set(stages) - set(known):
        parser.error(f"--stages: {options.recipe} has {', '.join(known)}, not {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        processes = Processes(folder, hardware, began + 60 * options.minutes)
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
            failed |= any((outcome.told or "").startswith("failed") for outcome in outcomes.values())
    print("\n".join(table(figures)))
    print(f"{device.name} under the profile {options.hardware}; {time.monotonic() - began:.0f} s in all")
    return int(failed)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--recipe", choices=RECIPES, default=RECIPES[0])
    parser.add_argument("--hardware", default="rtx3090", help="a profile in infra/hardware; one rank of it")
    parser.add_argument("--stages", help="separated by commas; all by default")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a side and stage")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before them")
    parser.add_argument("--pictures", type=int, default=1024)
    parser.add_argument("--minutes", type=float, default=8, help="when they are over, nothing more is measured")
    parser.add_argument("--folder", help="for data and logs, kept; by default a temporary one")
    parser.add_argument("--results", type=Path, default=RESULTS, help="for the JSON lines")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
