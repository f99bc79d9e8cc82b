"""Names of table files: the layout they imply, and sources given by path."""

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
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
    "": "files without a suffix",
}
"""File suffix → kind of table; Hadoop's text parts (`part-00000`) have no suffix."""


def is_table_reference(reference: str) -> bool:
    """Whether a source is given by path (a table, a folder or a pattern) rather than by name."""
    is_definition = reference.endswith((".yaml", ".yml"))
    suffix = suffix_of(unpacked(reference))
    return not is_definition and ("/" in reference or "*" in reference or (bool(suffix) and suffix in KINDS))


def reference_name(reference: str) -> str:
    """A short name for a table given by path: `x/photos.tsv.gz` → `photos`, `x/parts/*.tsv` → `parts`."""
    parts = [part for part in reference.split("/") if part and "*" not in part]
    last = parts[-1] if parts else "tables"
    return stem_of(unpacked(last)) if suffix_of(unpacked(last)) in KINDS else last


def unpacked(name: str) -> str:
    """A file name without its compression suffix."""
    return next((name.removesuffix(suffix) for suffix in _COMPRESSED if name.endswith(suffix)), name)


def suffix_of(name: str) -> str:
    """The suffix of a file name, in lower case; empty if it has none."""
    dot = name.rpartition("/")[2].rfind(".")
    return name.rpartition("/")[2][dot:].lower() if dot > 0 else ""


def stem_of(name: str) -> str:
    """A file name without its suffix."""
    return name.removesuffix(name[len(name) - len(suffix_of(name)) :]) if suffix_of(name) else name
