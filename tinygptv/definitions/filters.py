"""A filter chain: sentences about a sidecar row, evaluated by DuckDB in one pass, in order."""

from typing import Self

from pydantic import Field, model_validator

from tinygptv.definitions.base import Definition

SIDECAR_COLUMNS: dict[str, str] = {
    "key": "VARCHAR",
    "url": "VARCHAR",
    "host": "VARCHAR",
    "caption": "VARCHAR",
    "caption_raw": "VARCHAR",
    "language": "VARCHAR",
    "table_name": "VARCHAR",
    "table_row": "BIGINT",
    "uid": "VARCHAR",
    "width": "INTEGER",
    "height": "INTEGER",
    "sha256": "VARCHAR",
    "bytes": "BIGINT",
    "original_width": "INTEGER",
    "original_height": "INTEGER",
    "original_format": "VARCHAR",
    "reencoded": "BOOLEAN",
    "content_sha256": "VARCHAR",
    "phash": "BIGINT",
    "similarity": "DOUBLE",
    "punsafe": "DOUBLE",
    "pwatermark": "DOUBLE",
    "nsfw": "VARCHAR",
    "table_width": "INTEGER",
    "table_height": "INTEGER",
    "table_sha256": "VARCHAR",
    "licence": "VARCHAR",
}
"""Columns a predicate may use, with their DuckDB types; all but `key`, `url` and `caption` may be NULL.

`caption` is the cleaned text, `caption_raw` what the table says, `language` an ISO 639-1 code. `width`, `height` (px),
`bytes` and `sha256` are of the stored image; `original_…` and `content_sha256` of what the web answered; `reencoded`
says whether they differ. `phash` is a 64-bit DCT hash. `uid`, `similarity`, `punsafe`, `pwatermark`, `nsfw`
(UNLIKELY, UNSURE or NSFW) and `table_…`, the size and hash the picture once had, come from the table."""


class Rule(Definition):
    """`keep` is a SQL predicate; a row is dropped, with this rule's name as reason, unless it is TRUE."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    keep: str = Field(min_length=1)
    why: str = Field(min_length=1)


class Deduplicate(Definition):
    """Rows equal in `by` are one; the survivor is the first in `order`, which must be total: it ends with `key`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    by: str = Field(min_length=1)
    order: str = Field(default="key", pattern=r"(^|,\s*)key$")
    why: str = Field(min_length=1)


class FilterChain(Definition):
    """Rules first, duplicates among what they leave after."""

    about: str
    rules: list[Rule]
    duplicates: list[Deduplicate] = Field(default_factory=list)
    max_drop_fraction: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [rule.name for rule in self.rules] + [rule.name for rule in self.duplicates]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two rules are called {', '.join(repeated)}; each drop needs one reason")
        return self
