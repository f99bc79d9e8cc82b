"""Writes the resolved form of every shipped recipe: `python -m tests.runs.golden_recipes`, then read the diff."""

from tests.runs.golden_recipes.resolve import GOLDEN, RUNS, golden_text

for recipe in RUNS:
    (GOLDEN / f"{recipe}.yaml").write_text(golden_text(recipe), encoding="utf-8")
