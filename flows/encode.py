"""mixture → features, for hardware profiles that compute them before training (`features: cached`)."""

from prefect import State, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from tinygptv.journey import HARDWARE, RECIPE, RUN, SOURCE, WORKDIR, Arrow, Journey, open_journey
from tinygptv.store.artifacts import Manifest


@task(name="encode", task_run_name="{arrow}", cache_policy=NO_CACHE)
def encode_images(journey: Journey, arrow: Arrow) -> Manifest:
    """Run the frozen parts on every image, in separate processes. Running it again computes only what is missing."""
    return journey.make(arrow, get_run_logger().info)


@flow(flow_run_name="encode for {stage}")
def encode(
    run: str = RUN,
    recipe: str = RECIPE,
    source: str = SOURCE,
    hardware: str = HARDWARE,
    workdir: str = WORKDIR,
    *,
    stage: str,
) -> State:
    """Precompute the output of a stage's frozen parts for every image of its mixture."""
    journey = open_journey(run, recipe, source, hardware, workdir)
    made = encode_images(journey, journey.arrow("encode", stage))
    return Completed(message=f"features of {made.rows_out} of {made.rows_in} images in {made.details['pieces']} pieces")
