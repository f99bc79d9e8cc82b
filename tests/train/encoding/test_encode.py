"""Features computed before training: the same to the bit, found again, refused when they are of something else."""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from tests.train.small import mix_pairs, small_recipe, small_run, write_backbones
from tinygptv.catalog import ResolvedRun
from tinygptv.data.batches.features import Features
from tinygptv.data.forget.tombstones import add_tombstone, tombstone
from tinygptv.data.mixtures.mixing import MixedSamples
from tinygptv.data.upkeep.verify import verify
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.recipe import Recipe
from tinygptv.errors import DataError, DefinitionError, HandoffError, LaunchError
from tinygptv.store.artifacts import Manifest, Store
from tinygptv.train.batches import open_loader
from tinygptv.train.encoding import encode as encoding
from tinygptv.train.encoding import encoder
from tinygptv.train.encoding.encode import encode, encode_part
from tinygptv.train.engine import build_model
from tinygptv.train.job import Job
from tinygptv.train.launch.torchrun import RecordingLauncher
from tinygptv.train.stage import adapters, train_stage

CACHED = Hardware(
    about="one",
    device="cpu",
    ranks=1,
    threads_per_rank=1,
    micro_batch_size=5,
    precision="fp32",
    zero_stage=2,
    features="cached",
)
LIVE = CACHED.model_copy(update={"features": "live"})


