"""What DeepSpeed and our loop cost: a stage as it is trained, beside the same steps in the barest PyTorch loop.

    python benchmarks/engine_overhead.py

Stage 1 of the tiny recipe on one rank and one thread; both sides draw the same batches, in the same pieces, and must
have the same losses. Ours is started by the launcher, under DeepSpeed, and beats, watches, measures and writes metrics;
the other one is forward, backward, clipping and AdamW. They run in turns, each in processes of its own. The figure is
the median step's seconds by the clock, drawing included.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import small_stage
import torch
from comparison import report
from small_stage import left_by

from tinygptv.catalog import OWN_DEFINITIONS
from tinygptv.sample import IGNORE_INDEX
from tinygptv.train.batches import open_loader
from tinygptv.train.engine import build_model, parameter_groups
from tinygptv.train.job import JOB, METRICS, Job, read_metrics
from tinygptv.train.schedule import learning_rate, total_steps

STEPS, WARM_UP, ROUNDS = 60, 10, 3
LOSS_TOLERANCE = 1e-4


def main() -> None:
    """Both in turns."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        small_stage.write_data(folder)
        os.environ |= {OWN_DEFINITIONS: str(folder / "definitions"), "OMP_NUM_THREADS": "1"}
        seconds: dict[str, list[float]] = {"ours": [], "bare": []}
        for number in range(ROUNDS):
            one_rank = {"ranks": 1, "zero_stage": 2}
            small_stage.train(folder, f"ours{number}", STEPS, {"checkpoint_every": 10 * STEPS}, one_rank)
            left = left_by(folder, f"ours{number}")
            ours = [(row["loss"], row["seconds"]) for row in read_metrics(left / METRICS)]
            command = [sys.executable, __file__, "bare", str(left / JOB)]
            bare = json.loads(subprocess.run(command, check=True, capture_output=True).stdout.splitlines()[-1])
            farthest = max(abs(mine[0] - theirs[0]) for mine, theirs in zip(ours, bare, strict=True))
            assert farthest <= LOSS_TOLERANCE, f"losses differ by {farthest}: not the same work"
            for name, steps in (("ours", ours), ("bare", bare)):
                seconds[name].append(statistics.median(taken for _, taken in steps[WARM_UP:]))
        mine, theirs = (statistics.median(each) for each in seconds.values())
        report("DeepSpeed and our loop beside a bare loop", mine, theirs, "s/step", "ratio <= 1.1", steps=STEPS)


def bare(job: Job) -> list[tuple[float, float]]:
    """Loss and seconds of every step."""
    torch.set_num_threads(1)
    model, schedule, settings = build_model(job), job.stage.schedule, job.stage.optimizer
    batches = open_loader(job, model.num_image_tokens)
    optimizer = torch.optim.AdamW(parameter_groups(model, settings), betas=(settings.beta1, settings.beta2), fused=True)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    steps = []
    for step in range(total_steps(schedule)):
        started = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(schedule, step)
        pieces = batches.micro_batches(step, 0, 1, job.hardware.micro_batch_size)
        counts = [int((batch.labels[:, 1:] != IGNORE_INDEX).sum()) for batch in pieces]
        total = 0.0
        for batch, count in zip(pieces, counts, strict=True):
            loss, _ = model(batch.images(), batch.input_ids, batch.attention_mask, batch.labels)
            share = loss * (count / sum(counts))
            share.backward()
            total += share.item()
        torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps.append((total, time.monotonic() - started))
    return steps


if __name__ == "__main__":
    if sys.argv[1:2] == ["bare"]:
        print(json.dumps(bare(Job.model_validate_json(Path(sys.argv[2]).read_text()))))
    else:
        main()
