"""Names of table files: what they say of a file's layout, and of a source that is given by path."""

_PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
KINDS = {
    ".parquet": "Parquet",
    ".parq": "Parquet",
    ".arrow": "Arrow",
    ".feather": "Arrow",
    ".tsv": "tab-separated text",
    ".tab": "tab-separated text",
    ".csv": "CSV",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".json": "JSON",
    ".txt": "text",
    "": "files without an ending",
}
"""What a folder's files are by their endings; Hadoop's text parts (`part-00000`) have none."""


def is_table_reference(reference: str) -> bool:
    """Whether a source is given as the path of a table, of a folder or of several files rather than by its name."""
    is_definition = reference.endswith((".yaml", ".yml"))
    suffix = suffix_of(unpacked(reference))
    return not is_definition and ("/" in reference or "*" in reference or (bool(suffix) and suffix in KINDS))


def reference_name(reference: str) -> str:
    """A short name for a table given by path: `x/photos.tsv.gz` → `photos`, `x/parts/*.tsv` → `parts`."""
    parts = [part for part in reference.split("/") if part and "*" not in part]
    last = parts[-1] if parts else "tables"
    return stem_of(unpacked(last)) if suffix_of(unpacked(last)) in KINDS else last


def unpacked(name: str) -> str:
    """A name without the ending of a compression."""
    return next((name.removesuffix(ending) for ending in _PACKED if name.endswith(ending)), name)


def suffix_of(name: str) -> str:
    """The ending of a file's name, in lower case; empty if it has none."""
    dot = name.rpartition("/")[2].rfind(".")
    return name.rpartition("/")[2][dot:].lower() if dot > 0 else ""


def stem_of(name: str) -> str:
    """A name without its ending."""
    return name.removesuffix(name[len(name) - len(suffix_of(name)) :]) if suffix_of(name) else name
