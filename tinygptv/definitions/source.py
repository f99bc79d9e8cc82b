"""A source: where pairs or annotated images come from, under which licence, in which published layout."""

import codecs
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tinygptv.definitions.base import Definition, Location
from tinygptv.errors import did_you_mean

COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "url": ("url", "image_url", "img_url"),
    "caption": ("caption", "text", "alt_text"),
    "uid": ("uid", "sample_id", "hash"),
    "similarity": (
        *("similarity", "clip_b32_similarity_score", "clip_l14_similarity_score"),
        "clip_similarity_vitb32",
    ),
    "punsafe": ("punsafe", "nsfw_score_opennsfw2"),
    "pwatermark": ("pwatermark", "watermark_score"),
    "nsfw": ("nsfw",),
    "licence": ("license", "licence"),
    "table_width": ("width", "original_width"),
    "table_height": ("height", "original_height"),
    "table_sha256": ("sha256",),
}
"""Row field → the column names, in lower case, under which published tables carry it; the first one found counts."""

REQUIRED = ("url", "caption")
NONE = "none"
"""As `quote`, `escape` or `compression` of a table: it has none."""

Compression = Literal["none", "gzip", "bz2", "xz", "zstd", "lz4"]

TableFormat = Literal[
    "laion_parquet", "arrow", "cc_tsv", "sbu_json", "sbu_urls", "capfilt_json", "llava_json", "jsonl", "csv"
]
"""Layouts of URL+caption tables: Parquet as of LAION (URL, TEXT, …) and DataComp (uid, url, text, sha256, …), a folder
saved by Hugging Face `datasets` (Arrow), tab-separated text (CC3M/CC12M without a header, WIT with one), SBU JSON
({image_urls, captions}) or its older two lists of lines, BLIP CapFilt JSON ([{url, caption}]), LLaVA's chats, JSONL,
and CSV."""

AnnotationFormat = Literal[
    "cc_sbu_align",
    "coco_caption",
    "coco_karpathy",
    "textcaps",
    "llava_conversation",
    "multitask_conversation",
    "unnatural_instruction",
    "vqav2",
    "aokvqa",
    "gqa",
    "ocrvqa",
    "vsr",
    "refcoco",
    "invrefcoco",
    "visual_genome",
    "flickr_grounded_caption",
    "flickr_caption_to_boxes",
    "flickr_phrase_to_boxes",
]
"""Layouts of annotation files, named after the dataset that published them."""


def _is_unset(value: object) -> bool:
    """Options that most sources do not use are left out of their definitions, so that these keep their hashes."""
    return value is None or value in ({}, [])


Columns = dict[str, str | int]
Carry = list[str] | Literal["all"]


def _check_columns(columns: Columns) -> Columns:
    for field in columns:
        if field not in COLUMN_NAMES:
            raise ValueError(
                f"'{field}' is not a field of a row. {did_you_mean(field, COLUMN_NAMES)} "
                "To take another column along under its own name, list it in `carry`"
            )
    return columns


