"""A training that is killed at any step and goes on with other ranks and pieces sees what it would have seen."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from tests.data.mixtures.test_sampling_order import KINDS, mixture
from tinygptv.data.batches.batching import Loader
from tinygptv.data.forget.tombstones import bury, tombstone
from tinygptv.data.mixtures.mixing import mix
from tinygptv.definitions.recipe import Inputs
from tinygptv.store.artifacts import Manifest, Outcome, Store

STEPS, BATCH = 24, 8


@pytest.fixture
def pairs_mixture(store: Store, pairs: Manifest) -> Manifest:
    return mix(store, "tiny_pairs", pairs)


def random_mixture(store: Store, pairs_mixture: Manifest, chance: random.Random) -> str:
    """A mixture of chance: components of the pairs, some with batch sizes that 1, 2 or 4 ranks can share."""
    kind, count = chance.choice(KINDS), chance.randint(1, 4)
    batch_sizes = tuple(chance.choice([4, 8]) for _ in range(count)) if kind == "per_step" else None
    weights = [chance.choice([0.2, 1, 3, 1 / 3]) for _ in range(count)]
    blend = mixture(kind, *weights, batch_sizes=batch_sizes if chance.random() < 0.5 else None)
    table = pq.read_table(store.folder(pairs_mixture.artifact) / "samples.parquet").drop_columns("component")

    def build(folder: Path) -> Outcome:
        parts = [table.slice(0, chance.randint(7, 30)) for _ in range(count)]
        numbers = np.repeat(np.arange(count, dtype=np.int16), [len(part) for part in parts])
        rows = pa.concat_tables(parts).append_column("component", pa.array(numbers))
        pq.write_table(rows, folder / "samples.parquet")
        (folder / "mixture.json").write_text(f'{{"mixture": {blend.model_dump_json()}}}')
        return Outcome()

    return store.make("mixtures/chance@1", "test", {}, list(pairs_mixture.parents), build).artifact


@pytest.mark.parametrize("case", range(8))
def test_whoever_goes_on_with_other_ranks_and_pieces_sees_the_same_in_the_same_order(
    store: Store, pairs_mixture: Manifest, byte_tokenizer: PreTrainedTokenizerFast, case: int
) -> None:
    chance = random.Random(case)
    artifact = random_mixture(store, pairs_mixture, chance)
    if chance.random() < 0.5:
        bury(store, tombstone("caption", "red", "test"))
    inputs = Inputs(image_size=16, max_text_tokens=99, template=None, end_symbol="\n")

    def keys(step: int, loader: Loader, ranks: int, micro: int) -> list[str]:
        shares = [loader.micro_batches(step, rank, ranks, micro) for rank in range(ranks)]
        return [key for share in shares for piece in share for key in piece.keys]

    def opened() -> Loader:
        return Loader(store, artifact, inputs, byte_tokenizer, num_image_tokens=4, global_batch_size=BATCH, seed=case)

    loader = opened()
    whole = [keys(step, loader, 1, BATCH) for step in range(STEPS)]
    killed = chance.randrange(1, STEPS)
    before, after = ((chance.choice([1, 2, 4]), chance.randint(1, 5)) for _ in range(2))
    first, second = opened(), opened()
    seen = [keys(step, first, *before) for step in range(killed)]
    seen += [keys(step, second, *after) for step in range(killed, STEPS)]
    assert seen == whole
