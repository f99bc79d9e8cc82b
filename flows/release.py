"""last checkpoint → export → quantized export."""

from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from tinygptv.journey import HARDWARE, RECIPE, RUN, SOURCE, WORKDIR, Arrow, Journey, open_journey
from tinygptv.store.artifacts import Manifest


@task(task_run_name="{arrow}", cache_policy=NO_CACHE)
def export(journey: Journey, arrow: Arrow) -> Manifest:
    """Merge the adapters and write one folder that loads without this recipe."""
    return journey.make(arrow)


@task(name="quantize", task_run_name="{arrow}", cache_policy=NO_CACHE)
def quantize_export(journey: Journey, arrow: Arrow) -> Manifest:
    """Store the export's linear layers in eight bits."""
    return journey.make(arrow)


@flow(flow_run_name="quantize {run}")
def quantize(
    run: str = RUN, recipe: str = RECIPE, source: str = SOURCE, hardware: str = HARDWARE, workdir: str = WORKDIR
) -> State:
    """Export the last stage and quantize the export."""
    journey = open_journey(run, recipe, source, hardware, workdir)
    whole = export(journey, journey.arrows("export")[0])
    small = quantize_export(journey, journey.arrows("quantize")[0])
    return Completed(message=f"{_mebibytes(whole):.1f} → {_mebibytes(small):.1f} MiB")


def _mebibytes(manifest: Manifest) -> float:
    return sum(entry.bytes for entry in manifest.files.values()) / 2**20
