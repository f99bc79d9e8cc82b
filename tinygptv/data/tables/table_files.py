"""A table's location → the files behind it: one, those that `*` matches, or those of a folder and its subfolders."""

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
_MOST_NAMES = 5


class TableFile(NamedTuple):
    """One file of a table. `relative` is its name, with the folders below the table's location where it lies in some.

    `partitions` are the values that its folders name, as `language=en`.
    """

    path: str
    relative: str
    partitions: dict[str, str | None]

    @property
    def name(self) -> str:
        """What rows call their table: `relative` without its ending."""
        folder, slash, name = self.relative.rpartition("/")
        return folder + slash + stem_of(unpacked(name))


def expand(resolved: str) -> list[TableFile]:
    """The files behind one location, in order. Hidden files, checksums and job markers are not among them.

    A folder that holds Parquet files means these, a folder saved by Hugging Face `datasets` the files it lists, and any
    other its tables of text. Raises DataError if there is none, or if a folder holds several kinds.
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
    """What a pattern matches; of a folder, as Spark calls a table, its files."""
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
        raise DataError(f"{folder}: this folder holds several kinds of files: {listed}; say which, as `{folder}/*.tsv`")
    chosen = chosen or next(iter(kinds), None)
    if unread := others + [path for kind, paths in kinds.items() if kind != chosen for path in paths]:
        names = ", ".join(path.removeprefix(folder).strip("/") for path in unread[:_MOST_NAMES])
        more = f" and {len(unread) - _MOST_NAMES} more" if len(unread) > _MOST_NAMES else ""
        logger.warning("table %s: reading its %s; not read: %s%s", folder, chosen or "nothing", names, more)
    return kinds[chosen] if chosen else []


def _kind(name: str) -> str:
    """Empty for what is no table by its name."""
    suffix = suffix_of(name)
    is_table = suffix in KINDS and (bool(suffix) or any(map(str.isdigit, name)))
    return KINDS[suffix] if is_table else ""


def _is_hidden(name: str) -> bool:
    """Job markers, metadata and checksums; a partition's name may begin with an underscore."""
    return (name.startswith((".", "_")) and not _PARTITION.fullmatch(name)) or name.endswith(".crc")
