"""F1 of the objects that a caption names, against the best of its references: those of the drawn world."""

from tinygptv.evaluate.metric import Mark, Metric, Truth
from tinygptv.shapes import objects


class ObjectF1(Metric):
    """Partial marks; the reference has no such rule."""

    title = "F1 of the objects named"
    has_lenient = False

    def mark(self, answer: str, truth: Truth) -> Mark:
        """See Metric."""
        return Mark(objects.object_f1(answer, truth.answers), None, bool(objects.named_objects(answer)))


METRIC = ObjectF1()
