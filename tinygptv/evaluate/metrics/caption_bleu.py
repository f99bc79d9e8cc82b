"""Caption scores through sacreBLEU: corpus BLEU-4, tokenizer 13a, lower-cased. Not COCO's BLEU, which tokenizes as PTB.

Beyond ASCII, captions are folded first (see `texts`), and each letter of a script without blanks between words counts
as a word, as in sacreBLEU's tokenizer `zh`. Where no caption of a corpus has four words there is nothing for BLEU-4 to
count, and sacreBLEU gives 0 to right and wrong alike: then the longest n-grams that there are make the score
(sacreBLEU's effective order), and `order` says so.

Counting is done once per caption; the corpus score, and every resample of it, then only adds up the counts.
"""

from collections.abc import Iterable, Mapping, Sequence

from sacrebleu.metrics import BLEU

from tinygptv.evaluate.metric import Mark, Metric, Total, Truth, bootstrap
from tinygptv.evaluate.texts import words_apart

Counts = tuple[int, ...]
"""Of one caption: matching n-grams for n = 1..4, all its n-grams for n = 1..4, its length, the nearest reference's."""

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
    """What BLEU needs to know of one caption."""
    found = _bleu.sentence_score(words_apart(caption), [words_apart(reference) for reference in references])
    return (*found.counts, *found.totals, found.sys_len, found.ref_len)


def bleu(counts: Iterable[Counts]) -> float:
    """BLEU-4 of a corpus, 0..1, or BLEU of its `order` if that is less; 0 for an empty one."""
    sums = [sum(column) for column in zip(*counts, strict=True)]
    if not sums:
        return 0.0
    matches, totals, (length, nearest) = sums[:ORDER], sums[ORDER : 2 * ORDER], sums[2 * ORDER :]
    found = BLEU.compute_bleu(matches, totals, length, nearest, smooth_method="exp", effective_order=True)
    return found.score / 100


def order(counts: Iterable[Counts]) -> int:
    """The longest n-grams, up to 4, that the captions of a corpus have; 0 if all are empty."""
    return max((min(length, ORDER) for *_, length, _ in counts), default=0)
