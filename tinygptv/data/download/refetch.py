"""Fetch pictures again under the settings of the original download."""

import os
import tempfile
from pathlib import Path
from typing import Any

from tinygptv.data.columns.urls import BASE_URL
from tinygptv.data.download.download import BASE_URL_VARIABLE
from tinygptv.data.fetch.fetching import Fetch
from tinygptv.data.fetch.guard import private_allowed
from tinygptv.data.fetch.results import FetchRequest
from tinygptv.data.shards.shards import content_hash
from tinygptv.definitions.source import Download
from tinygptv.store.artifacts import Manifest, Store


def refetch(store: Store, manifest: Manifest, rows: list[dict[str, Any]]) -> dict[str, bytes]:
    """Fetch sidecar rows again; returns the pictures that are byte-identical to what was stored, by hash.

    Limits, politeness and opt-outs are those of the download behind `manifest`; without one, nothing is requested.
    Raises LaunchError if the engine fails.
    """
    definition = _download_of(store, manifest)
    base_url = os.environ.get(BASE_URL_VARIABLE, "").rstrip("/")
    urls = [
        row["url"].replace(BASE_URL, base_url, 1) for row in rows if base_url or not row["url"].startswith(BASE_URL)
    ]
    if definition is None or not urls:
        return {}
    download = Download.model_validate(definition["download"])
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        fetch = Fetch(Path(folder), download, private_allowed(definition["allow_private"]))
        fetch.request([FetchRequest(position, url) for position, url in enumerate(urls)])
        for results in fetch.shards():
            found |= {content_hash(result.jpeg): result.jpeg for result in results.values() if result.jpeg}
    return {digest: picture for digest, picture in found.items() if digest in {row["sha256"] for row in rows}}


def _download_of(store: Store, manifest: Manifest) -> dict[str, Any] | None:
    """The definition of the download that made an artifact or the artifact it was filtered from."""
    for made in (manifest, *map(store.find, manifest.parents)):
        if made is not None and "download" in made.definition:
            return made.definition
    return None
