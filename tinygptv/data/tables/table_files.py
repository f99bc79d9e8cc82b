"""A table's location → its files: a single file, those matching `*`, or those in a folder and its subfolders."""

import json
import logging
import re
from collections import defaultdict
from typing import Any, NamedTuple
from urllib.parse import unquote

import fsspec

from tinygptv.definitions.table_names import KINDS, stem_of, suffix_of, unpacked
from tinygptv.errors import DataError

logger = logging.getLogger(__name__)

_ARROW_STATE = "state.json"
_ORDER = ("Parquet", "Arrow")
_PARTITION = re.compile(r"([^/=]+)=([^/]*)")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_MAX_NAMES = 5


class TableFile(NamedTuple):
    """One file of a table. `relative` is its path below the table's location.

    `partitions` are the values in its folder names, such as `language=en`.
    """

    path: str
    relative: str
    partitions: dict[str, str | None]

    @property
    def name(self) -> str:
        """The table name in rows: `relative` without its extension."""
        folder, slash, name = self.relative.rpartition("/")
        return folder + slash + stem_of(unpacked(name))


def expand(resolved: str) -> list[TableFile]:
    """The files behind a location, in order, without hidden files, checksums and job markers.

    In a folder, Parquet files take precedence, then Arrow, then text; a folder saved by Hugging Face `datasets` lists
    its files. Raises DataError if there is none, or if a folder holds several kinds of text tables.
    """
    filesystem, path = fsspec.url_to_fs(resolved)
    path = path.rstrip("/") or path
    if filesystem.isfile(path):
        root, found = path.rpartition("/")[0], [path]
    elif "*" in path:
        root, found = path.partition("*")[0].rpartition("/")[0], _matching(filesystem, path)
    elif filesystem.isdir(path):
        root, found = path, _in_folder(filesystem, path)
    else:
        root, found = path, []
    if not found:
        raise DataError(f"{resolved}: no such table; put the file there or correct the location")
    return [_file(filesystem, root, each, "://" in resolved) for each in found]


def _file(filesystem: Any, root: str, path: str, is_url: bool) -> TableFile:
    relative = path.removeprefix(root).lstrip("/")
    folders = path.rpartition("/")[0].split("/")
    named = [found for folder in folders if (found := _PARTITION.fullmatch(folder))]
    partitions = {unquote(one[1]): None if one[2] == _NO_VALUE else unquote(one[2]) for one in named}
    return TableFile(str(filesystem.unstrip_protocol(path)) if is_url else path, relative, partitions)


def _matching(filesystem: Any, pattern: str) -> list[str]:
    """The files matching a pattern, including those inside matching folders, which Spark writes as tables."""
    takes_hidden = pattern.rpartition("/")[2].startswith(("_", "."))
    files: list[str] = []
    for path, info in sorted(filesystem.glob(pattern, detail=True).items()):
        if not takes_hidden and _is_hidden(path.rpartition("/")[2]):
            continue
        files += _in_folder(filesystem, path) if info["type"] == "directory" else [path]
    return files


def _in_folder(filesystem: Any, folder: str) -> list[str]:
    if filesystem.isfile(f"{folder}/{_ARROW_STATE}"):
        parts = json.loads(filesystem.cat_file(f"{folder}/{_ARROW_STATE}"))["_data_files"]
        return [f"{folder}/{part['filename']}" for part in parts]
    kinds: dict[str, list[str]] = defaultdict(list)
    for path in sorted(filesystem.find(folder)):
        parts = path.removeprefix(folder).strip("/").split("/")
        if not any(map(_is_hidden, parts)):
            kinds[_kind(unpacked(parts[-1]))].append(path)
    others = kinds.pop("", [])
    chosen = next((kind for kind in _ORDER if kind in kinds), None)
    if chosen is None and len(kinds) > 1:
        listed = ", ".join(f"{len(paths)} of {kind}" for kind, paths in sorted(kinds.items()))
        raise DataError(f"{folder}: several kinds of files ({listed}); choose one, as `{folder}/*.tsv`")
    chosen = chosen or next(iter(kinds), None)
    if unread := others + [path for kind, paths in kinds.items() if kind != chosen for path in paths]:
        names = ", ".join(path.removeprefix(folder).strip("/") for path in unread[:_MAX_NAMES])
        more = f" and {len(unread) - _MAX_NAMES} more" if len(unread) > _MAX_NAMES else ""
        logger.warning("table %s: reading its %s; not read: %s%s", folder, chosen or "nothing", names, more)
    return kinds[chosen] if chosen else []


def _kind(name: str) -> str:
    """The kind of table by file name; empty if it is not a table."""
    suffix = suffix_of(name)
    is_table = suffix in KINDS and (bool(suffix) or any(map(str.isdigit, name)))
    return KINDS[suffix] if is_table else ""


def _is_hidden(name: str) -> bool:
    """Job markers, metadata and checksums; a partition folder may begin with an underscore."""
    return (name.startswith((".", "_")) and not _PARTITION.fullmatch(name)) or name.endswith(".crc")
