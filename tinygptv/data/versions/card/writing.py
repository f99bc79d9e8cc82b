"""One filtered version → `card.html` and `card.json`, side by side in an artifact."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from tinygptv import pages
from tinygptv.data.filters.gallery import INDEX
from tinygptv.data.forget.tombstones import TOMBSTONES
from tinygptv.data.versions.card.facts import Facts, Histogram, as_json, gather
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name, fingerprint

CARD_PAGE, CARD_JSON = "card.html", "card.json"
_PACKAGE, _TEMPLATE = "tinygptv.data.versions.card", "card.html.j2"
_MOST_LETTERS = 140


@dataclass(frozen=True)
class Shown:
    """A picture as part of the page, with its caption; `reason` is empty for a kept one."""

    uri: str
    caption: str
    reason: str
    size: str


@dataclass(frozen=True)
class Bar:
    """One bin of a histogram as a rectangle, in a picture 100 wide and 40 high."""

    x: float
    y: float
    width: float
    height: float
    title: str


def card(store: Store, filtered: Manifest) -> Manifest:
    """The data card of a filtered artifact; made anew when something was published or forgotten since the last one.

    Raises DataError if the raw artifact is gone.
    """
    name = filtered.artifact.removeprefix("filtered/").rpartition("@")[0]
    known = [store.read(TOMBSTONES), *(store.read(f"published/{one}.json") for one in (name, name.rpartition("-")[0]))]
    definition = {"page": fingerprint(pages.template_text(_PACKAGE, _TEMPLATE)), "known": fingerprint(known)}

    def build(draft: Path) -> Outcome:
        facts = gather(store, filtered)
        (draft / CARD_JSON).write_text(as_json(facts), encoding="utf-8")
        (draft / CARD_PAGE).write_text(_page(facts, _gallery(store, filtered)), encoding="utf-8")
        return Outcome(rows_in=facts.kept, rows_out=facts.kept)

    artifact = artifact_name(f"cards/{name}", definition, [filtered.artifact])
    return store.make(artifact, "card", definition, [filtered.artifact], build)


def _page(facts: Facts, shown: list[Shown]) -> str:
    return pages.render(
        _PACKAGE,
        _TEMPLATE,
        facts=facts,
        histograms=[(one, _bars(one)) for one in facts.histograms],
        kept=[one for one in shown if not one.reason],
        dropped=sorted((one for one in shown if one.reason), key=lambda one: one.reason),
        percent=lambda part, whole: round(100 * part / max(whole, 1), 2),
    )


def _bars(histogram: Histogram) -> list[Bar]:
    highest, width = max(histogram.counts), (histogram.high - histogram.low) / len(histogram.counts)
    across = 100 / len(histogram.counts)
    bars = []
    for number, count in enumerate(histogram.counts):
        height = 38 * count / max(highest, 1)
        low = histogram.low + number * width
        title = f"{low:,.4g} to {low + width:,.4g} {histogram.unit}: {count:,}"
        bars.append(Bar(round(number * across + 0.3, 2), round(40 - height, 2), across - 0.6, round(height, 2), title))
    return bars


def _gallery(store: Store, filtered: Manifest) -> list[Shown]:
    """The thumbnails that the filter stored."""
    folder = store.folder(filtered.artifact) / "gallery"
    if not (folder / INDEX).is_file():
        return []
    shown = []
    for entry in json.loads((folder / INDEX).read_text(encoding="utf-8")):
        picture = base64.b64encode((folder / entry["file"]).read_bytes()).decode()
        caption = entry["caption"]
        short = caption if len(caption) <= _MOST_LETTERS else f"{caption[: _MOST_LETTERS - 1].rstrip()}…"
        size = f"{entry['width']} × {entry['height']}"
        shown.append(Shown(f"data:image/jpeg;base64,{picture}", short, entry["reason"] or "", size))
    return shown
