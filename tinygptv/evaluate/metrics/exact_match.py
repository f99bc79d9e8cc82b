"""An accepted answer, up to case and a final full stop. Lenient: one of them anywhere in the output."""

from tinygptv.evaluate.metric import Mark, Metric, Truth
from tinygptv.evaluate.texts import comparable


class ExactMatch(Metric):
    """Right or wrong."""

    title = "exact match"

    def mark(self, answer: str, truth: Truth) -> Mark:
        """See Metric."""
        said, accepted = comparable(answer).strip(), [comparable(right) for right in truth.answers]
        plain = said.removesuffix(".")
        return Mark(
            float(any(plain == right.strip().removesuffix(".") for right in accepted)),
            float(any(right in said for right in accepted)),
            bool(said),
        )


METRIC = ExactMatch()
