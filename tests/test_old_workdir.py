"""A workdir that an earlier release left is recognised whole: nothing in it is made again.

`old_workdir.jsonl` holds every manifest of a finished `tinygptv_tiny` run, made by the release of 2026-11-28 before
modules moved into rooms, without its lists of files. To plan, a run reads these and the columns of the raw sidecar.
"""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tinygptv.data.shards.shards import SCHEMA, SIDECAR
from tinygptv.journey import Journey, open_journey
from tinygptv.runs.plan import plan

MANIFESTS = Path(__file__).parent / "old_workdir.jsonl"


@pytest.fixture
def old_run(tmp_path: Path) -> Journey:
    for row in map(json.loads, MANIFESTS.read_text().splitlines()):
        path = tmp_path / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row["content"]))
    journey = open_journey(run="first", recipe="tinygptv_tiny", source="shapes", hardware="cpu", workdir=str(tmp_path))
    raw = journey.find(journey.arrow("download", "shapes"))
    pq.write_table(SCHEMA.empty_table(), tmp_path / raw.artifact / SIDECAR)
    return journey


def test_every_arrow_of_an_old_run_is_recognised(old_run: Journey) -> None:
    again = {str(one.arrow): one.why for one in plan(old_run) if one.action != "reuse"}
    assert again == {}


def test_an_arrow_whose_manifest_is_gone_is_run_again(old_run: Journey) -> None:
    stage = old_run.find(old_run.arrow("train", "stage4"))
    (old_run.store.local_root / stage.artifact / "manifest.json").unlink()
    actions = {str(one.arrow): one.action for one in plan(open_journey(workdir=old_run.store.workdir))}
    assert (actions["train stage3"], actions["train stage4"]) == ("reuse", "run")
