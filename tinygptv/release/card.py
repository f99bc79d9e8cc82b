"""The model card of a release, from manifests only; values that were not measured are marked as such."""

from collections.abc import Iterator
from typing import Any

from tinygptv.catalog import ResolvedRun
from tinygptv.store.artifacts import Manifest, Store

MISSING = "not measured"


def model_card(store: Store, run: ResolvedRun, run_name: str, parents: list[str], details: dict[str, Any]) -> str:
    """Markdown for a release folder's README.md. `details` are those of the manifest to be written."""
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
        "Not measured when this card was written: models are evaluated after export. See the report of this run.",
        "",
        "## Limits",
        "",
        "The model reflects its training data. It has not been tested for safety, bias, or languages other than that "
        "of its captions. Its boxes are imprecise: the decoder sees an image as a few query tokens.",
        "",
    ]
    return "\n".join(lines)


def ancestors(store: Store, parents: list[str]) -> Iterator[Manifest]:
    """The manifests that an artifact was made from, nearest first; those no longer in the store are left out."""
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
        f"| of that, before loading | {_megabytes(cost.get('before_loading_bytes'))} |",
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
    """A warning if the adapters were trained with a quantized base, but are merged into the original one."""
    formats = {m.details["quantize_base"] for m in ancestors(store, parents) if "quantize_base" in m.details} - {"none"}
    if not formats:
        return []
    return [
        f"Adapters and norms were trained, at least in part, with a base quantized to 4 bits "
        f"({', '.join(sorted(formats))}). Here they are merged into the original base: "
        "only scores of this merged model apply to it.",
        "",
    ]


def _megabytes(count: int | None) -> str:
    return MISSING if count is None else f"{count / 1e6:.0f} MB"