class Table(Definition):
    """One file of URL+caption rows, several (`*`), or a folder of them. What is null is recognised from the content;
    what is declared wins."""

    location: Location
    """Where the table is; a `*` takes several files, a folder those in it."""
    format: TableFormat | None = None
    """The published layout."""
    url_column: str | None = None
    """Older spelling of `columns: {url: …}`."""
    caption_column: str | None = None
    """Older spelling of `columns: {caption: …}`."""
    columns: Columns = Field(default_factory=dict, exclude_if=_is_unset)
    """Row field (`COLUMN_NAMES`) → the table's column: a name, `a.b` for a member of a struct, or a position from 0."""
    carry: Carry = Field(default_factory=list, exclude_if=_is_unset)
    """Further columns to take along into the sidecar and the shards, or `all` that are not read as a field."""
    compression: Compression | None = Field(default=None, exclude_if=_is_unset)
    """Of the file."""
    encoding: str | None = Field(default=None, exclude_if=_is_unset)
    """Of text: a name that Python knows, as `cp1252`. UTF-8 if there is no byte order mark."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1, exclude_if=_is_unset)
    """The character between fields."""
    quote: str | None = Field(default=None, pattern=r"^(none|.)$", exclude_if=_is_unset)
    """The character around fields, or `none`."""
    escape: str | None = Field(default=None, pattern=r"^(none|.)$", exclude_if=_is_unset)
    """The character before a quote that is text; without one, a quote is doubled."""
    header: bool | None = Field(default=None, exclude_if=_is_unset)
    """Whether the first line names the columns; without one, columns are positions."""

    _columns_are_fields = field_validator("columns")(_check_columns)

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, encoding: str | None) -> str | None:
        try:
            if encoding is not None:
                codecs.lookup(encoding)
        except LookupError:
            raise ValueError(
                f"Python knows no encoding '{encoding}'; write utf-8, utf-16, cp1252, latin-1, …"
            ) from None
        return encoding

    @model_validator(mode="after")
    def _each_field_is_declared_once(self) -> Self:
        for field in REQUIRED:
            if field in self.columns and getattr(self, f"{field}_column") is not None:
                raise ValueError(f"`{field}_column` and `columns: {{{field}: …}}` say the same; keep one")
        return self

    @property
    def declared_columns(self) -> Columns:
        """Row field → column, wherever it is declared."""
        older = {"url": self.url_column, "caption": self.caption_column}
        return {field: column for field, column in older.items() if column is not None} | self.columns


class Download(Definition):
    """How images are fetched and stored. The shorter side is brought to `image_size` px; the aspect is kept.

    Image limits are applied to what a picture's header says, before anything is decoded; network limits on every hop of
    a redirect. What exceeds one is dropped and counted under its reason.
    """

    engine: Literal["native", "img2dataset"] = "native"
    """What fetches; the guards are the same."""
    processes: int = Field(default=1, ge=1)
    """Of img2dataset; the native engine uses every core with the threads of one."""
    threads: int = Field(default=64, ge=1)
    """Requests under way at a time, from the first byte asked for to the picture that is stored."""
    ray_workers: int | None = Field(default=None, ge=1)
    """Null: this machine fetches. Else so many shards are fetched at a time on the Ray cluster of $RAY_ADDRESS, or on
    one that is started here for the while."""
    samples_per_shard: int = Field(default=1000, ge=1)
    """Rows of the tables that one shard is made of."""

    image_size: int = Field(default=448, ge=16)
    max_pixels: int = Field(default=64_000_000, ge=1)
    """Width times height; more is refused from the header, unread."""
    min_side: int = Field(default=16, ge=1)
    """Pixels; what is smaller is a spacer or a tracker."""
    max_aspect: float = Field(default=10.0, ge=1)
    """Longer side over shorter side."""
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    """Of pictures that have to be encoded again."""
    animated: Literal["first_frame", "refuse"] = "first_frame"
    """What is stored of an animation."""

    timeout_seconds: float = Field(default=10.0, gt=0)
    """Longest wait for a connection or for the next byte."""
    deadline_seconds: float = Field(default=60.0, gt=0)
    """For one request, from the first byte sent to the last one received."""
    min_bytes_per_second: int = Field(default=500, ge=0)
    """On average, once `timeout_seconds` have passed."""
    max_bytes: int = Field(default=20 << 20, ge=1)
    """Of a body, as sent and as unpacked."""
    retries: int = Field(default=1, ge=0)
    """Of transient failures only."""

    connections_per_host: int = Field(default=8, ge=1)
    """Open at a time."""
    requests_per_second_per_host: float | None = Field(default=None, gt=0)
    """Null: 20 for a public host; a host on a private network, which is one's own, is asked as fast as it answers."""
    user_agent: str = Field(default="tinygptv-curation/0.1", pattern=r"^[!-~][ -~]*$")
    """Its part before the slash is the name that robots.txt and X-Robots-Tag may address."""
    contact: str | None = Field(default=None, pattern=r"^[!-~]+$")
    """A web page or mail address for site owners, sent with the user agent; $TINYGPTV_CONTACT if null."""
    robots: bool = True
    """Whether robots.txt is asked for and obeyed."""
    recheck_days: float = Field(default=0.0, ge=0)
    """A refresh asks whether a picture has changed once the last answer is this old."""


def _inheriting(table: Any, shared: Mapping[str, Any]) -> Any:
    """The content of a table with what it shares with the others; its own columns win, field by field."""
    if not isinstance(table, Mapping):
        return table
    merged = {**shared, **table}
    if isinstance(shared.get("columns"), Mapping) and isinstance(table.get("columns", {}), Mapping):
        own = {field: None for field in REQUIRED if table.get(f"{field}_column") is not None}
        columns = {**shared["columns"], **own, **table.get("columns", {})}
        merged["columns"] = {field: column for field, column in columns.items() if column is not None}
    return merged


class PairsSource(Definition):
    """URL+caption tables; curated by download and filter before any stage sees them."""

    kind: Literal["pairs"]
    about: str
    licence: str
    tables: list[Table] = Field(min_length=1)
    """Read in this order."""
    columns: Columns = Field(default_factory=dict, exclude_if=_is_unset)
    """Of every table that does not say otherwise; so is `carry`."""
    carry: Carry = Field(default_factory=list, exclude_if=_is_unset)
    """Of every table that does not say otherwise."""
    filter: str
    """The chain that decides what is kept: a file in `datasets/filters/`."""
    not_in: list[str] = Field(default_factory=list)
    """Other sources' published versions, as `source` (the current one) or `source@number`: a copy of what one of them
    holds, as the filter's `duplicates` define copies, is dropped."""
    allow_private: bool = False
    """Whether addresses in private networks may be fetched."""
    download: Download = Download()
    """How pictures are fetched and stored."""

    _columns_are_fields = field_validator("columns")(_check_columns)

    @model_validator(mode="before")
    @classmethod
    def _tables_inherit(cls, data: Any) -> Any:
        """`columns` and `carry` of the source, in each table that does not have its own."""
        if not isinstance(data, Mapping) or not isinstance(data.get("tables"), list):
            return data
        shared = {name: data[name] for name in ("columns", "carry") if data.get(name)}
        return {**data, "tables": [_inheriting(table, shared) for table in data["tables"]]}


class AnnotationsSource(Definition):
    """Annotation files beside a folder of images, in their original layout; `files` names each by its role."""

    kind: Literal["annotations"]
    about: str
    licence: str
    format: AnnotationFormat
    """The published layout of the files."""
    files: dict[str, Location] = Field(min_length=1)
    images: Location
    """The folder that image names are relative to."""
    split: str | None = None
    """Where a file holds several splits, the one that is read."""


Source = Annotated[PairsSource | AnnotationsSource, Field(discriminator="kind")]
