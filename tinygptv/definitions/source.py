"""A source of pairs or annotated images: its location, licence and published layout."""

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
"""Row field → column names used by published tables, in lower case; the first one found is used."""

REQUIRED = ("url", "caption")
NONE = "none"
"""Value of a table's `quote`, `escape` or `compression`: the table has none."""

Compression = Literal["none", "gzip", "bz2", "xz", "zstd", "lz4"]

TableFormat = Literal[
    "laion_parquet", "arrow", "cc_tsv", "sbu_json", "sbu_urls", "capfilt_json", "llava_json", "jsonl", "csv"
]
"""Layouts of URL+caption tables: Parquet as of LAION (URL, TEXT, …) and DataComp (uid, url, text, sha256, …), a folder
saved by Hugging Face `datasets` (Arrow), tab-separated text (CC3M/CC12M without a header, WIT with one), SBU JSON
({image_urls, captions}) or its older two text files, BLIP CapFilt JSON ([{url, caption}]), LLaVA's conversations,
JSONL, and CSV."""

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
    """Unset options are left out of the dumped definition, so that adding an option changes no hash."""
    return value is None or value in ({}, [])


Columns = dict[str, str | int]
Carry = list[str] | Literal["all"]


def _check_columns(columns: Columns) -> Columns:
    for field in columns:
        if field not in COLUMN_NAMES:
            raise ValueError(
                f"'{field}' is not a field of a row. {did_you_mean(field, COLUMN_NAMES)} "
                "To keep another column under its own name, list it in `carry`"
            )
    return columns


