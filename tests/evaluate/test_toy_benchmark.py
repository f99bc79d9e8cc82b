"""A benchmark with a metric of its own takes two files, both in `toys/`: nothing in the package names them."""

from pathlib import Path

import pytest

from tinygptv import catalog
from tinygptv.definitions.recipe import Gate
from tinygptv.errors import DefinitionError
from tinygptv.evaluate import metrics
from tinygptv.evaluate.metric import Truth, load_metric
from tinygptv.evaluate.scoring import chance, mark, score
from tinygptv.loading.checks import gate_conflicts

TOYS = Path(__file__).parent / "toys"
TRUTHS = [Truth(("red circle",)), Truth(("blue circle",)), Truth(("red star",))]


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(catalog.OWN_DEFINITIONS, str(TOYS))
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(TOYS / "metrics")])


def test_a_toy_metric_scores_answers_and_knows_its_chance() -> None:
    name = catalog.benchmark("toy_words").metric
    assert mark(name, "a red star", TRUTHS[0]).strict == 0.5
    found = score(name, ["red circle", "circle", ""], TRUTHS)
    assert (found.value, found.lenient, found.n, found.unparsed) == (0.5, None, 3, 1)
    assert found.low < found.value < found.high
    assert chance(name, TRUTHS) == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_a_toy_metric_says_how_it_is_shown() -> None:
    assert load_metric("shared_words").shown({}) == "shared words, a toy"


def test_a_lenient_gate_on_a_metric_without_a_lenient_rule_is_refused() -> None:
    gate = Gate(benchmark="toy_words", metric="lenient", at_least=0.5, then="warn")
    stage = catalog.recipe("tinygptv_tiny").stages[0].model_copy(update={"gates": [gate]})
    (conflict,) = gate_conflicts("toy", 0, stage, {"toy_words": catalog.benchmark("toy_words")})
    assert "toy_words is scored by shared_words, for which" in str(conflict)


def test_without_its_file_the_metric_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(
        DefinitionError,
        match=r"toy_words\.yaml:4: metric: no 'shared_words' in tinygptv/evaluate/metrics/\. Known: caption_bleu",
    ):
        catalog.benchmark(str(TOYS / "benchmarks" / "toy_words.yaml"))
