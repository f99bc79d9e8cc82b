"""A source: where pairs or annotated images come from, under which licence, in which published layout."""

from typing import Annotated, Literal

from pydantic import Field

from tinygptv.definitions.base import Definition, Location

TableFormat = Literal[
    "laion_parquet", "arrow", "cc_tsv", "sbu_json", "sbu_urls", "capfilt_json", "llava_json", "jsonl", "csv"
]
"""Layouts of URL+caption tables: Parquet as of LAION (URL, TEXT, …) and DataComp (uid, url, text, sha256, …), a folder
saved by Hugging Face `datasets` (Arrow), CC3M/CC12M TSV (caption TAB url or url TAB caption, no header), SBU JSON
({image_urls, captions}) or its older two lists of lines, BLIP CapFilt JSON ([{url, caption}]), LLaVA's chats, and JSONL
and CSV with named columns."""

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


class Table(Definition):
    """One file of URL+caption rows. `format: null` means: recognise it from name and content."""

    location: Location
    format: TableFormat | None = None
    url_column: str | None = None
    caption_column: str | None = None


class Download(Definition):
    """How images are fetched and stored. The shorter side is brought to `image_size` px; the aspect is kept.

    Image limits are applied to what a picture's header says, before anything is decoded; network limits on every hop of
    a redirect. What exceeds one is dropped and counted under its reason.
    """

    engine: Literal["native", "img2dataset"] = "native"
    processes: int = Field(default=1, ge=1)
    """Of img2dataset; the native engine uses every core with the threads of one."""
    threads: int = Field(default=16, ge=1)
    ray_workers: int | None = Field(default=None, ge=1)
    """Null: this machine fetches. Else so many shards are fetched at a time on the Ray cluster of $RAY_ADDRESS, or on
    one that is started here for the while."""
    samples_per_shard: int = Field(default=1000, ge=1)

    image_size: int = Field(default=448, ge=16)
    max_pixels: int = Field(default=64_000_000, ge=1)
    min_side: int = Field(default=16, ge=1)
    """Pixels; what is smaller is a spacer or a tracker."""
    max_aspect: float = Field(default=10.0, ge=1)
    """Longer side over shorter side."""
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    animated: Literal["first_frame", "refuse"] = "first_frame"

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


class PairsSource(Definition):
    """URL+caption tables; curated by download and filter before any stage sees them."""

    kind: Literal["pairs"]
    about: str
    licence: str
    tables: list[Table] = Field(min_length=1)
    filter: str
    not_in: list[str] = Field(default_factory=list)
    """Other sources' published versions, as `source` (the current one) or `source@number`: a copy of what one of them
    holds, as the filter's `duplicates` define copies, is dropped."""
    allow_private: bool = False
    download: Download = Download()


class AnnotationsSource(Definition):
    """Annotation files beside a folder of images, in their original layout; `files` names each by its role."""

    kind: Literal["annotations"]
    about: str
    licence: str
    format: AnnotationFormat
    files: dict[str, Location] = Field(min_length=1)
    images: Location
    split: str | None = None


Source = Annotated[PairsSource | AnnotationsSource, Field(discriminator="kind")]
