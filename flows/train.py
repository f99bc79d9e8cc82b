"""mixture → stage, one stage at a time, each starting from the previous stage's checkpoint."""

import json
import re
import time
from uuid import UUID

from prefect import State, flow, get_run_logger, task
from prefect.artifacts import (
    create_image_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from flows.arrows import artifact_key
from tinygptv.evaluate.gates import events_document, verdict
from tinygptv.journey import HARDWARE, RECIPE, RUN, SOURCE, WORKDIR, Arrow, Journey, open_journey
from tinygptv.report.figures import data_uri, read_curve, stage_svg
from tinygptv.store.artifacts import Manifest

UPDATE_SECONDS = 5
STEP = re.compile(r"^\w+ (\d+)/(\d+) loss ")


class StageProgress:
    """Forwards a stage's output to the run's log and progress artifact, at most once every few seconds.

    A record per step would bloat Prefect's database; the stage's own log file has every line.
    """

    def __init__(self, run: str, stage: str) -> None:
        self._stage = stage
        self._logger = get_run_logger()
        self._next_update = time.monotonic()
        artifact = create_progress_artifact(0.0, key=artifact_key("progress", run, stage), description="starting")
        assert isinstance(artifact, UUID)
        self._artifact = artifact

    def line(self, text: str) -> None:
        """Handle one line of the training process's output."""
        steps = STEP.search(text)
        if steps is None:
            self._logger.info(text)
        elif time.monotonic() >= self._next_update or steps[1] == steps[2]:
            self._next_update = time.monotonic() + UPDATE_SECONDS
            self._logger.info(text)
            update_progress_artifact(self._artifact, 100 * int(steps[1]) / int(steps[2]), description=text)

    def finish(self, description: str) -> None:
        """Mark the stage as complete, including one that was complete before this run."""
        update_progress_artifact(self._artifact, 100.0, description=description)


@task(name="train", task_run_name="{arrow}", cache_policy=NO_CACHE)
def train(journey: Journey, arrow: Arrow) -> Manifest:
    """Run one stage under DeepSpeed. Not retried by Prefect: a new run resumes from the last checkpoint."""
    progress = StageProgress(journey.name, arrow.subject)
    manifest = journey.make(arrow, progress.line)
    progress.finish(manifest.artifact)
    return manifest


@task(name="gate", task_run_name="{arrow}", cache_policy=NO_CACHE)
def pass_gate(journey: Journey, arrow: Arrow) -> Manifest:
    """Score a trained stage on its gate's items. Fails if the score is too low and the gate says `stop`."""
    scores = journey.make(arrow)
    (gate,) = (one for one in journey.run.recipe.stage(arrow.subject).gates if one.benchmark == arrow.benchmark)
    outcome = verdict(gate, scores)
    log = get_run_logger().info if outcome.passed else get_run_logger().warning
    log(str(outcome))
    return scores


@flow(flow_run_name="train {stage}")
def train_stage(
    run: str = RUN,
    recipe: str = RECIPE,
    source: str = SOURCE,
    hardware: str = HARDWARE,
    workdir: str = WORKDIR,
    *,
    stage: str,
) -> State:
    """Train one stage of a run, starting from the previous stage's checkpoint, and check its gates."""
    journey = open_journey(run, recipe, source, hardware, workdir)
    manifest = train(journey, journey.arrow("train", stage))
    curve = read_curve(stage, journey.store.folder(manifest.artifact) / "metrics.jsonl")
    create_image_artifact(
        image_url=data_uri(stage_svg(curve)),
        key=artifact_key("loss", run, stage),
        description=f"### {stage}: loss by step",
    )
    try:
        for arrow in journey.arrows("gate"):
            if arrow.subject == stage:
                pass_gate(journey, arrow)
    finally:
        _show_gates(journey, stage)
    done = manifest.details
    return Completed(message=f"{done['steps']} steps, loss {done['first_loss']:.3f} → {done['last_loss']:.3f}")


def _show_gates(journey: Journey, stage: str) -> None:
    """Publish a stage's gate decisions so far as a table, newest last. Without any, publish nothing."""
    recorded = journey.store.read(events_document(journey.name, stage))
    if recorded:
        rows = [json.loads(line) for line in recorded.splitlines()]
        create_table_artifact(
            key=artifact_key("gates", journey.name, stage), table=rows, description=f"### {stage}: gate decisions"
        )
