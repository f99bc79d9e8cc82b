"""mixture → stage, one stage at a time, each handed the checkpoint of the stage before it."""

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
    """Passes a stage's lines on to the run's log and its progress artifact, at most every few seconds.

    A line per step would swell Prefect's database; the stage's own log file has them all.
    """

    def __init__(self, run: str, stage: str) -> None:
        self._stage = stage
        self._logger = get_run_logger()
        self._next_update = time.monotonic()
        artifact = create_progress_artifact(0.0, key=artifact_key("progress", run, stage), description="starting")
        assert isinstance(artifact, UUID)
        self._artifact = artifact

    def line(self, text: str) -> None:
        """Take one line of the training process."""
        steps = STEP.search(text)
        if steps is None:
            self._logger.info(text)
        elif time.monotonic() >= self._next_update or steps[1] == steps[2]:
            self._next_update = time.monotonic() + UPDATE_SECONDS
            self._logger.info(text)
            update_progress_artifact(self._artifact, 100 * int(steps[1]) / int(steps[2]), description=text)

    def finish(self, description: str) -> None:
        """Say that the stage is complete, also when it was found so."""
        update_progress_artifact(self._artifact, 100.0, description=description)


@task(name="train", task_run_name="{arrow}", cache_policy=NO_CACHE)
def train(journey: Journey, arrow: Arrow) -> Manifest:
    """Run one stage under DeepSpeed. Never retried blindly: started again, it continues from its last checkpoint."""
    progress = StageProgress(journey.name, arrow.subject)
    manifest = journey.make(arrow, progress.line)
    progress.finish(manifest.artifact)
    return manifest


@task(name="gate", task_run_name="{arrow}", cache_policy=NO_CACHE)
def pass_gate(journey: Journey, arrow: Arrow) -> Manifest:
    """Ask a trained stage what its gate wants to know. Fails if that says stop; a lower one reads the same answers."""
    asked = journey.make(arrow)
    (gate,) = (one for one in journey.run.recipe.stage(arrow.subject).gates if one.benchmark == arrow.benchmark)
    found = verdict(gate, asked)
    say = get_run_logger().info if found.passed else get_run_logger().warning
    say(str(found))
    return asked


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
    """Train one stage of a run, from what the stage before it left, and see whether it passes its gates."""
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
    """What the gates of a stage said so far, newest last, as a table; nothing if none was asked."""
    recorded = journey.store.read(events_document(journey.name, stage))
    if recorded:
        rows = [json.loads(line) for line in recorded.splitlines()]
        create_table_artifact(
            key=artifact_key("gates", journey.name, stage), table=rows, description=f"### {stage}: what its gates said"
        )
