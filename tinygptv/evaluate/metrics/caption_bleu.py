"""Caption scores by sacreBLEU: corpus BLEU-4, tokenizer 13a, lower-cased. Unlike COCO's BLEU, not tokenized as PTB.

Non-ASCII captions are folded first (see `texts`), and in scripts without spaces between words each letter counts as a
word, as in sacreBLEU's tokenizer `zh`. If no caption of a corpus has four words, BLEU-4 would be 0 for right and wrong
captions alike. The longest available n-grams are used instead (sacreBLEU's effective order); see `order`.

N-grams are counted once per caption; the corpus score and its bootstrap resamples only add up counts.
"""

from collections.abc import Iterable, Mapping, Sequence

from sacrebleu.metrics import BLEU

from tinygptv.evaluate.metric import Mark, Metric, Total, Truth, bootstrap
from tinygptv.evaluate.texts import words_apart

Counts = tuple[int, ...]
"""Of one caption: matching n-grams and all n-grams for n = 1..4, its length, and that of the closest reference."""

ORDER = 4
_ORDER = "ngram_order"
_bleu = BLEU(tokenize="13a", lowercase=True, effective_order=True, max_ngram_order=ORDER)


class CaptionBleu(Metric):
    """The BLEU of the whole corpus; the reference has no lenient rule. `extra` says if its order is below 4."""

    title = "sacreBLEU-4"
    has_lenient = False

    def mark(self, answer: str, truth: Truth) -> Mark:
        """The caption's own sentence BLEU, for sorting only."""
        return Mark(bleu([count(answer, truth.answers)]), None, bool(answer.strip()))

    def total(self, answers: Sequence[str], truths: Sequence[Truth], marks: Sequence[Mark]) -> Total:
        """See Metric."""
        counts = [count(answer, truth.answers) for answer, truth in zip(answers, truths, strict=True)]
        low, high = bootstrap(lambda rows: bleu(counts[row] for row in rows), len(counts))
        short = 0 < (longest := order(counts)) < ORDER
        return Total(bleu(counts), low, high, {_ORDER: longest} if short else {})

    def constant(self, answer: str, truths: Sequence[Truth]) -> float:
        """See Metric."""
        return bleu(count(answer, truth.answers) for truth in truths)

    def shown(self, extra: Mapping[str, float]) -> str:
        """See Metric."""
        return f"sacreBLEU-{extra[_ORDER]:.0f}: no answer has four words" if _ORDER in extra else self.title


METRIC = CaptionBleu()


def count(caption: str, references: Sequence[str]) -> Counts:
    """Count the n-grams of one caption."""
    found = _bleu.sentence_score(words_apart(caption), [words_apart(reference) for reference in references])
    return (*found.counts, *found.totals, found.sys_len, found.ref_len)


def bleu(counts: Iterable[Counts]) -> float:
    """Corpus BLEU-4, 0..1, or BLEU of a lower `order` if the captions are short; 0 for an empty corpus."""
    sums = [sum(column) for column in zip(*counts, strict=True)]
    if not sums:
        return 0.0
    matches, totals, (length, nearest) = sums[:ORDER], sums[ORDER : 2 * ORDER], sums[2 * ORDER :]
    found = BLEU.compute_bleu(matches, totals, length, nearest, smooth_method="exp", effective_order=True)
    return found.score / 100


def order(counts: Iterable[Counts]) -> int:
    """Length of the longest n-grams in the captions of a corpus, at most 4; 0 if all are empty."""
    return max((min(length, ORDER) for *_, length, _ in counts), default=0)
