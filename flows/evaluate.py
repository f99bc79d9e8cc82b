"""stages and exports → scores → report."""

from prefect import State, flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from flows.arrows import artifact_key
from tinygptv.journey import HARDWARE, QUANTIZED, RECIPE, RUN, SOURCE, WORKDIR, Arrow, Journey, open_journey
from tinygptv.store.artifacts import Manifest


@task(name="evaluate", task_run_name="{arrow}", cache_policy=NO_CACHE)
def evaluate_model(journey: Journey, arrow: Arrow) -> Manifest:
    """Put one benchmark's questions to one model and score its answers."""
    return journey.make(arrow)


@flow(flow_run_name="evaluate {run}")
def evaluate(
    run: str = RUN, recipe: str = RECIPE, source: str = SOURCE, hardware: str = HARDWARE, workdir: str = WORKDIR
) -> State:
    """Score every stage, the export and its quantized form, and the export on noise instead of images."""
    journey = open_journey(run, recipe, source, hardware, workdir)
    scores = {arrow: evaluate_model(journey, arrow) for arrow in journey.arrows("evaluate")}
    create_markdown_artifact(key=artifact_key("scores", run), markdown=_score_table(scores))
    released = [
        f"{arrow.benchmark} {manifest.details['value']:.2f}"
        for arrow, manifest in scores.items()
        if arrow.subject == QUANTIZED
    ]
    return Completed(message=f"{QUANTIZED}: {', '.join(released)}")


@task(name="report", task_run_name="{arrow}", cache_policy=NO_CACHE)
def write_report(journey: Journey, arrow: Arrow) -> Manifest:
    """Gather everything the run left into one self-contained page."""
    return journey.make(arrow)


@flow(flow_run_name="report {run}")
def report(
    run: str = RUN, recipe: str = RECIPE, source: str = SOURCE, hardware: str = HARDWARE, workdir: str = WORKDIR
) -> State:
    """Write report.html and link it."""
    journey = open_journey(run, recipe, source, hardware, workdir)
    manifest = write_report(journey, journey.arrows("report")[0])
    page = journey.store.folder(manifest.artifact) / "report.html"
    # Not a link: a browser does not follow one from Prefect's pages to a file.
    create_markdown_artifact(key=artifact_key("report", run), markdown=f"### The report of run {run}\n\n`{page}`")
    return Completed(message=f"report: {page}")


def _score_table(scores: dict[Arrow, Manifest]) -> str:
    """A Markdown table: one row per benchmark, one column per model."""
    models = list(dict.fromkeys(_column(arrow) for arrow in scores))
    cells: dict[str, dict[str, str]] = {}
    for arrow, manifest in scores.items():
        value = manifest.details["value"]  # None with noise where no item has a picture
        cells.setdefault(arrow.benchmark, {})[_column(arrow)] = "–" if value is None else f"{value:.3f}"
    rows = [
        f"| {benchmark} | {' | '.join(found.get(model, '') for model in models)} |"
        for benchmark, found in cells.items()
    ]
    return "\n".join([f"| benchmark | {' | '.join(models)} |", f"|---|{'---|' * len(models)}", *rows])


def _column(arrow: Arrow) -> str:
    return f"{arrow.subject}, noise" if arrow.noise else arrow.subject
