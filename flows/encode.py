"""mixture → features, for a stage whose hardware profile wants them computed before training."""

from prefect import State, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from tinygptv.journey import HARDWARE, RECIPE, RUN, SOURCE, WORKDIR, Arrow, Journey, open_journey
from tinygptv.store.artifacts import Manifest


@task(name="encode", task_run_name="{arrow}", cache_policy=NO_CACHE)
def encode_images(journey: Journey, arrow: Arrow) -> Manifest:
    """Run the frozen parts on every image, in processes of their own. Run again, it goes on with what is missing."""
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
    """Compute once what a stage's frozen parts make of the images of its mixture."""
    journey = open_journey(run, recipe, source, hardware, workdir)
    made = encode_images(journey, journey.arrow("encode", stage))
    return Completed(message=f"features of {made.rows_out} of {made.rows_in} images in {made.details['pieces']} pieces")
