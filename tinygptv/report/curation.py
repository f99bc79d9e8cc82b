"""The report's account of curation: a funnel that adds up, and pictures of what was kept and dropped."""

import json
from dataclasses import dataclass

from tinygptv.definitions.reasons import REASONS
from tinygptv.report.pictures import Picture, picture
from tinygptv.report.run_artifacts import RunArtifacts
from tinygptv.store.artifacts import Store

_MOST_PICTURES = 16
_MOST_LETTERS = 140


@dataclass(frozen=True)
class FunnelLine:
    """Rows lost for one reason, in order; shares are percent of the rows read."""

    step: str
    reason: str
    why: str
    dropped: int
    left: int
    left_share: float
    dropped_share: float


@dataclass(frozen=True)
class Funnel:
    """Every row of the tables, kept or dropped under one reason; `sum` is the proof in words."""

    rows_in: int
    kept: int
    kept_share: float
    lines: list[FunnelLine]
    sum: str


@dataclass(frozen=True)
class Shown:
    """A picture with its caption; `reason` is empty for a kept one."""

    picture: Picture
    caption: str
    reason: str


def funnel(artifacts: RunArtifacts) -> Funnel | None:
    """Drops at reading and fetching, by number, then those of the filter's rules, in the chain's order."""
    raw, filtered = artifacts.raw, artifacts.filtered
    if raw is None or filtered is None:
        return None
    whys = {entry["rule"]: (entry["kind"], entry["why"]) for entry in filtered.details.get("funnel", [])}
    fetched = sorted(raw.drops.items(), key=lambda drop: -drop[1])
    drops = [("download", reason, REASONS.get(reason, ""), count) for reason, count in fetched]
    for reason, count in filtered.drops.items():
        kind, why = whys.get(reason, ("rule", ""))
        drops.append(("duplicates" if kind == "duplicates" else "filter", reason, why, count))
    lines, left = [], raw.rows_in
    for step, reason, why, count in drops:
        left -= count
        shares = _percent(left, raw.rows_in), _percent(count, raw.rows_in)
        lines.append(FunnelLine(step, reason.replace("_", " "), why, count, left, *shares))
    return Funnel(
        raw.rows_in, filtered.rows_out, _percent(filtered.rows_out, raw.rows_in), lines, _sum(artifacts, lines)
    )


def gallery(store: Store, artifacts: RunArtifacts) -> tuple[list[Shown], list[Shown]]:
    """Some of the pictures the filter kept, and some it dropped, as it stored them."""
    if artifacts.filtered is None:
        return [], []
    folder = store.folder(artifacts.filtered.artifact) / "gallery"
    if not (folder / "index.json").is_file():
        return [], []
    kept: list[Shown] = []
    dropped: list[Shown] = []
    for entry in json.loads((folder / "index.json").read_text()):
        side = dropped if entry["reason"] else kept
        if len(side) < _MOST_PICTURES:
            reason = (entry["reason"] or "").replace("_", " ")
            side.append(Shown(picture(folder / entry["file"]), shortened(entry["caption"]), reason))
    return kept, dropped


def shortened(text: str) -> str:
    """Text for under a picture: whole if short, else its beginning."""
    return text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 1].rstrip() + "…"


def _sum(artifacts: RunArtifacts, lines: list[FunnelLine]) -> str:
    assert artifacts.raw is not None and artifacts.filtered is not None
    rows, kept = artifacts.raw.rows_in, artifacts.filtered.rows_out
    dropped = sum(line.dropped for line in lines)
    if rows == kept + dropped and artifacts.raw.rows_out == artifacts.filtered.rows_in:
        return f"{rows:,} read = {kept:,} kept + {dropped:,} dropped."
    return f"{rows:,} were read, but {kept:,} kept and {dropped:,} dropped rows make {kept + dropped:,}."


def _percent(part: int, whole: int) -> float:
    return round(100 * part / max(whole, 1), 2)
