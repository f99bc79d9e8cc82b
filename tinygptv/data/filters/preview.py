"""What another threshold would change, before anything is made: counts, and pictures just inside and just outside."""

import base64
import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygptv import catalog
from tinygptv.data.columns.database import connect, literal
from tinygptv.data.filters.filtering import check_chain
from tinygptv.data.filters.gallery import thumbnail
from tinygptv.data.filters.rows import Rows
from tinygptv.data.filters.rule_values import MEASURED, measure, value_column
from tinygptv.data.filters.scores import describe_rows
from tinygptv.data.shards.shards import SIDECAR, carried_columns, read_image
from tinygptv.definitions.filters import FilterChain, Rule, Threshold
from tinygptv.errors import DefinitionError, did_you_mean
from tinygptv.store.artifacts import Manifest, Store

_PICTURES = 16
_MEASURED = """
CREATE VIEW measured AS SELECT file_row_number AS position, (failed & ~{bit}::UBIGINT) = 0 AS passes, {value} AS value
FROM read_parquet({path}, file_row_number = TRUE)
"""
_COUNTS = """
SELECT count(*), count(*) FILTER ({now}), count(*) FILTER ({then}),
    count(*) FILTER (passes AND ({now}) AND NOT ({then})), count(*) FILTER (passes AND ({then}) AND NOT ({now}))
FROM measured
"""
_NEAREST = """
SELECT position, value FROM measured WHERE passes AND {side} ORDER BY abs(value - ({number})), position LIMIT {pictures}
"""
_SAMPLES = 'SELECT position, key, caption, shard, "offset", length, sha256 FROM rows WHERE position IN ({positions})'


@dataclass(frozen=True)
class Preview:
    """Rows in all, those the rule keeps now and would keep; those that no other rule drops and that would go, or come.

    `page` is an HTML file with the pictures nearest to the threshold on both sides.
    """

    rows: int
    kept: int
    would_keep: int
    would_go: int
    would_come: int
    page: Path


def preview(
    store: Store,
    source_name: str,
    filter_name: str,
    raw: Manifest,
    rule_name: str,
    number: float,
    scores: Manifest | None = None,
) -> Preview:
    """The rule with `number` in the place of its threshold. Placeholders, copies and balance are not considered.

    `scores` is what the chain's scorer says of `raw`. The first look measures all rows, further ones compare numbers.

    Raises DefinitionError if there is no such rule or it compares nothing with a number.
    """
    chain = catalog.filter_chain(filter_name)
    check_chain(filter_name, chain, carried_columns(store.file(raw.artifact, SIDECAR)))
    rule, threshold = _comparison(filter_name, chain, rule_name)
    described = describe_rows(store, source_name, chain, raw, scores)
    measured = measure(store, source_name, filter_name, chain, described)
    now, then = (threshold._replace(value="value", number=one).keep for one in (threshold.number, number))
    images = store.folder(raw.artifact)
    folder = store.local_root / "previews" / f"{source_name}-{filter_name}-{rule_name}"
    folder.mkdir(parents=True, exist_ok=True)
    with connect(folder) as database:
        path, bit = store.folder(measured.artifact) / MEASURED, 1 << chain.rules.index(rule)
        database.execute(_MEASURED.format(bit=bit, value=value_column(rule), path=literal(path)))
        (counts,) = database.sql(_COUNTS.format(now=now, then=then)).fetchall()
        rows = Rows(database, store.folder(described.artifact) / SIDECAR, images)
        sides = {"just inside": then, "just outside": f"NOT ({then})"}
        shown = {name: _nearest(rows, side, number, images) for name, side in sides.items()}
    total, kept, would_keep, goes, comes = counts
    page = folder / f"{number:g}.html"
    title = f"{rule_name}: {kept:,} of {total:,} kept by {rule.keep}; {would_keep:,} with {number:g}"
    _write_page(page, title, shown)
    return Preview(total, kept, would_keep, goes, comes, page)


def _comparison(filter_name: str, chain: FilterChain, rule_name: str) -> tuple[Rule, Threshold]:
    rules = {rule.name: rule for rule in chain.rules}
    where = f"datasets/filters/{filter_name}.yaml"
    if rule_name not in rules:
        raise DefinitionError(f"{where}: no rule '{rule_name}'. {did_you_mean(rule_name, rules)}")
    rule = rules[rule_name]
    if rule.threshold is None:
        raise DefinitionError(f"{where}, {rule_name}: `{rule.keep}` has no threshold; it must end as in `… >= 0.28`")
    return rule, rule.threshold


def _nearest(rows: Rows, side: str, number: float, images: Path) -> list[dict[str, Any]]:
    """The rows on this side that no other rule drops, nearest to the threshold first, with their pictures."""
    nearest = _NEAREST.format(side=side, number=number, pictures=_PICTURES)
    values = dict(rows.database.sql(nearest).fetchall())
    if not values:
        return []
    found = rows.database.sql(_SAMPLES.format(positions=", ".join(map(str, values))))
    samples = [dict(zip(found.columns, sample, strict=True)) for sample in found.fetchall()]
    return [
        sample | {"value": values[sample["position"]], "picture": thumbnail(read_image(images, sample))}
        for sample in sorted(samples, key=lambda sample: list(values).index(sample["position"]))
    ]


def _write_page(page: Path, title: str, shown: dict[str, list[dict[str, Any]]]) -> None:
    figures = {
        name: "".join(
            f'<figure><img src="data:image/jpeg;base64,{base64.b64encode(row["picture"]).decode()}" alt="">'
            f"<figcaption><b>{row['value']:.4g}</b> {html.escape(row['caption'])}</figcaption></figure>"
            for row in rows
        )
        for name, rows in shown.items()
    }
    sections = "".join(f"<h2>{name}</h2><div>{pictures}</div>" for name, pictures in figures.items())
    style = "body{font:14px sans-serif;margin:2em}div{display:flex;flex-wrap:wrap}figure{margin:4px;width:140px}"
    text = f'<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title><style>{style}</style>'
    page.write_text(f"{text}<h1>{html.escape(title)}</h1>{sections}", encoding="utf-8")
