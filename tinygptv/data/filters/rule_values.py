"""What the rules of a chain say of every row, as numbers: asked once, so that trying a threshold is one comparison."""

from pathlib import Path

from tinygptv.data.columns.database import connect, literal
from tinygptv.data.columns.scripts import TEXT_MACROS_VERSION
from tinygptv.data.filters.rows import Rows
from tinygptv.data.filters.rule_attribution import failed_bits
from tinygptv.data.shards.shards import SIDECAR
from tinygptv.definitions.filters import FilterChain, Rule
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name

MEASURED = "measured.parquet"

_COPY = "COPY (SELECT {columns} FROM rows) TO {path} (FORMAT parquet, COMPRESSION zstd)"


def measure(store: Store, source_name: str, filter_name: str, chain: FilterChain, described: Manifest) -> Manifest:
    """`measured/<source>-<filter>@<hash>`: a row for each of the described sidecar, in its order.

    Bit i of `failed` is set where rule i does not hold; `value_column` names what a rule compares with its threshold.
    """
    definition = {"rules": [rule.model_dump() for rule in chain.rules], "text_macros": TEXT_MACROS_VERSION}
    artifact = artifact_name(f"measured/{source_name}-{filter_name}", definition, [described.artifact])

    def build(draft: Path) -> Outcome:
        values = [
            f"TRY_CAST(({rule.threshold.value}) AS DOUBLE) AS {value_column(rule)}"
            for rule in chain.rules
            if rule.threshold is not None
        ]
        columns = ", ".join([f"{failed_bits(chain.rules)} AS failed", *values])
        folder = store.folder(described.artifact)
        with connect(draft) as database:
            rows = Rows(database, folder / SIDECAR, folder)
            database.execute(_COPY.format(columns=columns, path=literal(draft / MEASURED)))
        return Outcome(rows_in=rows.count, rows_out=rows.count)

    return store.make(artifact, "measure", definition, [described.artifact], build)


def value_column(rule: Rule) -> str:
    """The column that holds what `rule` compares."""
    return f"value_of_{rule.name}"
