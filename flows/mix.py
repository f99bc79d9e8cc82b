"""filtered shards + annotations → mixtures."""

from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from tinygptv.journey import HARDWARE, RECIPE, RUN, SOURCE, WORKDIR, Arrow, Journey, open_journey
from tinygptv.store.artifacts import Manifest


@task(name="mix", task_run_name="{arrow}", cache_policy=NO_CACHE)
def mix_one(journey: Journey, arrow: Arrow) -> Manifest:
    """Read one mixture's components into one table of samples."""
    return journey.make(arrow)


@flow(flow_run_name="mix for {recipe}")
def mix(
    run: str = RUN, recipe: str = RECIPE, source: str = SOURCE, hardware: str = HARDWARE, workdir: str = WORKDIR
) -> State:
    """Make every mixture that the recipe's stages draw from."""
    journey = open_journey(run, recipe, source, hardware, workdir)
    made = [mix_one(journey, arrow) for arrow in journey.arrows("mix")]
    return Completed(message=f"{len(made)} mixtures, {sum(manifest.rows_out for manifest in made)} samples")
