"""Photographs from shards to batches, beside webdataset with Pillow in a DataLoader of as many workers; and what
collating costs of a tiny step. `ratio_if_all_but_decoding_were_free` is what libjpeg-turbo alone would come to.

    python benchmarks/loader.py [SIDE…]

Ours also draws by the mixture's order, renders and tokenises the captions, which the peer leaves as they are. Both
end as values in this process: ours are computed here, the peer's in its workers, as its users do. Both are measured
while they run, so that nothing of their start counts; seconds are those of the clock, CPU seconds those of all their
processes.
"""

import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import simplejpeg
import torch
import training_step
import webdataset
from comparison import photographs, report, seconds_of
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from tinygptv import catalog
from tinygptv.data.batches.batching import Batch, Collator, Loader, load_tokenizer
from tinygptv.data.batches.loading import BatchesAhead
from tinygptv.data.mixtures.mixing import mix
from tinygptv.data.pictures.pixels import decoding_memory
from tinygptv.data.prompting.prompts import render
from tinygptv.data.shards.shards import ShardWriter, content_hash
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.preprocessing import CLIP
from tinygptv.definitions.recipe import Inputs
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.sample import IMAGE_PLACE, ImageReference, Sample, Turn
from tinygptv.shapes.scenes import draw, scene
from tinygptv.shapes.tables import jpeg
from tinygptv.store.artifacts import Outcome, Store
from tinygptv.store.locations import local_path
from tinygptv.train.engine import parameter_groups

WORKERS = len(os.sched_getaffinity(0))
BATCH, STEPS, ROUNDS, SHARDS = 32, 24, 5, 8
WARM_UP = 3 * WORKERS
"""Steps before those that are measured: what was made ahead, while nobody measured, does not count."""
_QUIET_SECONDS = 0.2
SAMPLES = BATCH * (ROUNDS * (WARM_UP + STEPS) + 4 * WORKERS)
TINY = catalog.recipe("tinygptv_tiny")


def main() -> None:
    """Both sides of stages 1 to 4, or those named; then collation."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        mixture, shards, kind = write_photographs(store)
        for side in map(int, sys.argv[1:] or ("224", "448")):
            compare(store, mixture, shards, side, kind)
    collation()


def write_photographs(store: Store) -> tuple[str, list[str], str]:
    """A mixture of photographs, each several times; the shards it lies in, and what they are."""
    found, kind = photographs(1)
    pictures = [found[number % len(found)] for number in range(SAMPLES)]

    def build(folder: Path) -> Outcome:
        with ShardWriter(folder, SAMPLES // SHARDS + 1) as shards:
            for number, image in enumerate(pictures):
                row = {"key": f"{number:06d}", "caption": "a photograph of something", "sha256": content_hash(image)}
                shards.write(row, image)
        return Outcome(rows_in=SAMPLES, rows_out=SAMPLES)

    pairs = store.make("filtered/photographs@0", "benchmark", {}, [], build)
    shards = [str(path) for path in sorted(store.folder(pairs.artifact).glob("*.tar"))]
    return mix(store, "tiny_pairs", pairs).artifact, shards, kind


def compare(store: Store, mixture: str, shards: list[str], side: int, kind: str) -> None:
    """Images per second and per CPU second at one size, in turns."""
    ours, peer = by_us(store, mixture, side), by_peer(shards, side)
    rounds = [(seconds_and_cpu(ours), seconds_and_cpu(peer)) for _ in range(ROUNDS)]
    count, peer_is = BATCH * STEPS, f"webdataset {webdataset.__version__} + Pillow {Image.__version__} + DataLoader"
    goal = f"ratio >= {2.5 if side == 224 else 2}"
    decoding = decoding_seconds()
    for number, (unit, at_once) in enumerate((("s", WORKERS), ("CPU s", 1))):
        mine, theirs = (statistics.median(each[who][number] for each in rounds) for who in (0, 1))
        name = f"loader at {side}, images/{unit}"
        free = {"ratio_if_all_but_decoding_were_free": round(at_once / decoding * theirs / count, 2)}
        details = {"workers": WORKERS, "pictures": kind, "peer_is": peer_is, **free}
        report(name, count / mine, count / theirs, f"images/{unit}", goal, **details)


def decoding_seconds() -> float:
    """Of CPU, for one photograph on average and nothing else, in memory that is kept."""
    pictures, memory = photographs(1)[0], decoding_memory()

    def decode() -> None:
        for picture in pictures:
            simplejpeg.decode_jpeg(picture, "RGBX", buffer=memory)

    return min(seconds_of(decode) for _ in range(3)) / len(pictures)


def by_us(store: Store, mixture: str, side: int) -> Iterator[Tensor]:
    """Our loader as training opens it, in workers."""
    inputs = TINY.stages[0].inputs.model_copy(update={"image_size": side, "decoding": "fast"})
    opened = functools.partial(open_loader, store.workdir, mixture, inputs)
    ahead = BatchesAhead([], opened, WORKERS, 600, print)
    for step in range(SAMPLES // BATCH):
        (batch,) = ahead.micro_batches(step, 0, 1, BATCH)
        yield batch.images()


def open_loader(workdir: str, mixture: str, inputs: Inputs) -> Loader:
    """What every worker opens."""
    tokenizer = load_tokenizer(local_path(TINY.model.language_model.tokenizer))
    return Loader(Store(workdir), mixture, inputs, tokenizer, num_image_tokens=16, global_batch_size=BATCH, seed=1)


def by_peer(shards: list[str], side: int) -> Iterator[Tensor]:
    """The published reader's pipeline: Pillow, torchvision's resize and normalisation restated, batches of a worker."""
    pairs = webdataset.WebDataset(shards, shardshuffle=False).decode("pilrgb").to_tuple("jpg", "txt")
    batches = pairs.map_tuple(functools.partial(published_transform, side)).batched(BATCH)
    for pixel_values, _ in DataLoader(batches, batch_size=None, num_workers=WORKERS, prefetch_factor=2):
        yield pixel_values


def published_transform(side: int, image: Image.Image) -> Tensor:
    """Resize, ToTensor, Normalize."""
    resized = np.array(image.resize((side, side), Image.Resampling.BICUBIC))
    values = torch.from_numpy(resized).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (CLIP.mean, CLIP.deviation))
    return values.sub_(mean).div_(deviation)


def seconds_and_cpu(batches: Iterator[Tensor]) -> tuple[float, float]:
    """What the next steps take, once the other side's workers have made what they make ahead."""
    used = None
    while (now_used := cpu_seconds()) != used:
        used = now_used
        time.sleep(_QUIET_SECONDS)
    for _ in range(WARM_UP):
        next(batches)
    started, before = time.perf_counter(), cpu_seconds()
    for _ in range(STEPS):
        assert len(next(batches)) == BATCH
    return time.perf_counter() - started, cpu_seconds() - before


