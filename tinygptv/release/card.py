"""The model card: what a released model is, from manifests alone; what was not measured is said to be missing."""

from collections.abc import Iterator
from typing import Any

from tinygptv.catalog import ResolvedRun
from tinygptv.store.artifacts import Manifest, Store

MISSING = "not measured"


def model_card(store: Store, run: ResolvedRun, run_name: str, parents: list[str], details: dict[str, Any]) -> str:
    """Markdown for a release folder's README.md. `details` are those of the manifest that is about to be written."""
    lines = [
        f"# {run.recipe_name}, run {run_name}",
        "",
        run.recipe.about.strip(),
        "",
        f"Data: source `{run.source_name}` ({run.source.about.strip()}), licence: {run.source.licence}.",
        "",
        *_cost(details),
        "",
        *_data(store, parents),
        "",
        *_base(store, parents),
        "## Scores",
        "",
        "Not measured when this card was written: a model is scored after it is released. See the report of this run.",
        "",
        "## Limits",
        "",
        "The model says what its training data taught it to say. It has not been tested for safety, bias or languages "
        "other than that of its captions, and its boxes are weak: an image reaches the decoder as a few query tokens.",
        "",
    ]
    return "\n".join(lines)


def ancestors(store: Store, parents: list[str]) -> Iterator[Manifest]:
    """The manifests an artifact was made from, nearest first, each once; those no longer in the store are left out."""
    waiting, seen = list(parents), set()
    while waiting:
        name = waiting.pop(0)
        if name not in seen and (manifest := store.find(name)):
            yield manifest
            waiting += manifest.parents
        seen.add(name)


def _cost(details: dict[str, Any]) -> list[str]:
    cost = details.get("cost", {})
    return [
        "## Size and cost",
        "",
        "| | |",
        "|---|---|",
        f"| parameters | {details['parameters']:,} |",
        f"| weights on disk | {details['weight_bytes'] / 1e6:.1f} MB |",
        f"| peak memory, loading and answering | {_megabytes(cost.get('peak_bytes'))} |",
        f"| of which before loading | {_megabytes(cost.get('before_loading_bytes'))} |",
        f"| speed, one answer at a time | {cost.get('tokens_per_second', MISSING)} tokens per second |",
    ]


def _data(store: Store, parents: list[str]) -> list[str]:
    lines = ["## Lineage", "", "| artifact | made by | rows | dropped | seconds |", "|---|---|---|---|---|"]
    for manifest in ancestors(store, parents):
        drops = ", ".join(f"{reason} {count:,}" for reason, count in manifest.drops.items() if count) or "–"
        rows = f"{manifest.rows_out:,} of {manifest.rows_in:,}" if manifest.rows_in else "–"
        lines.append(f"| `{manifest.artifact}` | {manifest.made_by} | {rows} | {drops} | {manifest.seconds:.0f} |")
    return lines


def _base(store: Store, parents: list[str]) -> list[str]:
    """On what the adapters are merged, if that is not what they learned beside."""
    beside = {m.details["quantize_base"] for m in ancestors(store, parents) if "quantize_base" in m.details} - {"none"}
    if not beside:
        return []
    return [
        f"Adapters and norms learned, at least in part, beside a base rounded to 4 bits ({', '.join(sorted(beside))}). "
        "Here they are merged onto the whole base, as the weight files have it: trust scores of this model alone.",
        "",
    ]


def _megabytes(count: int | None) -> str:
    return MISSING if count is None else f"{count / 1e6:.0f} MB"
