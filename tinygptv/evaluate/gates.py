"""Between two stages: is what was trained good enough to go on with? A few held-out questions, by the recipe's gates.

The answers are an artifact of their own that knows nothing of what is wanted, so a gate that is moved reads the same
ones. What was decided is written to `runs/<run>/<stage>.events.jsonl`, in the form of the `events.jsonl` inside the
stage's folder, which is complete by then and never changes again.
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
    """A gate and what the stage scored on its `n` items."""

    stage: str
    gate: Gate
    value: float
    n: int

    @property
    def passed(self) -> bool:
        """Whether the stage shows what the gate wants."""
        return self.value >= self.gate.at_least

    def __str__(self) -> str:
        of = "" if self.gate.metric == "score" else f" ({self.gate.metric})"
        compared = "reaches" if self.passed else "falls short of"
        return (
            f"{self.stage} {compared} {self.gate.at_least:g} on {self.gate.benchmark}{of}: "
            f"{self.value:.3f} on {self.n} items"
        )


def pass_gate(store: Store, run: ResolvedRun, run_name: str, stage_name: str, model: Manifest, gate: Gate) -> Manifest:
    """The scores of a trained stage on a gate's items, evaluated if that is not done yet.

    Raises GateError if they fall short and the gate says `stop`; with `warn` that is logged. Either way it is recorded.
    """
    asked = evaluate(store, run, run_name, stage_name, model, gate.benchmark, items=gate.items)
    if not asked.details:  # in a plan there are no scores yet
        return asked
    found = verdict(gate, asked)
    _record(store, run_name, found)
    if found.passed:
        logger.info("%s", found)
    elif gate.then == "warn":
        logger.warning("%s; its gate says warn, so training goes on", found)
    else:
        raise GateError(
            f"recipe {run.recipe_name}, {found}, and its gate says stop. {model.artifact} stays: to go on with it, "
            "lower at_least or write `then: warn`, and start the same command again; else change what it learns"
        )
    return asked


def verdict(gate: Gate, asked: Manifest) -> Verdict:
    """What a gate says to the scores of its items."""
    value = asked.details["value" if gate.metric == "score" else gate.metric]
    return Verdict(str(asked.details["model"]), gate, float(value), int(asked.details["n"]))


def events_document(run_name: str, stage_name: str) -> str:
    """Where the decisions about a stage are written, one JSON line each."""
    return f"runs/{run_name}/{stage_name}.events.jsonl"


def _record(store: Store, run_name: str, found: Verdict) -> None:
    """Add a decision, unless it is what was decided on that benchmark the last time."""
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