def cpu_seconds() -> float:
    """Of this process and all below it."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (this, *this.children(recursive=True)))


def collation() -> None:
    """Texts that are new and pictures that are decoded → a batch, as a share of the tiny recipe's step on it."""
    stage, model = TINY.stages[-1], training_step.build("tiny")
    tokenizer = load_tokenizer(local_path(TINY.model.language_model.tokenizer))
    collator = Collator(tokenizer, stage.inputs, model.num_image_tokens)
    optimizer = torch.optim.AdamW(parameter_groups(model, stage.optimizer), lr=training_step.RATE, fused=True)
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(2 * ROUNDS):
            tasks = pictured(number, Path(folder), stage.inputs.image_size)
            samples, rendered = [sample for sample, _ in tasks], [render(*each, stage.inputs) for each in tasks]
            collator.training(samples, [(Turn(IMAGE_PLACE, "not what is measured"),)] * len(samples))
            collating = seconds_of(functools.partial(collator.training, samples, rendered))
            batch = collator.training(samples, rendered)
            shares.append(collating / seconds_of(functools.partial(step, model, optimizer, batch)))
    report("collation of a tiny step", statistics.median(shares[2:]), None, "share", "< 0.02", batch=len(samples))


def pictured(number: int, folder: Path, side: int) -> list[tuple[Sample, Task]]:
    """A rank's samples of a step, with pictures."""
    drawn = [*training_step.samples(2 * number), *training_step.samples(2 * number + 1)]
    paths = [folder / f"{number}-{place}.jpg" for place in range(len(drawn))]
    for place, path in enumerate(paths):
        path.write_bytes(jpeg(draw(scene("train", len(drawn) * number + place), side)))
    return [
        (replace(sample, images=(ImageReference(str(path)),)), task)
        for (sample, task), path in zip(drawn, paths, strict=True)
    ]


def step(model: VisionLanguageModel, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """Forward, backward, AdamW."""
    loss, _ = model(batch.images(), batch.input_ids, batch.attention_mask, batch.labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
