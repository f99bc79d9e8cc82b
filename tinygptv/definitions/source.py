"""A source: where pairs or annotated images come from, under which licence, in which published layout."""

from typing import Annotated, Literal

from pydantic import Field

from tinygptv.definitions.base import Definition, Location

TableFormat = Literal["laion_parquet", "cc_tsv", "sbu_json", "capfilt_json", "llava_json", "jsonl", "csv"]
"""Layouts of URL+caption tables: LAION parquet (URL, TEXT, …), CC3M/CC12M TSV (caption TAB url or url TAB caption, no
header), SBU JSON ({image_urls, captions}), BLIP CapFilt JSON ([{url, caption}]), JSONL and CSV with named columns."""

AnnotationFormat = Literal[
    "cc_sbu_align", "llava_conversation", "vqav2", "aokvqa", "refcoco", "invrefcoco", "vsr", "coco_caption"
]
"""Layouts of annotation files, named after the dataset that published them."""


class Table(Definition):
    """One file of URL+caption rows. `format: null` means: recognise it from name and content."""

    location: Location
    format: TableFormat | None = None
    url_column: str | None = None
    caption_column: str | None = None


class Download(Definition):
    """How images are fetched and stored. The shorter side is brought to `image_size` px; the aspect is kept."""

    engine: Literal["img2dataset"] = "img2dataset"
    image_size: int = Field(default=448, ge=16)
    processes: int = Field(default=1, ge=1)
    threads: int = Field(default=16, ge=1)
    timeout_seconds: int = Field(default=10, ge=1)
    retries: int = Field(default=1, ge=0)
    samples_per_shard: int = Field(default=1000, ge=1)
    user_agent: str = "tinygptv-curation"


class PairsSource(Definition):
    """URL+caption tables; curated by download and filter before any stage sees them."""

    kind: Literal["pairs"]
    about: str
    licence: str
    tables: list[Table] = Field(min_length=1)
    filter: str
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
