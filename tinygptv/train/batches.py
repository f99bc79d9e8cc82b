"""The batches of a stage: made in this rank, or in advance by its own worker processes."""

import functools
from collections.abc import Callable

from tinygptv.data.batches.batching import Loader, load_tokenizer
from tinygptv.data.batches.features import Features
from tinygptv.data.batches.loading import Batches, PrefetchedBatches
from tinygptv.data.mixtures.sampling_order import order_seed
from tinygptv.store.artifacts import Store
from tinygptv.store.locations import local_path
from tinygptv.train.job import Job

PATIENCE = 0.25
"""Share of the profile's `stall_seconds` for which a rank waits for a worker, so that it never looks hung itself."""


def mixture_batches(job: Job, num_image_tokens: int, on_loss: Callable[[str], None]) -> Batches:
    """The batches of the job's mixture, in the order of its stage; `on_loss` gets a message for every lost worker."""
    loader, hardware = open_loader(job, num_image_tokens), job.hardware
    if not hardware.loader_workers:
        return loader
    opened = functools.partial(open_loader, job, num_image_tokens)
    patience = PATIENCE * hardware.stall_seconds
    return PrefetchedBatches(loader.sources, opened, hardware.loader_workers, patience, on_loss)


def open_loader(job: Job, num_image_tokens: int) -> Loader:
    """The job's loader, the same in every process."""
    store = Store(job.workdir)
    return Loader(
        store,
        job.mixture,
        job.stage.inputs,
        load_tokenizer(local_path(job.model.language_model.tokenizer)),
        num_image_tokens=num_image_tokens,
        global_batch_size=job.stage.global_batch_size,
        seed=order_seed(job.seed, job.stage.stage),
        first_tombstones=job.tombstones,
        packing=job.hardware.packing,
        replacing=job.stage.watch.unusable_samples == "replace",
        features=Features(store, job.features) if job.features else None,
        usable=job.usable,
        preprocessing=job.model.vision_encoder.preprocessing,
    )
