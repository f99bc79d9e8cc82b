"""A recipe whole and without one thing at a time, and what each of them learned."""

from prefect import State, flow, get_run_logger, task
from prefect.artifacts import create_image_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from flows.arrows import artifact_key
from flows.curate import download, filter_pairs, score
from flows.encode import encode_images
from flows.evaluate import evaluate_model
from flows.mix import mix_one
from flows.train import pass_gate, train
from tinygptv.journey import HARDWARE, RECIPE, RUN, SOURCE, WORKDIR, Arrow, Journey
from tinygptv.report.figures import data_uri
from tinygptv.runs.ablation import PAPER, Trained, Variant, follow, variants
from tinygptv.runs.comparison import CURVES, PAGE, compare, table, told
from tinygptv.store.artifacts import Manifest

_TASKS = {
    "download": download,
    "score": score,
    "filter": filter_pairs,
    "mix": mix_one,
    "encode": encode_images,
    "train": train,
    "gate": pass_gate,
    "evaluate": evaluate_model,
}


@task(name="compare", task_run_name="compare {run}", cache_policy=NO_CACHE)
def compare_variants(run: str, results: list[Trained], steps_scale: float) -> Manifest:
    """Write the table, the curves and the page."""
    return compare(run, results, steps_scale)


@flow(name="ablate", flow_run_name="ablate {recipe}")
def ablate(
    run: str = RUN,
    recipe: str = RECIPE,
    source: str = SOURCE,
    hardware: str = HARDWARE,
    workdir: str = WORKDIR,
    without: list[str] | None = None,
    shuffled_tower: bool = False,
    steps_scale: float = 1.0,
) -> State:
    """Train every variant, one after the other, and set them side by side. The same parameters continue.

    One whose training halts, or stops at a gate, is compared as far as it came.
    """
    compared = variants(
        run,
        recipe,
        source,
        hardware,
        workdir,
        without=PAPER if without is None else without,
        shuffled_tower=shuffled_tower,
        steps_scale=steps_scale,
    )
    results = [_follow(variant) for variant in compared]
    made = compare_variants(run, results, steps_scale)
    folder = compared[0].journey.store.folder(made.artifact)
    page = folder / PAGE
    create_table_artifact(key=artifact_key("ablations", run), table=table(results), description=f"### `{page}`")
    create_image_artifact(
        key=artifact_key("ablations-losses", run),
        image_url=data_uri((folder / CURVES).read_text(encoding="utf-8")),
        description="### loss per stage, one line per variant",
    )
    return Completed(message=f"ablations: {page}")


def _follow(variant: Variant) -> Trained:
    def make(journey: Journey, arrow: Arrow) -> Manifest:
        return _TASKS[arrow.verb](journey, arrow)

    result = follow(variant, make)
    get_run_logger().info(told(result))
    return result
