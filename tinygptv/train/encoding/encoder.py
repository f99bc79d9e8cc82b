"""The worker process of `encode`: images → features, piece by piece."""

import functools
from collections.abc import Iterator, Sequence
from logging import getLogger
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tinygptv.data.batches.features import Features, references, write_piece
from tinygptv.data.pictures.normalising import normalise
from tinygptv.data.pictures.pixels import decode, decoding_memory, read_bytes
from tinygptv.data.shards.remote import ImagePrefetcher, is_remote
from tinygptv.errors import DataError, StorageError
from tinygptv.models.weights import Handoff, empty_model, load_weights, parameters_by_name
from tinygptv.sample import ImageReference
from tinygptv.store.artifacts import Store
from tinygptv.train.assemble import DTYPES
from tinygptv.train.encoding.job import EncodeJob
from tinygptv.train.launch.parent_death import end_with_parent

logger = getLogger(__name__)


def begin(parent: int, ranks: "SimpleQueue[int]", device: str, threads: int) -> None:
    """Have this process end with its parent, and give it its own device."""
    end_with_parent(parent)
    torch.set_num_threads(threads)
    if device == "cuda":
        torch.cuda.set_device(ranks.get())


def encode_piece(job: str, path: Path, images: pa.Table) -> None:
    """Write the features of a piece's images, rows of an index; `job` is an EncodeJob as JSON."""
    encoder = _encoder(job)
    write_piece(path, images.num_rows, encoder.shape, encoder.dtype, encoder.features(images))


class Encoder:
    """The frozen prefix of a model, in the precision in which training would run it."""

    def __init__(self, job: EncodeJob) -> None:
        self._preprocessing = job.model.vision_encoder.preprocessing
        self._inputs, self._batch, self._device = job.inputs, job.hardware.micro_batch_size, job.hardware.device
        self.shape, self.dtype = (
            job.model.features_shape(job.inputs.image_size, len(job.frozen)),
            DTYPES[job.hardware.precision],
        )
        self._memory, self._ahead = decoding_memory(), ImagePrefetcher()
        self._store, self._earlier = Store(job.workdir), None
        if job.earlier is not None:
            self._earlier = Features(self._store, job.earlier)
        model = empty_model(job.model, job.inputs.image_size, job.lora)
        handoff = Handoff(Path(job.handoff), lora=job.lora) if job.handoff else None
        unread = tuple(name for name in parameters_by_name(model) if not name.startswith(job.frozen))
        load_weights(model, job.model, handoff=handoff, dtype=self.dtype, seed=job.seed, unread=unread)
        self._prefix = model.split_prefix(len(job.frozen)).requires_grad_(False).eval().to(self._device)

    def features(self, images: pa.Table) -> Iterator[Tensor]:
        """(I, tokens, width) for a batch of images at a time, on the host."""
        for start in range(0, images.num_rows, self._batch):
            some = references(self._store, images.slice(start, self._batch))
            if self._earlier is not None and all(image in self._earlier for image in some):
                yield torch.stack([self._earlier.read(image, "encoded before") for image in some])
            else:
                yield self._computed(some)

    @torch.no_grad()
    def _computed(self, images: Sequence[ImageReference]) -> Tensor:
        """NaN for an image that cannot be read."""
        side, decoding = self._inputs.image_size, self._inputs.decoding
        features = torch.full((len(images), *self.shape), torch.nan, dtype=self.dtype)
        pixels, purpose = {}, "to be encoded"
        self._ahead.prefetch((image, purpose) for image in images)
        for number, image in enumerate(images):
            try:
                data = self._ahead.read(image, purpose) if is_remote(image) else read_bytes(image, purpose)
                pixels[number] = decode(
                    data, side, image.path, decoding, self._memory, preprocessing=self._preprocessing
                )
            except StorageError:  # S3 being unreachable is not the image's fault
                raise
            except DataError as error:
                logger.warning("encode: left out: %s", error)
        if pixels:
            stacked = torch.from_numpy(np.stack(list(pixels.values()))).to(self._device)
            values = normalise(stacked, self._preprocessing)
            features[list(pixels)] = self._prefix(values.to(self.dtype)).cpu()
        return features


@functools.cache
def _encoder(job: str) -> Encoder:
    """One per process, kept between pieces."""
    return Encoder(EncodeJob.model_validate_json(job))
