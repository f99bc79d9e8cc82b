"""A stage-1 step at full size with precomputed features, compared with running the frozen parts in every step.

    python benchmarks/feature_cache.py [FOLDER]

Uses random weights of 3.9 billion parameters in the published layouts, in bf16 (8 GB of disk, in FOLDER or a temporary
one; those of full_size.py are reused). `encode` computes the features of 16 images in a separate process. Then both
variants take the same steps on batches of two, alternating, with a learning rate of zero, so that their losses must be
equal. Takes 9 GB of memory and five minutes on an idle core.
"""

import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from comparison import in_turns, report
from full_size import HARDWARE, RECIPE, prepare

from tinygptv import catalog
from tinygptv.catalog import ResolvedRun
from tinygptv.data.batches.batching import Batch, Loader, load_tokenizer
from tinygptv.data.batches.features import Features
from tinygptv.data.mixtures.mixing import mix
from tinygptv.definitions.filters import FilterChain
from tinygptv.definitions.recipe import Recipe
from tinygptv.definitions.source import PairsSource
from tinygptv.models.weights import empty_model, load_weights
from tinygptv.store.artifacts import Store
from tinygptv.store.locations import local_path
from tinygptv.train.assemble import set_up
from tinygptv.train.encoding.encode import encode
from tinygptv.train.engine import parameter_groups

BATCH, ROUNDS = 2, 3
TEXTS = {"captions of 16 tokens": 16, "the longest captions": 32}


def main() -> None:
    """Write weights and data, encode, then compare steps."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary).absolute()
        recipe = prepare(folder)
        stage, store = recipe.stages[0], Store(str(folder / "encoded"))
        mixture = mix(store, stage.mixture, None)
        features = encode(store, run_of(recipe), stage.stage, mixture, None, print)
        report("feature cache: encode", features.seconds, None, "s", "none", images=features.rows_out)
        comparison = Comparison(recipe, store, mixture.artifact, Features(store, features.artifact))
        for about, tokens in TEXTS.items():
            comparison.measure(about, tokens)


def run_of(recipe: Recipe) -> ResolvedRun:
    """A run for `encode`: one process, and images in batches of two, as in the steps."""
    hardware = catalog.hardware(HARDWARE)
    cached = hardware.model_copy(update={"features": "cached", "micro_batch_size": BATCH, "threads_per_rank": 1})
    source, chain = PairsSource.model_construct(), FilterChain.model_construct()
    return ResolvedRun(RECIPE, recipe, HARDWARE, cached, "bench", source, chain, {}, {}, {})


class Comparison:
    """One model, with its frozen parts split from the trained ones."""

    def __init__(self, recipe: Recipe, store: Store, mixture: str, features: Features) -> None:
        torch.set_num_threads(1)  # several threads would spin while waiting, which counts as CPU time
        self._stage, self._store, self._mixture, self._features = recipe.stages[0], store, mixture, features
        self._tokenizer = load_tokenizer(local_path(recipe.model.language_model.tokenizer))
        self._model = empty_model(recipe.model, self._stage.inputs.image_size)
        load_weights(self._model, recipe.model, dtype=torch.bfloat16)
        set_up(self._model, recipe.model, self._stage, gradient_checkpointing=False)
        self._prefix = self._model.split_prefix(len(self._stage.frozen_prefix(recipe.model)))
        self._optimizer = torch.optim.AdamW(parameter_groups(self._model, self._stage.optimizer), lr=0.0)

    def measure(self, about: str, text_tokens: int) -> None:
        """Report the speed of steps on features and on images. Raises SystemExit if the losses differ."""
        live, cached = (self._loader(text_tokens, features) for features in (None, self._features))
        losses: dict[str, list[float]] = {"live": [], "cached": []}
        steps: dict[str, Iterator[int]] = {name: itertools.count() for name in losses}

        def step(name: str, loader: Loader) -> None:
            number = next(steps[name])
            torch.manual_seed(number)  # as in training, for the decoder's dropout
            losses[name].append(self._step(loader.batch(number)))

        ours, theirs = in_turns(lambda: step("cached", cached), lambda: step("live", live), ROUNDS)
        if losses["live"] != losses["cached"]:
            raise SystemExit(f"{about}: the losses differ: {losses}")
        report(
            f"feature cache: a stage-1 step of {BATCH}, {about}",
            1 / ours,
            1 / theirs,
            "steps per CPU second",
            ">= 1.6, the same loss",
            tokens=live.batch(0).input_ids.shape[1],
            losses=losses["cached"],
        )

    def _step(self, batch: Batch) -> float:
        """Forward, backward and AdamW; returns the loss."""
        images = batch.images(dtype=torch.bfloat16)
        if batch.image_features is None:
            images = self._prefix(images)
        loss, _ = self._model(images, batch.input_ids, batch.attention_mask, batch.labels)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.item()

    def _loader(self, text_tokens: int, features: Features | None) -> Loader:
        return Loader(
            self._store,
            self._mixture,
            self._stage.inputs.model_copy(update={"max_text_tokens": text_tokens}),
            self._tokenizer,
            num_image_tokens=self._model.num_image_tokens,
            global_batch_size=BATCH,
            seed=0,
            features=features,
        )


if __name__ == "__main__":
    main()
