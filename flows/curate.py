"""source → raw shards → scores, if the filter asks for them → filtered shards."""

import json
from pathlib import Path
from typing import Any

from prefect import State, flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.states import Completed, Failed

from flows.arrows import artifact_key
from tinygptv.data.versions.card import CARD_JSON, CARD_PAGE, card
from tinygptv.data.versions.refresh import Refreshed, refresh
from tinygptv.journey import HARDWARE, RECIPE, RUN, SOURCE, WORKDIR, Arrow, Journey, open_journey
from tinygptv.judging.arrow import score_source
from tinygptv.store.artifacts import Manifest


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


@task(task_run_name="{arrow}", cache_policy=NO_CACHE)
def score(journey: Journey, arrow: Arrow) -> Manifest:
    """Ask the frozen model that the source's filter names how well the pairs match."""
    return journey.make(arrow)


@task(name="filter", task_run_name="{arrow}", cache_policy=NO_CACHE)
def filter_pairs(journey: Journey, arrow: Arrow) -> Manifest:
    """Keep the pairs that every rule of the source's filter keeps."""
    return journey.make(arrow)


@flow(flow_run_name="curate {source}")
def curate(
    run: str = RUN, recipe: str = RECIPE, source: str = SOURCE, hardware: str = HARDWARE, workdir: str = WORKDIR
) -> State:
    """Download a source's pairs, score them if its filter asks for it, and filter them."""
    journey = open_journey(run, recipe, source, hardware, workdir)
    raw = download(journey, journey.arrows("download")[0])
    for arrow in journey.arrows("score"):
        score(journey, arrow)
    kept = filter_pairs(journey, journey.arrows("filter")[0])
    create_table_artifact(
        key=artifact_key("funnel", journey.run.source_name),
        table=_funnel(raw, kept),
        description=f"### {journey.run.source_name}: what was kept, and what was dropped for which reason",
    )
    return Completed(message=f"{kept.rows_out} of {raw.rows_in} pairs kept")


@task(name="refresh", task_run_name="refresh {journey.run.source_name}", cache_policy=NO_CACHE)
def refresh_source(journey: Journey, accept: list[str]) -> Refreshed:
    """Fetch what changed, filter it, ask the checks, publish. Not retried: the next night goes on from here."""
    run = journey.run
    return refresh(
        journey.store, run.source_name, run.source, accept, benchmarks=run.benchmark_sources, score=score_source
    )


@task(name="card", task_run_name="card {filtered.artifact}", cache_policy=NO_CACHE)
def write_card(journey: Journey, filtered: Manifest) -> Manifest:
    """Describe a version for people."""
    return card(journey.store, filtered)


@flow(name="refresh-data", flow_run_name="refresh {source}")
def refresh_data(
    run: str = RUN,
    recipe: str = RECIPE,
    source: str = SOURCE,
    hardware: str = HARDWARE,
    workdir: str = WORKDIR,
    accept: list[str] | None = None,
) -> State:
    """Bring a source up to date. A new version is published if it passes its checks, but for those in `accept`."""
    journey = open_journey(run, recipe, source, hardware, workdir)
    done = refresh_source(journey, accept or [])
    name = journey.run.source_name
    create_table_artifact(key=artifact_key("changes", name), table=done.report(), description=f"### {done}")
    rot = done.rot()
    told = "the hosts that lost most addresses" if rot else "no host lost an address"
    create_table_artifact(key=artifact_key("rot", name), table=rot, description=f"### {name}: {told}")
    if done.outcome == "refused":
        return Failed(message=str(done))
    if done.filtered:
        folder = journey.store.folder(write_card(journey, done.filtered).artifact)
        create_markdown_artifact(key=artifact_key("card", name), markdown=_card(folder))
    return Completed(message=str(done))


def _card(folder: Path) -> str:
    """What a data card says in short, and where the whole is: a page of Prefect's cannot link to a file."""
    facts = json.loads((folder / CARD_JSON).read_text())
    lines = [f"### {facts['source']}: {facts['kept']} samples of {facts['rows_in']} rows", f"`{folder / CARD_PAGE}`"]
    for title in ("licences", "tables", "hosts"):
        rows = [f"| {one['name']} | {one['kept']} | {one['percent']} % |" for one in facts[title]]
        lines += ["\n".join([f"| {title} | samples | share |", "|---|---:|---:|", *rows])]
    return "\n\n".join(lines)


def _funnel(raw: Manifest, kept: Manifest) -> list[dict[str, Any]]:
    """Rows of the funnel table: every drop by arrow and reason, between the count in and the count kept."""
    rows: list[dict[str, Any]] = [{"step": "source", "reason": "rows in the tables", "rows": raw.rows_in}]
    for step, manifest in (("download", raw), ("filter", kept)):
        rows += [{"step": step, "reason": why, "rows": -count} for why, count in manifest.drops.items() if count]
        rows.append({"step": step, "reason": "kept", "rows": manifest.rows_out})
    return rows
