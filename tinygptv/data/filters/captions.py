"""A raw sidecar with its captions cleaned and their language told: columns written once, so that filters only compare.

The language is told by script and by frequent short words. That is deterministic, needs no download and no model, and
suffices to keep sentences of another language out. A caption of names and nouns alone stays unknown (NULL).
"""

import html
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tinygptv import catalog
from tinygptv.data.columns.arrow import parquet
from tinygptv.data.columns.phrases import Phrases
from tinygptv.data.shards.shards import SIDECAR
from tinygptv.data.tables.table_rows import one_line
from tinygptv.definitions.captions import Captions
from tinygptv.errors import DefinitionError
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name
from tinygptv.store.progress import Progress, reporting

logger = logging.getLogger(__name__)

_BATCH_ROWS = 20_000
_WORDS_OF_ANOTHER = 2  # one may be a name, or a word of the first language too
_ENTITY = r"&(#[0-9]+|#x[0-9a-fA-F]+|[a-zA-Z]+);"
_NOT_LATIN = r"[^\P{L}\p{Latin}\p{Common}\p{Inherited}]"
_SCRIPTS = {
    "ko": r"\p{Hangul}",
    "ja": r"[\p{Hiragana}\p{Katakana}]",
    "el": r"\p{Greek}",
    "he": r"\p{Hebrew}",
    "th": r"\p{Thai}",
    "Hani": r"\p{Han}",
    "Cyrl": r"\p{Cyrillic}",
    "Arab": r"\p{Arabic}",
    "Deva": r"\p{Devanagari}",
    "hy": r"\p{Armenian}",
    "ka": r"\p{Georgian}",
    "Beng": r"\p{Bengali}",
    "pa": r"\p{Gurmukhi}",
    "gu": r"\p{Gujarati}",
    "or": r"\p{Oriya}",
    "ta": r"\p{Tamil}",
    "te": r"\p{Telugu}",
    "kn": r"\p{Kannada}",
    "ml": r"\p{Malayalam}",
    "si": r"\p{Sinhala}",
    "lo": r"\p{Lao}",
    "km": r"\p{Khmer}",
    "Mymr": r"\p{Myanmar}",
    "Tibt": r"\p{Tibetan}",
    "Ethi": r"\p{Ethiopic}",
    "Zzzz": _NOT_LATIN,
}
"""The letters of one language (ISO 639-1), or of a script that several share (ISO 15924); the first found counts. The
last is any other script."""


def describe(store: Store, source_name: str, captions_name: str, raw: Manifest) -> Manifest:
    """`described/<source>-<captions>@<hash>`: the raw sidecar, row for row, with `caption` and `language` filled.

    The images stay where they are, in `raw`. Raises DefinitionError if an expression is none.
    """
    captions = catalog.captions(captions_name)
    check_captions(captions_name, captions)
    definition = captions.model_dump() | {"scripts": [*_SCRIPTS]}
    artifact = artifact_name(f"described/{source_name}-{captions_name}", definition, [raw.artifact])

    def build(draft: Path) -> Outcome:
        describer, progress = Describer(captions), Progress(f"describe {source_name}")
        with parquet(store.folder(raw.artifact) / SIDECAR) as sidecar, reporting(logger, progress.describe):
            with pq.ParquetWriter(draft / SIDECAR, sidecar.schema_arrow, compression="zstd") as described:
                for batch in progress.count("captions", sidecar.iter_batches(_BATCH_ROWS), len):
                    described.write_batch(describer(batch))
            return Outcome(rows_in=sidecar.metadata.num_rows, rows_out=sidecar.metadata.num_rows)

    return store.make(artifact, "describe", definition, [raw.artifact], build)


def check_captions(name: str, captions: Captions) -> None:
    """Try every step on an empty text. Raises DefinitionError, naming the step."""
    for step in captions.clean:
        try:
            pc.replace_substring_regex(pa.array([""]), step.find, step.replace)
        except pa.ArrowInvalid as error:
            raise DefinitionError(f"datasets/captions/{name}.yaml, {step.name}: {error}") from error


class Describer:
    """Cleans the captions of batches of sidecar rows, and tells their language."""

    def __init__(self, captions: Captions) -> None:
        self._clean, self._codes = captions.clean, list(captions.languages)
        words = [words.split() for words in captions.languages.values()]
        listed = sorted({word for each in words for word in each})
        self._frequent = Phrases(listed)
        self._speaks = np.array([[word in each for word in listed] for each in words])
        """(languages, words): whether the word is one of the language's."""

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with `caption`, made of `caption_raw` where there is one, and `language`."""
        caption = self.cleaned(pc.coalesce(batch["caption_raw"], batch["caption"]))
        described = batch.set_column(batch.schema.get_field_index("caption"), "caption", caption)
        place = batch.schema.get_field_index("language")
        return described.set_column(place, "language", self.language(caption))

    def cleaned(self, captions: pa.Array) -> pa.Array:
        """Entities decoded, then one line, then every step in order, then one line again."""
        text = one_line(pc.utf8_normalize(_decoded(captions), "NFC"))
        for step in self._clean:
            text = pc.replace_substring_regex(text, step.find, step.replace)
        return one_line(text)

    def language(self, captions: pa.Array) -> pa.Array:
        """By script if most letters are not Latin, else by the words; NULL if there are too few, or languages tie."""
        text, word = self._frequent.find(captions)
        counts = [np.bincount(text, weights=spoken[word], minlength=len(captions)) for spoken in self._speaks]
        if not counts:
            return pa.nulls(len(captions), pa.string())
        best, ordered = np.argmax(counts, axis=0), np.sort([np.zeros(len(captions)), *counts], axis=0)
        is_clear = (ordered[-1] > ordered[-2]) & (ordered[-1] >= np.where(best == 0, 1, _WORDS_OF_ANOTHER))
        by_words = pa.array(np.array(self._codes)[best], pa.string(), mask=~is_clear)
        return pc.coalesce(_by_script(captions), by_words)


def _decoded(captions: pa.Array) -> pa.Array:
    """HTML entities as the characters they stand for, also those that were encoded twice."""
    encoded = pc.match_substring_regex(captions, _ENTITY)
    decoded = [html.unescape(html.unescape(text)) for text in captions.filter(encoded).to_pylist()]
    return pc.replace_with_mask(captions, encoded, pa.array(decoded, pa.string()))


def _by_script(captions: pa.Array) -> pa.Array:
    scripted = pc.fill_null(pc.match_substring_regex(captions, _NOT_LATIN), False)
    texts = captions.filter(scripted)
    latin = pc.count_substring_regex(texts, r"\p{Latin}")
    is_script = [pc.greater(pc.count_substring_regex(texts, letters), latin) for letters in _SCRIPTS.values()]
    codes = pc.case_when(pc.make_struct(*is_script), *map(pa.scalar, _SCRIPTS))
    return pc.replace_with_mask(pa.nulls(len(captions), pa.string()), scripted, codes)