class Table(Definition):
    """A file of URL+caption rows, several (`*`), or a folder of them. Null fields are detected from the content."""

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
    """Further columns to copy into sidecar and shards, or `all` for every column not read as a field."""
    compression: Compression | None = Field(default=None, exclude_if=_is_unset)
    """Of the file."""
    encoding: str | None = Field(default=None, exclude_if=_is_unset)
    """Text encoding: a name that Python knows, such as `cp1252`. Null: byte order mark, else UTF-8."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1, exclude_if=_is_unset)
    """The character between fields."""
    quote: str | None = Field(default=None, pattern=r"^(none|.)$", exclude_if=_is_unset)
    """The character around fields, or `none`."""
    escape: str | None = Field(default=None, pattern=r"^(none|.)$", exclude_if=_is_unset)
    """The character that escapes a quote; without one, quotes are doubled."""
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
                f"unknown encoding '{encoding}'; use a name that Python knows, such as utf-8, utf-16, cp1252 or latin-1"
            ) from None
        return encoding

    @model_validator(mode="after")
    def _each_field_is_declared_once(self) -> Self:
        for field in REQUIRED:
            if field in self.columns and getattr(self, f"{field}_column") is not None:
                raise ValueError(f"`{field}_column` and `columns: {{{field}: …}}` declare the same field; keep one")
        return self

    @property
    def declared_columns(self) -> Columns:
        """Row field → column: `columns`, with `url_column` and `caption_column` as fallbacks."""
        older = {"url": self.url_column, "caption": self.caption_column}
        return {field: column for field, column in older.items() if column is not None} | self.columns


class Download(Definition):
    """How images are fetched and stored. The shorter side is resized to `image_size` px, keeping the aspect ratio.

    Image limits are checked against the image header before decoding, network limits on every redirect. A row that
    exceeds a limit is dropped and counted by reason.
    """

    engine: Literal["native", "img2dataset"] = "native"
    """What fetches; the guards are the same."""
    processes: int = Field(default=1, ge=1)
    """Processes of img2dataset; the native engine uses every core from one process."""
    threads: int = Field(default=64, ge=1)
    """Images in progress at a time, from request to storage."""
    ray_workers: int | None = Field(default=None, ge=1)
    """Null: fetch on this machine. Otherwise the number of shards fetched at a time on the Ray cluster at $RAY_ADDRESS,
    or on a temporary local one."""
    samples_per_shard: int = Field(default=1000, ge=1)
    """Rows of the tables that one shard is made of."""

    image_size: int = Field(default=448, ge=16)
    max_pixels: int = Field(default=64_000_000, ge=1)
    """Width times height; more is refused from the header, unread."""
    min_side: int = Field(default=16, ge=1)
    """Px. Smaller images are spacers or tracking pixels."""
    max_aspect: float = Field(default=10.0, ge=1)
    """Longer side over shorter side."""
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    """Of pictures that have to be encoded again."""
    animated: Literal["first_frame", "refuse"] = "first_frame"
    """What is stored of an animation."""

    timeout_seconds: float = Field(default=10.0, gt=0)
    """Maximum wait for a connection or for the next byte."""
    deadline_seconds: float = Field(default=60.0, gt=0)
    """Maximum duration of one request, from the first byte sent to the last one received."""
    min_bytes_per_second: int = Field(default=500, ge=0)
    """Minimum average speed, once `timeout_seconds` have passed."""
    max_bytes: int = Field(default=20 << 20, ge=1)
    """Maximum size of a response body, both compressed and decompressed."""
    retries: int = Field(default=1, ge=0)
    """For transient failures only."""

    connections_per_host: int = Field(default=8, ge=1)
    """Open at a time."""
    requests_per_second_per_host: float | None = Field(default=None, gt=0)
    """Null: 20 for public hosts, unlimited for hosts on a private network."""
    user_agent: str = Field(default="tinygptv-curation/0.1", pattern=r"^[!-~][ -~]*$")
    """The part before the slash is the name matched by robots.txt and X-Robots-Tag."""
    contact: str | None = Field(default=None, pattern=r"^[!-~]+$")
    """A web page or mail address for site owners, sent with the user agent; $TINYGPTV_CONTACT if null."""
    robots: bool = True
    """Whether to fetch and obey robots.txt."""
    recheck_days: float = Field(default=0.0, ge=0)
    """A refresh re-checks an image once its last response is this many days old."""


def _inheriting(table: Any, shared: Mapping[str, Any]) -> Any:
    """Merge a source's shared options into one table; the table's own columns win, field by field."""
    if not isinstance(table, Mapping):
        return table
    merged = {**shared, **table}
    if isinstance(shared.get("columns"), Mapping) and isinstance(table.get("columns", {}), Mapping):
        own = {field: None for field in REQUIRED if table.get(f"{field}_column") is not None}
        columns = {**shared["columns"], **own, **table.get("columns", {})}
        merged["columns"] = {field: column for field, column in columns.items() if column is not None}
    return merged


class PairsSource(Definition):
    """URL+caption tables, downloaded and filtered before training."""

    kind: Literal["pairs"]
    about: str
    licence: str
    tables: list[Table] = Field(min_length=1)
    """Read in this order."""
    columns: Columns = Field(default_factory=dict, exclude_if=_is_unset)
    """Default for every table, like `carry`."""
    carry: Carry = Field(default_factory=list, exclude_if=_is_unset)
    """Of every table that does not say otherwise."""
    filter: str
    """The chain that decides what is kept: a file in `datasets/filters/`."""
    not_in: list[str] = Field(default_factory=list)
    """Published versions of other sources, as `source` (the current one) or `source@number`. Rows that duplicate their
    samples, as defined by the filter's `duplicates`, are dropped."""
    allow_private: bool = False
    """Whether addresses in private networks may be fetched."""
    download: Download = Download()
    """How pictures are fetched and stored."""

    _columns_are_fields = field_validator("columns")(_check_columns)

    @model_validator(mode="before")
    @classmethod
    def _tables_inherit(cls, data: Any) -> Any:
        """Copy the source's `columns` and `carry` to every table without its own."""
        if not isinstance(data, Mapping) or not isinstance(data.get("tables"), list):
            return data
        shared = {name: data[name] for name in ("columns", "carry") if data.get(name)}
        return {**data, "tables": [_inheriting(table, shared) for table in data["tables"]]}


class AnnotationsSource(Definition):
    """Annotation files and a folder of images, in their original layout; `files` maps roles to locations."""

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
