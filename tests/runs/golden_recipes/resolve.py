"""The resolved form of a shipped recipe as its golden file holds it: every value, and the file it comes from.

Origins stand without line numbers. With them, a comment added at the top of a recipe would change every line below it,
and the one value that changed would be lost among them. A derived recipe's file holds the recipe alone: its runs share
all else with those of its base.
"""

from dataclasses import replace
from pathlib import Path

from tinygptv.catalog import load, names, resolve_run
from tinygptv.loading.mistakes import Place
from tinygptv.loading.written import Written
from tinygptv.runs.resolved import resolved, resolved_yaml, shown_place

GOLDEN = Path(__file__).resolve().parent
TINY, FULL = ("shapes", "cpu"), ("laion", "h200")
RUNS = {recipe: TINY if recipe == "tinygptv_tiny" else FULL for recipe in names("recipe")}
"""Recipe → the source and the hardware profile that it is resolved with."""


def golden_text(recipe: str) -> str:
    source, hardware = RUNS[recipe]
    run = resolve_run(recipe, source, hardware)
    document = resolved(run, source, {stage.stage: run.hardware for stage in run.recipe.stages})
    if load("recipe", recipe).own.get("base"):
        document = Written({"recipe": document.content["recipe"]}, document.place)
    return resolved_yaml(document, _without_line)


def _without_line(place: Place) -> str:
    return shown_place(replace(place, line=None))
