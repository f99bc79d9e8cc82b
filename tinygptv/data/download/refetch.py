"""Pictures asked for once more, by the rules under which they came the first time."""

import os
import tempfile
from pathlib import Path
from typing import Any

from tinygptv.data.columns.urls import BASE_URL
from tinygptv.data.download.download import BASE_URL_VARIABLE
from tinygptv.data.fetch.fetching import Fetch
from tinygptv.data.fetch.guard import private_allowed
from tinygptv.data.fetch.results import Asked
from tinygptv.data.shards.shards import content_hash
from tinygptv.definitions.source import Download
from tinygptv.store.artifacts import Manifest, Store


def refetch(store: Store, manifest: Manifest, rows: list[dict[str, Any]]) -> dict[str, bytes]:
    """The pictures of sidecar rows that the web still gives as they were stored, by their hash.

    Limits, politeness and opt-outs are those of the download that `manifest` came from; without one nothing is asked.
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
        fetch.request([Asked(position, url) for position, url in enumerate(urls)])
        for results in fetch.shards():
            found |= {content_hash(result.jpeg): result.jpeg for result in results.values() if result.jpeg}
    return {digest: picture for digest, picture in found.items() if digest in {row["sha256"] for row in rows}}


def _download_of(store: Store, manifest: Manifest) -> dict[str, Any] | None:
    """The definition of the download that made an artifact, or that made what it was filtered from."""
    for made in (manifest, *map(store.find, manifest.parents)):
        if made is not None and "download" in made.definition:
            return made.definition
    return None
