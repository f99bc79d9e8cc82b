"""A metric that the package does not have: the share of the true words that an answer names."""

from collections.abc import Mapping

from tinygptv.evaluate.metric import Mark, Metric, Truth


class SharedWords(Metric):
    title = "shared words"
    has_lenient = False

    def mark(self, answer: str, truth: Truth) -> Mark:
        said, true = set(answer.split()), set(truth.answers[0].split())
        return Mark(len(said & true) / len(true), None, bool(said))

    def shown(self, extra: Mapping[str, float]) -> str:
        return f"{self.title}, a toy"


METRIC = SharedWords()
