"""The whole journey: one subflow per arrow, in order."""

from prefect import State, flow
from prefect.states import Completed

from flows.curate import curate
from flows.encode import encode
from flows.evaluate import evaluate, report
from flows.mix import mix
from flows.release import quantize
from flows.train import train_stage
from tinygptv.journey import HARDWARE, RECIPE, RUN, SOURCE, WORKDIR, open_journey


@flow(name="train-all", flow_run_name="{run}")
def train_all(
    run: str = RUN, recipe: str = RECIPE, source: str = SOURCE, hardware: str = HARDWARE, workdir: str = WORKDIR
) -> State:
    """From URL tables to a report. Running again with the same `run` resumes: finished artifacts are reused.

    Every definition is checked before the first subflow starts.
    """
    journey = open_journey(run, recipe, source, hardware, workdir)
    curate(run, recipe, source, hardware, workdir)
    mix(run, recipe, source, hardware, workdir)
    for arrow in journey.arrows("encode", "train"):
        subflow = encode if arrow.verb == "encode" else train_stage
        subflow(run, recipe, source, hardware, workdir, stage=arrow.subject)
    quantize(run, recipe, source, hardware, workdir)
    evaluate(run, recipe, source, hardware, workdir)
    written = report(run, recipe, source, hardware, workdir, return_state=True)
    return Completed(message=written.message)
