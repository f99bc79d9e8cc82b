"""Caption scores through sacreBLEU: corpus BLEU-4, tokenizer 13a, lower-cased. Not COCO's BLEU, which tokenizes as PTB.

Counting is done once per caption; the corpus score, and every resample of it, then only adds up the counts.
"""

from collections.abc import Iterable, Sequence

from sacrebleu.metrics import BLEU

Counts = tuple[int, ...]
"""Of one caption: matching n-grams for n = 1..4, all its n-grams for n = 1..4, its length, the nearest reference's."""

_ORDER = 4
_bleu = BLEU(tokenize="13a", lowercase=True, effective_order=True, max_ngram_order=_ORDER)


def count(caption: str, references: Sequence[str]) -> Counts:
    """What BLEU needs to know of one caption."""
    found = _bleu.sentence_score(caption, list(references))
    return (*found.counts, *found.totals, found.sys_len, found.ref_len)


def bleu(counts: Iterable[Counts]) -> float:
    """BLEU-4 of a corpus, 0..1; 0 for an empty one."""
    sums = [sum(column) for column in zip(*counts, strict=True)]
    if not sums:
        return 0.0
    matches, totals, (length, nearest) = sums[:_ORDER], sums[_ORDER : 2 * _ORDER], sums[2 * _ORDER :]
    return BLEU.compute_bleu(matches, totals, length, nearest, smooth_method="exp").score / 100
