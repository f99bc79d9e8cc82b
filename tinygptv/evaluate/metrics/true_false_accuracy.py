"""Whether the first word is the right one of `true` and `false`. Lenient: the right one anywhere in the output."""

import re

from tinygptv.evaluate.metric import Mark, Metric, Truth
from tinygptv.evaluate.texts import comparable

_FIRST_WORD = re.compile(r"[^\W\d_]+")


class TrueFalseAccuracy(Metric):
    """Right or wrong."""

    title = "true/false accuracy"

    def mark(self, answer: str, truth: Truth) -> Mark:
        """See Metric."""
        said, right = comparable(answer), comparable(truth.answers[0])
        first = _FIRST_WORD.search(said)
        word = first.group() if first else ""
        return Mark(float(word == right), float(right in said), word in ("true", "false"))


METRIC = TrueFalseAccuracy()
