"""URL+caption pairs become what stages 1 and 2 read: the picture's very bytes, and its caption alone."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.marked import marked
from tinygptv.data.mixtures.mixing import MixedSamples, mix
from tinygptv.data.pictures.pixels import read_bytes
from tinygptv.data.prompting.prompts import render
from tinygptv.data.prompting.sequences import Sequences
from tinygptv.data.shards.shards import ShardWriter
from tinygptv.data.tables.readers import read_table
from tinygptv.definitions.filters import SIDECAR_COLUMNS
from tinygptv.definitions.recipe import Inputs
from tinygptv.definitions.source import Table
from tinygptv.store.artifacts import Outcome, Store, artifact_name


@pytest.mark.parametrize(
    "table",
    ["served_laion_style.parquet", "served_cc3m_style.tsv", "served_sbu_style.json"],
    ids=["laion", "cc", "sbu"],
)
def test_a_real_pair_is_a_bare_image_and_its_caption(
    store: Store, shared: Path, byte_tokenizer: PreTrainedTokenizerFast, table: str
) -> None:
    place = str(shared / "data" / "tables" / "served" / table)
    row = next(iter(read_table(Table(location=place), place))).to_pylist()[0]
    picture = (shared / "data" / row["url"].removeprefix("__BASE_URL__/")).read_bytes()

    def build(folder: Path) -> Outcome:
        with ShardWriter(folder, samples_per_shard=1) as writer:
            columns = dict.fromkeys(SIDECAR_COLUMNS) | {"key": "000000000", "caption": row["caption"]}
            writer.write(columns, picture)
        return Outcome(rows_in=1, rows_out=1)

    pairs = store.make(artifact_name("filtered/real", {}, []), "test", {}, [], build)
    (sample,) = MixedSamples(store, mix(store, "stage1_pairs", pairs).artifact).samples([(0, 0)])
    inputs = Inputs(image_size=16, max_text_tokens=64, template=None, end_symbol="\n")
    assert read_bytes(sample.images[0], sample.key) == picture
    text = "¶▣▣«a dog sleeping on a show rack in the shoes\n»"
    texts = Sequences(byte_tokenizer, inputs, 2).training([render(sample, "caption_only", inputs)])
    assert marked(texts, byte_tokenizer) == text
