"""source → raw shards → filtered shards."""

from typing import Any

from prefect import State, flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.states import Completed

from flows.arrows import artifact_key
from tinygptv.artifacts import Manifest
from tinygptv.journey import HARDWARE, RECIPE, RUN, SOURCE, WORKDIR, Arrow, Journey, open_journey


def is_worth_retrying(_task: Any, _run: TaskRun, state: State) -> bool:
    """Whether a failed download may go better next time: the network and S3 fail with OSError, a bug does not."""
    return isinstance(state.data, OSError)


@task(
    task_run_name="{arrow}",
    cache_policy=NO_CACHE,
    retries=3,
    retry_delay_seconds=[10, 60, 300],
    retry_condition_fn=is_worth_retrying,
)
def download(journey: Journey, arrow: Arrow) -> Manifest:
    """Fetch what the source's tables point at. Dead links are counted, not retried here."""
    return journey.make(arrow)


@task(name="filter", task_run_name="{arrow}", cache_policy=NO_CACHE)
def filter_pairs(journey: Journey, arrow: Arrow) -> Manifest:
    """Keep the pairs that every rule of the source's filter keeps."""
    return journey.make(arrow)


@flow(flow_run_name="curate {source}")
def curate(
    run: str = RUN, recipe: str = RECIPE, source: str = SOURCE, hardware: str = HARDWARE, workdir: str = WORKDIR
) -> State:
    """Download a source's pairs and filter them."""
    journey = open_journey(run, recipe, source, hardware, workdir)
    raw = download(journey, journey.arrows("download")[0])
    kept = filter_pairs(journey, journey.arrows("filter")[0])
    create_table_artifact(
        key=artifact_key("funnel", journey.run.source_name),
        table=_funnel(raw, kept),
        description=f"### {journey.run.source_name}: what was kept, and what was dropped for which reason",
    )
    return Completed(message=f"{kept.rows_out} of {raw.rows_in} pairs kept")


@flow(name="refresh-data", flow_run_name="refresh {source}")
def refresh_data(
    run: str = RUN, recipe: str = RECIPE, source: str = SOURCE, hardware: str = HARDWARE, workdir: str = WORKDIR
) -> State:
    """Curate and mix on a schedule, so that the next training finds its data ready."""
    from flows.mix import mix

    open_journey(run, recipe, source, hardware, workdir)
    curate(run, recipe, source, hardware, workdir)
    mix(run, recipe, source, hardware, workdir)
    return Completed(message=f"{source} is curated and mixed for {recipe}")


def _funnel(raw: Manifest, kept: Manifest) -> list[dict[str, Any]]:
    """Rows of the funnel table: every drop by arrow and reason, between the count in and the count kept."""
    rows: list[dict[str, Any]] = [{"step": "source", "reason": "rows in the tables", "rows": raw.rows_in}]
    for step, manifest in (("download", raw), ("filter", kept)):
        rows += [{"step": step, "reason": why, "rows": -count} for why, count in manifest.drops.items() if count]
        rows.append({"step": step, "reason": "kept", "rows": manifest.rows_out})
    return rows
