"""A filter chain: sentences about a sidecar row, evaluated by DuckDB in one pass, then what compares rows."""

import re
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from tinygptv.definitions.base import Definition

SIDECAR_COLUMNS: dict[str, str] = {
    "key": "VARCHAR",
    "url": "VARCHAR",
    "host": "VARCHAR",
    "hops": "VARCHAR[]",
    "final_host": "VARCHAR",
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

`hops` are the addresses that redirects led to, the one that served the picture last, and `final_host` is its host;
NULL if `url` served it. `caption` is the cleaned text, `caption_raw` what the table says; `language` is an ISO 639-1
code, or the ISO 15924 code of a script that several languages share (Cyrl, Hani, Arab, Deva …; Zzzz for a rare one).
`width`, `height` (px), `bytes` and `sha256` are of the stored image; `original_…` and `content_sha256` of what the web
answered; `reencoded` says whether they differ. `phash` is a 64-bit DCT hash. `uid`, `similarity`, `punsafe`,
`pwatermark`, `nsfw` (UNLIKELY, UNSURE or NSFW) and `table_…`, the size and hash the picture once had, come from the
table. Macros for words and letters of captions in any script are in `data/scripts.py`."""

SCORE_COLUMNS: dict[str, str] = {
    "itc": "DOUBLE",
    "itm": "DOUBLE",
    "clip": "DOUBLE",
    "recaptioned": "BOOLEAN",
}
"""Columns that a predicate may use beside them if the chain names a scorer; those it does not give are NULL.

`itc` is the cosine of caption and picture for BLIP-2's Q-Former, `itm` the probability that they belong together,
`clip` the cosine for a CLIP; `recaptioned` says whether the caption is the model's own."""

MOST_STEPS = 62
"""One bit of a 64-bit number each, with room for the sign."""

EMBEDDING = "embedding"
"""As `by` of a `Deduplicate`: what the chain's scorer found in the picture."""

NAME = r"^[a-z][a-z0-9_]*$"
_THRESHOLD = re.compile(
    r"(?s)(?P<value>.+?)\s*(?P<comparison>>=|<=|>|<)\s*(?P<threshold>[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)\s*", re.I
)


def _is_unset(value: object) -> bool:
    """Options that most definitions do not use are left out of them, so that these keep their fingerprints."""
    return value is None or value is False


class Rule(Definition):
    """`keep` is a SQL predicate; a row is dropped, with this rule's name as reason, unless it is TRUE."""

    name: str = Field(pattern=NAME)
    keep: str = Field(min_length=1)
    why: str = Field(min_length=1)

    @property
    def threshold(self) -> "Threshold | None":
        """What is compared, how and with which number, if `keep` ends in a comparison with a number."""
        found = _THRESHOLD.fullmatch(self.keep)
        return found and Threshold(found["value"], found["comparison"], float(found["threshold"]))


class Threshold(NamedTuple):
    """A predicate `value comparison number`."""

    value: str
    comparison: str
    number: float

    @property
    def keep(self) -> str:
        """The predicate."""
        return f"({self.value}) {self.comparison} {self.number!r}"


class Deduplicate(Definition):
    """Rows equal in `by` are one; the survivor is the first in `order`, which must be total: it ends with `key`.

    Rows for which `by` is NULL are copies of none, and rows with the same `url` but different captions are one picture,
    not copies of each other. With `within`, `by` is a 64-bit hash, and rows are copies if at most
    that many of its bits differ and, unless `confirm` is false, their pictures look the same: the first in `order`
    survives, then the first that is a copy of no survivor, and so on. `by: embedding` asks what the chain's scorer saw:
    rows are copies if the cosine of their pictures is `at_least` that, and survive in the same way. Rows of earlier
    artifacts have no embedding.
    """

    name: str = Field(pattern=NAME)
    by: str = Field(min_length=1)
    within: int | None = Field(default=None, ge=0, le=8)
    at_least: float | None = Field(default=None, gt=0, le=1, exclude_if=_is_unset)
    confirm: bool = True
    order: str = Field(default="key", pattern=r"(^|,\s*)key$")
    why: str = Field(min_length=1)

    @model_validator(mode="after")
    def _embeddings_have_a_cosine(self) -> Self:
        if (self.by == EMBEDDING) != (self.at_least is not None):
            raise ValueError(f"`by: {EMBEDDING}` and `at_least` need each other: how near is a copy?")
        if self.at_least is not None and self.within is not None:
            raise ValueError("`within` counts the bits of a hash; an embedding has `at_least` alone")
        return self


class Placeholder(Definition):
    """Rows equal in `by` with at least `captions` different captions are no pictures but what a site shows instead of
    one: all are dropped. An address with several captions counts once."""

    name: str = Field(pattern=NAME)
    by: str = Field(min_length=1)
    captions: int = Field(ge=2)
    why: str = Field(min_length=1)


class Decontaminate(Definition):
    """Rows that show a picture of a benchmark the run is scored on, or say what one of them says, are dropped.

    A picture is the same if its bytes are, or if at most `within` bits of its hash differ and it looks the same (null:
    bytes alone). A caption says the same if it shares `words` successive words with a reference, question or statement
    (null: captions are not compared).
    """

    name: str = Field(default="in_benchmark", pattern=NAME)
    within: int | None = Field(default=4, ge=0, le=8)
    words: int | None = Field(default=8, ge=3)
    why: str = Field(default="a model must not be scored on what it has seen", min_length=1)


class Balance(Definition):
    """At most about `per_concept` rows for each phrase of `concepts` that captions hold, as MetaCLIP draws them.

    A row stays with the probability that its rarest phrase is drawn with; chance is a hash of its key. Rows without any
    of the phrases stay.
    """

    name: str = Field(default="too_common", pattern=NAME)
    concepts: list[str] = Field(min_length=1)
    per_concept: int = Field(ge=1)
    why: str = Field(min_length=1)


class FilterChain(Definition):
    """What is kept of a source: captions are cleaned as `captions` says, then every row is judged by the rules, held
    against the benchmarks, and what is left freed of placeholders and copies and balanced, in this order.

    `scores` names the scorer whose columns the rules may use. With `better_caption` its own caption takes the place of
    the table's wherever it belongs to the picture with the higher probability; `caption_raw` stays as it is.
    """

    about: str
    captions: str = "web"
    scores: str | None = Field(default=None, exclude_if=_is_unset)
    better_caption: bool = Field(default=False, exclude_if=_is_unset)
    rules: list[Rule]
    decontaminate: Decontaminate | None = Decontaminate()
    placeholders: list[Placeholder] = Field(default_factory=list)
    duplicates: list[Deduplicate] = Field(default_factory=list)
    balance: Balance | None = None
    max_drop_fraction: float = Field(default=1.0, gt=0, le=1)

    @property
    def steps(self) -> "list[Step]":
        """What follows the rules, in order."""
        first, last = [self.decontaminate], [self.balance]
        return [step for step in (*first, *self.placeholders, *self.duplicates, *last) if step is not None]

    @property
    def columns(self) -> dict[str, str]:
        """What its expressions may use, with DuckDB types."""
        return SIDECAR_COLUMNS | SCORE_COLUMNS if self.scores else SIDECAR_COLUMNS

    @model_validator(mode="after")
    def _scores_come_from_a_scorer(self) -> Self:
        asking = [step.name for step in self.duplicates if step.by == EMBEDDING]
        asking += ["better_caption"] if self.better_caption else []
        if asking and self.scores is None:
            raise ValueError(f"{', '.join(asking)} needs a scorer; name one: `scores: NAME`")
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [step.name for step in (*self.rules, *self.steps)]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two rules are called {', '.join(repeated)}; each drop needs one reason")
        if len(names) > MOST_STEPS:
            raise ValueError(f"{len(names)} rules and steps; at most {MOST_STEPS} in one chain")
        return self


Step = Decontaminate | Placeholder | Deduplicate | Balance
