"""What another threshold would change, before anything is made: counts, and pictures just inside and just outside."""

import base64
import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygptv import catalog
from tinygptv.artifacts import Manifest, Store
from tinygptv.data.database import connect
from tinygptv.data.filtering import check_chain
from tinygptv.data.gallery import thumbnail
from tinygptv.data.rows import Rows
from tinygptv.data.scores import describe_rows
from tinygptv.data.shards import SIDECAR, read_image
from tinygptv.definitions.filters import FilterChain, Rule, Threshold
from tinygptv.errors import DefinitionError, did_you_mean

_PICTURES, _LOOKED_AT = 16, 400
_MEMORY_BYTES = 256 << 20
_VALUES = "CREATE TEMP TABLE measured AS SELECT position, ({value})::DOUBLE AS value FROM rows"
_COUNTS = "SELECT count(*), count(*) FILTER ({now}), count(*) FILTER ({then}) FROM measured"
# Most rows stay on their side. The other rules are asked about the rest only, in places from which DuckDB does not move
# them to where every row is read.
_CHANGES = """
SELECT count(*) FILTER (({now}) AND {others}), count(*) FILTER (({then}) AND {others})
FROM rows JOIN (FROM measured WHERE ({now}) IS DISTINCT FROM ({then})) USING (position)
"""
_NEAREST = """
WITH looked_at AS MATERIALIZED (
    SELECT position, value, key, caption, shard, "offset", length, sha256, {others} AS passes
    FROM rows JOIN (
        FROM measured WHERE {side} ORDER BY abs(value - ({number})), position LIMIT {looked_at}
    ) USING (position)
)
FROM looked_at WHERE passes ORDER BY abs(value - ({number})), position LIMIT {pictures}
"""


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

    `scores` is what the chain's scorer says of `raw`.

    Raises DefinitionError if there is no such rule or it compares nothing with a number.
    """
    chain = catalog.filter_chain(filter_name)
    check_chain(filter_name, chain)
    rule, threshold = _comparison(filter_name, chain, rule_name)
    value, measured = threshold.value, threshold._replace(value="value")
    described = describe_rows(store, source_name, chain, raw, scores)
    now, then = (measured._replace(number=one).keep for one in (measured.number, number))
    others = " AND ".join(f"coalesce(({other.keep}), FALSE)" for other in chain.rules if other is not rule) or "TRUE"
    images = store.folder(raw.artifact)
    folder = store.local_root / "previews" / f"{source_name}-{filter_name}-{rule_name}"
    folder.mkdir(parents=True, exist_ok=True)
    with connect(folder) as database:
        rows = Rows(database, store.folder(described.artifact) / SIDECAR, images, memory_bytes=_MEMORY_BYTES)
        database.execute(_VALUES.format(value=value))
        ((total, kept, would_keep),) = database.sql(_COUNTS.format(now=now, then=then)).fetchall()
        ((goes, comes),) = database.sql(_CHANGES.format(now=now, then=then, others=others)).fetchall()
        sides = {"just inside": then, "just outside": f"NOT ({then})"}
        shown = {name: _nearest(rows, side, number, others, images) for name, side in sides.items()}
    page = folder / f"{number:g}.html"
    counts = f"{kept:,} of {total:,} kept by {rule.keep}; {would_keep:,} with {number:g}"
    _write_page(page, f"{rule_name}: {counts}", shown)
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


def _nearest(rows: Rows, side: str, number: float, others: str, images: Path) -> list[dict[str, Any]]:
    query = _NEAREST.format(side=side, number=number, others=others, looked_at=_LOOKED_AT, pictures=_PICTURES)
    found = rows.database.sql(query)
    return [
        row | {"picture": thumbnail(read_image(images, row))}
        for row in (dict(zip(found.columns, values, strict=True)) for values in found.fetchall())
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