class Here:
    """An executor that does everything at once and in this process."""

    def __init__(self, *_: object) -> None:
        self.submitted: list[tuple[Any, ...]] = []

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to wait for."""

    def submit(self, work: Callable[..., None], *arguments: Any) -> "Future[None]":
        future: Future[None] = Future()
        try:
            work(*arguments)
            future.set_result(None)
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, cancel_futures: bool) -> None:
        """Nothing is left to cancel."""


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(encoding, "ProcessPoolExecutor", Here)
    yield
    encoder._encoder.cache_clear()


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    recipe = small_recipe(tmp_path)
    write_backbones(tmp_path, recipe)
    return recipe


@pytest.fixture
def run(recipe: Recipe) -> ResolvedRun:
    return small_run(recipe, CACHED)


@pytest.fixture
def mixture(store: Store) -> Manifest:
    return mix_pairs(store)


def job(store: Store, run: ResolvedRun, mixture: Manifest, features: Manifest | None) -> Job:
    stage = run.recipe.stages[0]
    return Job(
        stage=stage,
        model=run.recipe.model,
        lora=adapters(run.recipe, stage),
        seed=run.recipe.seed,
        hardware=CACHED if features else LIVE,
        workdir=store.workdir,
        mixture=mixture.artifact,
        previous=None,
        inherits=[],
        features=features.artifact if features else None,
    )


def reader(store: Store, features: Manifest) -> Features:
    return Features(store, features.artifact)


def losses_and_gradients(job: Job) -> list[Tensor]:
    """Of two batches whose parts have other sizes than those in which features were computed."""
    model = build_model(job)
    batches = open_loader(job, model.num_image_tokens)
    found = []
    for step in (0, 3):
        for batch in batches.micro_batches(step, 0, 1, 3):
            torch.manual_seed(step)  # for the dropout of what is trained
            loss, logits = model(batch.images(), batch.input_ids, batch.attention_mask, batch.labels)
            loss.backward()
            found += [loss.detach(), logits.detach()]
    return [*found, *(one.grad for one in model.parameters() if one.grad is not None)]


@pytest.mark.usefixtures("in_this_process")
def test_losses_and_gradients_are_the_same_to_the_bit(store: Store, run: ResolvedRun, mixture: Manifest) -> None:
    features = encode(store, run, "stage1", mixture, None)
    live, cached = (losses_and_gradients(job(store, run, mixture, given)) for given in (None, features))
    assert len(live) > 10
    assert all(torch.equal(one, other) for one, other in zip(live, cached, strict=True))


@pytest.mark.usefixtures("in_this_process")
def test_with_features_the_frozen_parts_are_not_even_loaded(store: Store, run: ResolvedRun, mixture: Manifest) -> None:
    features = encode(store, run, "stage1", mixture, None)
    model = build_model(job(store, run, mixture, features))
    names = {name for name, _ in model.named_parameters()}
    assert not any(name.startswith(("vision_encoder.", "connector.0.")) for name in names)
    assert {name for name in names if name.startswith("connector.")} == {
        f"connector.{part}.{kind}" for part in (1, 2) for kind in ("weight", "bias")
    }
    assert not any(parameter.is_meta for parameter in model.parameters())


@pytest.mark.usefixtures("in_this_process")
def test_two_stages_of_the_same_images_share_their_features(store: Store, run: ResolvedRun, mixture: Manifest) -> None:
    first = encode(store, run, "stage1", mixture, None)
    assert encode(store, run, "stage2", mixture, None) == first
    assert (first.rows_in, first.rows_out, first.details["pieces"]) == (24, 24, 1)
    assert (first.parents, first.details["shape"]) == ([mixture.artifact], [4, 32])


def test_processes_share_the_pieces(store: Store, run: ResolvedRun, mixture: Manifest) -> None:
    two = dataclasses.replace(run, hardware=CACHED.model_copy(update={"ranks": 2}))
    lines: list[str] = []
    made = encode(store, two, "stage1", mixture, None, lines.append)
    assert lines == ["encode: 1 of 1 pieces"]
    assert (made.rows_out, set(made.files)) == (24, {"index.parquet", "00000.safetensors"})


@pytest.mark.usefixtures("in_this_process")
def test_parts_done_elsewhere_are_found_and_not_repeated(
    store: Store, run: ResolvedRun, mixture: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinygptv.data.batches.features.FILES_PER_PIECE", 5)
    pieces: list[str] = []
    write = encoder.encode_piece

    def writing(job: str, path: Path, images: pa.Table) -> None:
        pieces.append(path.name)
        write(job, path, images)

    monkeypatch.setattr(encoder, "encode_piece", writing)
    for part in (1, 2):
        encode_part(store, run, "stage1", mixture, None, part, 3, lambda _: None)
    assert pieces == ["00000.safetensors"]
    made = encode(store, run, "stage1", mixture, None)
    assert len(pieces) == made.details["pieces"]


@pytest.mark.usefixtures("in_this_process")
def test_features_of_other_weights_are_refused_with_what_differs(
    store: Store, run: ResolvedRun, mixture: Manifest, tmp_path: Path
) -> None:
    features = encode(store, run, "stage1", mixture, None)
    (tmp_path / "qformer.safetensors").write_bytes((tmp_path / "qformer.safetensors").read_bytes() + b" ")
    with pytest.raises(HandoffError, match=r"weights.connector.0: \w+ → \w+\. Run `encode` again"):
        train_stage(store, run, "mine", "stage1", mixture, None, RecordingLauncher(lambda _: None), features=features)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"hardware": CACHED.model_copy(update={"precision": "bf16"})}, "precision: fp32 → bf16"),
        ({"image_size": 64}, "transform.image_size: 48 → 64"),
    ],
)
def test_features_of_another_transform_or_precision_are_refused(
    change: dict[str, Any], field: str, store: Store, run: ResolvedRun, mixture: Manifest
) -> None:
    features = encode(store, run, "stage1", mixture, None)
    if size := change.pop("image_size", None):
        content = run.recipe.model_dump()
        content["stages"][0]["inputs"]["image_size"] = size
        change = {"recipe": Recipe.model_validate(content)}
    other = dataclasses.replace(run, **change)
    with pytest.raises(HandoffError, match=field):
        train_stage(store, other, "mine", "stage1", mixture, None, RecordingLauncher(lambda _: None), features=features)


def test_a_profile_that_wants_features_is_not_trained_without(
    store: Store, run: ResolvedRun, mixture: Manifest
) -> None:
    with pytest.raises(HandoffError, match="no features were given; run `encode`"):
        train_stage(store, run, "mine", "stage1", mixture, None, RecordingLauncher(lambda _: None))


def training_too(run: ResolvedRun, part: str) -> ResolvedRun:
    """The run, whose first stage also trains `part`."""
    content = run.recipe.model_dump()
    content["stages"][0]["trains"].append(part)
    return dataclasses.replace(run, recipe=Recipe.model_validate(content))


@pytest.mark.usefixtures("in_this_process")
def test_the_features_of_a_stage_that_trains_the_qformer_are_those_of_the_tower(
    store: Store, run: ResolvedRun, mixture: Manifest
) -> None:
    other = training_too(run, "connector.qformer")
    features = encode(store, other, "stage1", mixture, None)
    assert features.details["shape"] == list(run.recipe.model.features_shape(48, 1))
    live, cached = (losses_and_gradients(job(store, other, mixture, given)) for given in (None, features))
    assert all(torch.equal(one, other) for one, other in zip(live, cached, strict=True))


def test_a_stage_that_trains_the_tower_has_no_features_to_compute_in_advance(
    store: Store, run: ResolvedRun, mixture: Manifest
) -> None:
    with pytest.raises(DefinitionError, match=r"test.yaml, features: stage1 trains the vision encoder"):
        encode(store, training_too(run, "vision_encoder"), "stage1", mixture, None)


@pytest.mark.usefixtures("in_this_process")
def test_a_stage_that_trains_the_decoder_alone_computes_all_image_embeddings_once(
    store: Store, run: ResolvedRun, mixture: Manifest
) -> None:
    content = run.recipe.model_dump()
    content["stages"][0]["trains"] = ["language_model.norms"]
    other = dataclasses.replace(run, recipe=Recipe.model_validate(content))
    features = encode(store, other, "stage1", mixture, None)
    assert store.find(features.artifact).definition["seed"] == run.recipe.seed  # its projections were never trained
    live, cached = (losses_and_gradients(job(store, other, mixture, given)) for given in (None, features))
    assert all(torch.equal(one, other) for one, other in zip(live, cached, strict=True))


@pytest.mark.usefixtures("in_this_process")
def test_what_is_forgotten_is_taken_out_and_the_rest_is_not_computed_again(
    store: Store, run: ResolvedRun, mixture: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = encode(store, run, "stage1", mixture, None)
    image = MixedSamples(store, mixture.artifact).samples([(0, 7)])[0].images[0]
    kept = MixedSamples(store, mixture.artifact).samples([(0, 8)])[0].images[0]
    features = reader(store, before).read(kept, "kept")

    add_tombstone(store, tombstone("caption", "picture number 7$", "asked for"))
    monkeypatch.setattr(encoder.Encoder, "_computed", None)
    after = encode(store, run, "stage1", mixture, None)
    assert (after.rows_in, after.rows_out, after.drops["forgotten"]) == (24, 23, 1)
    with pytest.raises(DataError, match="holds no features of"):
        reader(store, after).read(image, "gone")
    assert torch.equal(reader(store, after).read(kept, "kept"), features)
    assert store.find(before.artifact) is None


@pytest.mark.usefixtures("in_this_process")
def test_an_image_that_cannot_be_read_is_counted_and_named_when_it_is_wanted(
    store: Store, run: ResolvedRun, mixture: Manifest
) -> None:
    image = MixedSamples(store, mixture.artifact).samples([(0, 3)])[0].images[0]
    with Path(image.path).open("r+b") as shard:
        shard.seek(image.offset)
        shard.write(b"x" * image.length)
    made = encode(store, run, "stage1", mixture, None)
    assert (made.rows_in, made.rows_out, made.drops["unreadable_image"]) == (24, 23, 1)
    with pytest.raises(DataError, match=r"00000.tar, key3: the image was unreadable"):
        reader(store, made).read(image, "key3")


@pytest.mark.usefixtures("in_this_process")
def test_a_flipped_bit_is_found(store: Store, run: ResolvedRun, mixture: Manifest) -> None:
    made = encode(store, run, "stage1", mixture, None)
    piece = store.folder(made.artifact) / "00000.safetensors"
    content = bytearray(piece.read_bytes())
    content[-1000] ^= 1
    piece.write_bytes(content)
    assert "has changed since it was written" in str(verify(str(store.folder(made.artifact))).damages[0])


def test_a_process_that_dies_is_told_and_leaves_what_is_done(
    store: Store, run: ResolvedRun, mixture: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(Here):
        def submit(self, work: Callable[..., None], *arguments: Any) -> "Future[None]":
            def die(*_: object) -> None:
                raise BrokenProcessPool

            return super().submit(die)

    monkeypatch.setattr(encoding, "ProcessPoolExecutor", Dying)
    with pytest.raises(LaunchError, match="a process of encode was killed"):
        encode(store, run, "stage1", mixture, None)
