"""Load photographs from shards into batches, compared with webdataset and Pillow in a DataLoader.

Also the share of collation in a tiny training step. `ratio_if_all_but_decoding_were_free` is the upper bound set by
libjpeg-turbo.

    python benchmarks/loader.py [SIDE…]

Ours also samples in the mixture's order, renders prompts and tokenises captions; the peer leaves captions untouched.
Both produce normalised tensors in this process: ours normalises here, the peer in its workers, as usual. Both use the
same number of workers and are measured after start-up, in wall time and in CPU seconds of all processes.
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
from tinygptv.data.batches.loading import PrefetchedBatches
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
"""Unmeasured steps that use up what was prefetched while nothing was measured."""
_QUIET_SECONDS = 0.2
SAMPLES = BATCH * (ROUNDS * (WARM_UP + STEPS) + 4 * WORKERS)
TINY = catalog.recipe("tinygptv_tiny")


def main() -> None:
    """Measure the image sizes of all stages, or those given, then collation."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        mixture, shards, kind = write_photographs(store)
        for side in map(int, sys.argv[1:] or ("224", "448")):
            compare(store, mixture, shards, side, kind)
    collation()


def write_photographs(store: Store) -> tuple[str, list[str], str]:
    """Make a mixture of repeated photographs; returns it, its shards and the kind of images."""
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
    """Report images per second and per CPU second at one size, alternating."""
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
    """Average CPU seconds to decode one photograph into a reused buffer."""
    pictures, memory = photographs(1)[0], decoding_memory()

    def decode() -> None:
        for picture in pictures:
            simplejpeg.decode_jpeg(picture, "RGBX", buffer=memory)

    return min(seconds_of(decode) for _ in range(3)) / len(pictures)


def by_us(store: Store, mixture: str, side: int) -> Iterator[Tensor]:
    """Our loader with workers, as in training."""
    inputs = TINY.stages[0].inputs.model_copy(update={"image_size": side, "decoding": "fast"})
    opened = functools.partial(open_loader, store.workdir, mixture, inputs)
    ahead = PrefetchedBatches([], opened, WORKERS, 600, print)
    for step in range(SAMPLES // BATCH):
        (batch,) = ahead.micro_batches(step, 0, 1, BATCH)
        yield batch.images()


def open_loader(workdir: str, mixture: str, inputs: Inputs) -> Loader:
    """Open the loader in a worker."""
    tokenizer = load_tokenizer(local_path(TINY.model.language_model.tokenizer))
    return Loader(Store(workdir), mixture, inputs, tokenizer, num_image_tokens=16, global_batch_size=BATCH, seed=1)


def by_peer(shards: list[str], side: int) -> Iterator[Tensor]:
    """The published pipeline: Pillow, torchvision's resizing and normalisation (reimplemented), batched in workers."""
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
    """Wall and CPU seconds of the next steps, measured once the other side's workers are idle."""
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
    """CPU seconds of this process and its descendants."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (this, *this.children(recursive=True)))


def collation() -> None:
    """Report the time to collate new texts and decoded images, as a share of the tiny recipe's training step."""
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
    """One rank's samples of a step, with images."""
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
