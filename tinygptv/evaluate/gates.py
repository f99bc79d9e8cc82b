"""Gates between stages: a stage must reach a score on a few held-out items before the next stage starts.

The answers are a separate artifact that does not depend on the threshold, so changing a gate does not evaluate again.
Decisions are appended to `runs/<run>/<stage>.events.jsonl`, in the format of the `events.jsonl` in the stage's folder,
which is finished by then and must not change.
"""

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from tinygptv.catalog import ResolvedRun
from tinygptv.definitions.recipe import Gate
from tinygptv.errors import GateError
from tinygptv.evaluate.scores import evaluate
from tinygptv.store.artifacts import Manifest, Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """A gate and the score that the stage reached on its `n` items."""

    stage: str
    gate: Gate
    value: float
    n: int

    @property
    def passed(self) -> bool:
        """Whether the score reaches the gate's threshold."""
        return self.value >= self.gate.at_least

    def __str__(self) -> str:
        of = "" if self.gate.metric == "score" else f" ({self.gate.metric})"
        compared = "reaches" if self.passed else "falls short of"
        return (
            f"{self.stage} {compared} {self.gate.at_least:g} on {self.gate.benchmark}{of}: "
            f"{self.value:.3f} on {self.n} items"
        )


def pass_gate(store: Store, run: ResolvedRun, run_name: str, stage_name: str, model: Manifest, gate: Gate) -> Manifest:
    """Score a trained stage on a gate's items and record the decision.

    Raises GateError if the score is too low and the gate says `stop`; with `warn`, a warning is logged.
    """
    scores = evaluate(store, run, run_name, stage_name, model, gate.benchmark, items=gate.items)
    if not scores.details:  # a plan has no scores yet
        return scores
    found = verdict(gate, scores)
    _record(store, run_name, found)
    if found.passed:
        logger.info("%s", found)
    elif gate.then == "warn":
        logger.warning("%s; its gate says warn, so training continues", found)
    else:
        raise GateError(
            f"recipe {run.recipe_name}, {found}, and its gate says stop. {model.artifact} stays: to go on with it, "
            "lower at_least or write `then: warn`, and start the same command again; else change what it learns"
        )
    return scores


def verdict(gate: Gate, scores: Manifest) -> Verdict:
    """Compare the scores of a gate's items with its threshold."""
    value = scores.details["value" if gate.metric == "score" else gate.metric]
    return Verdict(str(scores.details["model"]), gate, float(value), int(scores.details["n"]))


def events_document(run_name: str, stage_name: str) -> str:
    """Path of the decisions about a stage, one JSON line each."""
    return f"runs/{run_name}/{stage_name}.events.jsonl"


def _record(store: Store, run_name: str, found: Verdict) -> None:
    """Append a decision, unless it equals the last one about the same benchmark."""
    event = {
        "event": "gate_passed" if found.passed else "gate_failed",
        **found.gate.model_dump(),
        "value": found.value,
        "items": found.n,
    }

    def change(text: str | None) -> str:
        known = [json.loads(line) for line in (text or "").splitlines()]
        before = [one for one in known if one["benchmark"] == found.gate.benchmark]
        if before and before[-1] | event == before[-1]:
            return text or ""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        return f"{text or ''}{json.dumps({'event': event['event'], 'when': when} | event)}\n"

    store.update(events_document(run_name, found.stage), change)
