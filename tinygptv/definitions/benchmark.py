"""A benchmark: held-out annotations, the question put to the model, and how answers are scored."""

from typing import Annotated

from pydantic import Field

from tinygptv.definitions.base import Definition
from tinygptv.definitions.kinds import kind_in, load_kind
from tinygptv.definitions.mixture import Task

METRICS = "tinygptv.evaluate.metrics"
"""The package whose files are the metrics that a benchmark may name."""


class Benchmark(Definition):
    """Items come from an annotations source; `chance` is the score of an answer that ignores the image.

    With `compare_groups` an item's group (in VQA's layout its question type) is `kind/variant`: variants of a kind ask
    the same in other ways, and how far apart their scores are is reported.
    """

    about: str
    source: str
    task: Task
    metric: Annotated[str, kind_in(METRICS)]
    max_new_tokens: int = Field(ge=1)
    max_items: int | None = Field(default=None, ge=1)
    chance: float | None = Field(default=None, ge=0, le=1)
    compare_groups: bool = False

    @property
    def has_lenient_score(self) -> bool:
        """Whether the reference's scripts have a lenient rule for the metric."""
        has_lenient: bool = load_kind(METRICS, self.metric).METRIC.has_lenient
        return has_lenient
