"""Exposure to a sample: the stages and steps that drew it, and what was made from them."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from tests.data.raw import build_raw, pixels
from tinygptv import catalog
from tinygptv.data.forget.tombstones import Tombstone, add_tombstone, tombstone
from tinygptv.data.mixtures.mixing import MixedSamples, mix
from tinygptv.data.mixtures.sampling_order import order_seed
from tinygptv.data.shards.shards import content_hash
from tinygptv.runs.exposure import Exposure, annotated_copies, traces
from tinygptv.store.artifacts import Manifest, Outcome, Store
from tinygptv.train.job import Job

BATCH, SEED = 4, 7
ROWS = {f"{number:02d}": {"caption": f"picture {number}"} for number in range(30)}
WANTED = [tombstone("caption", "picture (3|17)$", "test")]


@pytest.fixture
def mixture(store: Store) -> Manifest:
    build_raw(store, "raw/web@1", ROWS)
    return mix(store, "tiny_pairs", build_raw(store, "filtered/web-all@1", ROWS, ["raw/web@1"]))


def rows_of(steps: int, known: dict[int, int] | None = None) -> str:
    """A metrics file of ranks that knew `known[step]` tombstones from that step on."""
    rows, knows = [], 0
    for step in range(steps):
        knows = (known or {}).get(step, knows)
        rows.append({"step": step + 1, "loss": 1.0, "lr": 0.1, "tombstones": knows})
    return "".join(json.dumps(row) + "\n" for row in rows)


def train(store: Store, name: str, parents: list[str], metrics: str, details: dict[str, str] | None = None) -> Manifest:
    def build(folder: Path) -> Outcome:
        (folder / "metrics.jsonl").write_text(metrics)
        return Outcome(details=details or {})

    stage = name.partition("@")[0]
    definition = {"stage": {"stage": stage, "global_batch_size": BATCH}, "seed": SEED}
    return store.make(f"runs/first/{name}", f"train {stage}", definition, parents, build)


def make(store: Store, name: str, made_by: str, parent: Manifest) -> Manifest:
    return store.make(f"runs/first/{name}", made_by, {}, [parent.artifact], lambda _: Outcome())


def drawn(store: Store, mixture: Manifest, stage: str, steps: range, known: int = 0) -> list[tuple[int, str]]:
    """(step from 1, key) of every draw of one of the two wanted samples."""
    mixed = MixedSamples(store, mixture.artifact, known)
    shown = []
    for step in steps:
        keys = [sample.key for sample in mixed.samples(mixed.order(order_seed(SEED, stage), BATCH).draw(step))]
        shown += [(step + 1, key) for key in keys if key in ("03", "17")]
    return shown


def test_versions_and_mixtures_that_hold_it_are_listed_with_counts(store: Store, mixture: Manifest) -> None:
    held = {holder.artifact: holder.samples for holder in traces(store, WANTED).holders}
    assert held == {"raw/web@1": 2, "filtered/web-all@1": 2, mixture.artifact: 2}
    assert traces(store, [tombstone("domain", "elsewhere.net", "test")]).holders == []


@pytest.mark.parametrize("steps", [3, 8, 40])
def test_a_stage_saw_it_exactly_when_it_was_drawn(store: Store, mixture: Manifest, steps: int) -> None:
    stage = train(store, "stage1@1", [mixture.artifact], rows_of(steps))
    expected = drawn(store, mixture, "stage1", range(steps))
    found = [one for one in traces(store, WANTED).exposures if one.artifact == stage.artifact]
    if expected:
        samples = len({key for _, key in expected})
        assert found == [Exposure(stage.artifact, samples, len(expected), expected[0][0], steps)]
    else:
        assert found == []


def test_short_stages_have_not_seen_it_and_long_ones_have(store: Store, mixture: Manifest) -> None:
    """Guards the test above, which could otherwise pass trivially."""
    first = drawn(store, mixture, "stage1", range(40))[0][0]
    assert 1 < first < 40
    short = train(store, "stage1@1", [mixture.artifact], rows_of(first - 1))
    long = train(store, "stage1@2", [mixture.artifact], rows_of(first))
    seen = {one.artifact for one in traces(store, WANTED).exposures}
    assert long.artifact in seen and short.artifact not in seen


def test_what_was_made_from_a_stage_that_saw_it_is_listed_and_nothing_else(store: Store, mixture: Manifest) -> None:
    stage = train(store, "stage1@1", [mixture.artifact], rows_of(40))
    other = train(store, "stage1@2", [mixture.artifact], rows_of(1))
    later = train(store, "stage2@1", ["mixtures/gone@1", stage.artifact], rows_of(9))
    export = make(store, "export@1", "export", later)
    int8 = make(store, "int8@1", "quantize", export)
    make(store, "scores-int8-x@1", "evaluate", int8)
    make(store, "export@2", "export", other)
    seen, *made = traces(store, WANTED).exposures
    assert seen.artifact == stage.artifact and seen.through is None
    assert [(one.artifact, one.through) for one in made] == [
        (one.artifact, stage.artifact) for one in (later, export, int8)
    ]


def test_steps_whose_ranks_knew_the_request_did_not_see_it(store: Store, mixture: Manifest) -> None:
    add_tombstone(store, Tombstone.model_validate(WANTED[0].model_dump()))
    metrics = rows_of(40, {10: 1})
    stage = train(store, "stage1@1", [mixture.artifact], metrics)
    expected = drawn(store, mixture, "stage1", range(10))
    (found,) = traces(store, WANTED).exposures
    assert (found.artifact, found.times) == (stage.artifact, len(expected))
    assert drawn(store, mixture, "stage1", range(10, 40), known=1) == []


def test_batches_skipped_by_a_roll_back_are_not_counted_and_their_replacements_are(
    store: Store, mixture: Manifest
) -> None:
    rows = [json.loads(line) for line in rows_of(40).splitlines()]
    for row in rows:
        row["batch"] = row["step"] + (7 if row["step"] > 10 else 0)
    stage = train(store, "stage1@1", [mixture.artifact], "".join(json.dumps(row) + "\n" for row in rows))
    expected = drawn(store, mixture, "stage1", range(10)) + drawn(store, mixture, "stage1", range(17, 47))
    (found,) = traces(store, WANTED).exposures
    assert (found.artifact, found.times) == (stage.artifact, len(expected))
    assert len(expected) != len(drawn(store, mixture, "stage1", range(40)))


def write_unfinished(store: Store, mixture: Manifest, steps: int, checkpoints: list[int]) -> None:
    """A stage that was interrupted while writing the last line of its metrics."""
    draft, recipe = store.draft("runs/first/stage1@1"), catalog.recipe("tinygptv_tiny")
    job = Job(
        stage=recipe.stages[0].model_copy(update={"global_batch_size": BATCH}),
        model=recipe.model,
        lora=None,
        seed=SEED,
        hardware=catalog.hardware("cpu"),
        workdir=store.workdir,
        mixture=mixture.artifact,
        previous=None,
        inherits=[],
    )
    for step in checkpoints:
        (draft / "checkpoints" / f"step{step:06d}").mkdir(parents=True)
    (draft / "job.json").write_text(job.model_dump_json())
    (draft / "metrics.jsonl").write_text(rows_of(steps) + '{"step": 4')


def test_annotated_images_are_found_by_their_content_hash(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("sources", "mixtures", "pictures"):
        (tmp_path / "own" / folder).mkdir(parents=True)
    monkeypatch.setenv(catalog.OWN_DEFINITIONS, str(tmp_path / "own"))
    monkeypatch.setenv("TINYGPTV_DATA", str(tmp_path / "own"))
    for name, seed in (("a", "same"), ("b", "other"), ("c", "same")):
        (tmp_path / "own" / "pictures" / f"{name}.jpg").write_bytes(pixels(seed))
    records = [{"image_id": name, "caption": "a picture"} for name in "abc"]
    (tmp_path / "own" / "cap.json").write_text(json.dumps({"annotations": records}))
    source = {"kind": "annotations", "about": "test", "licence": "none", "format": "cc_sbu_align"}
    source |= {"files": {"annotations": "data:cap.json"}, "images": "data:pictures"}
    (tmp_path / "own" / "sources" / "align.yaml").write_text(yaml.safe_dump(source))
    blend = {"about": "t", "draw": "per_sample", "components": [{"source": "align", "task": "describe", "weight": 1.0}]}
    (tmp_path / "own" / "mixtures" / "blend.yaml").write_text(yaml.safe_dump(blend))
    mix(store, "blend", None)
    found = annotated_copies(store, content_hash(pixels("same")))
    assert found == ["data:pictures/a.jpg", "data:pictures/c.jpg"]
    wanted = [tombstone("image", place, "test") for place in found]
    assert [holder.samples for holder in traces(store, wanted).holders] == [2]


def test_unfinished_artifacts_of_other_machines_on_s3_are_listed(
    s3_workdir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(s3_workdir)
    build_raw(store, "raw/web@1", ROWS)
    mix(store, "tiny_pairs", build_raw(store, "filtered/web-all@1", ROWS, ["raw/web@1"]))
    with store.exclusive("runs/first/stage1@1", "making it"):
        assert traces(store, WANTED).elsewhere == []
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(nodename="another"))
    (line,) = traces(store, WANTED).elsewhere
    assert line.startswith("runs/first/stage1@1: unfinished on ")
    assert traces(store, [tombstone("url", "http://nobody/has.jpg", "test")]).elsewhere == []


def test_an_unfinished_stage_is_judged_by_its_steps_so_far_and_names_its_checkpoints(
    store: Store, mixture: Manifest
) -> None:
    first = drawn(store, mixture, "stage1", range(40))[0][0]
    write_unfinished(store, mixture, 40, [first - 1, first, 40])
    (found,) = traces(store, WANTED).exposures
    assert (found.artifact, found.first_step, found.unfinished) == ("runs/first/stage1@1", first, True)
    assert found.checkpoints == (f"step{first:06d}", "step000040")
    assert "ranks that are running ignore the request until restarted" in str(found)


def test_a_stage_that_left_samples_out_did_not_see_them(store: Store, mixture: Manifest) -> None:
    def build(folder: Path) -> Outcome:
        np.save(folder / "left_out.npy", np.array([3]))
        return Outcome()

    usable = store.make("usable/tiny_pairs@1", "check", {}, [mixture.artifact], build)
    made = train(store, "stage1@1", [mixture.artifact], rows_of(20), {"usable": usable.artifact})
    (seen,) = traces(store, WANTED).exposures
    assert (seen.artifact, seen.samples) == (made.artifact, 1)
