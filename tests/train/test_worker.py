"""The training loop under DeepSpeed ZeRO-2 on two ranks; all trainings happen in one start of torchrun."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.train.small import mix_pairs, mix_with_words, small_recipe, small_run, write_backbones
from tinygptv.catalog import ResolvedRun
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.recipe import Recipe, Watch
from tinygptv.errors import TinyGPTVError
from tinygptv.models.lora import merge_lora
from tinygptv.models.weights import Handoff, empty_model, load_weights
from tinygptv.store.artifacts import Manifest, Store
from tinygptv.train.assemble import load_stage_model
from tinygptv.train.disk import build_extension, refuse_unfit_disk
from tinygptv.train.encoding.encode import encode
from tinygptv.train.events import read_events
from tinygptv.train.job import Job, read_metrics
from tinygptv.train.launch.torchrun import DeepSpeedLauncher
from tinygptv.train.lineage import adapters, inherited
from tinygptv.train.stage import train_stage

TIMES = ("samples_per_second", "tokens_per_second", "seconds", "seconds_left", "utilisation", "peak_memory_bytes")
ONE_RANK = Hardware(
    about="one", device="cpu", ranks=1, threads_per_rank=1, micro_batch_size=2, precision="fp32", zero_stage=2
)
TWO_RANKS = ONE_RANK.model_copy(update={"ranks": 2})
PROFILES: dict[str, dict[str, Any]] = {
    "zero0": {"zero_stage": 0},
    "zero1": {"zero_stage": 1},
    "zero2_offloaded": {"offload": "optimizer"},
    "zero3": {"zero_stage": 3},
    "zero3_offloaded": {"zero_stage": 3, "offload": "optimizer_and_parameters"},
    "packed_ahead": {"packing": True, "loader_workers": 1},
}
LIKE_ON_DISK = {
    "disk": "whole",
    "disk_given_up": "whole",
    "disk_rounds": "rounds",
    "disk_words": "words_zero2",
}
"""Trainings that swap to a disk, and those they are to equal."""
IN_NF4 = {"quantize_base": "nf4"}
UNEVEN = {"uneven_whole": 2, "uneven_zero2": 2, "uneven_zero3": 3, "uneven_all_whole": 2, "uneven_all_zero3": 3}
"""Trainings with a rank that often has no labels, by ZeRO stage; `all` learns the decoder, its head included. All that
are not called whole make two labels' logits at a time."""
WORDS_UNDER_ZERO = {"words_zero0": 0, "words_zero2": 2, "words_zero3": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("training")
    recipe = small_recipe(folder)
    write_backbones(folder, recipe)
    store = Store(str(folder / "workdir"))
    mixture = mix_pairs(store)
    first, second = recipe.stages
    rounds = first.model_copy(update={"schedule": first.schedule.model_copy(update={"steps": 4, "rounds": 2})})
    jobs = {
        name: job(store, recipe, first, mixture) for name in ("whole", "interrupted", "torn", "blind", "left", "killed")
    }
    patient = first.model_copy(update={"watch": Watch(then="roll_back")})
    jobs["rolled_back"] = job(store, recipe, patient, mixture)
    slower = first.model_copy(update={"schedule": first.schedule.model_copy(update={"peak_lr": 2e-3})})
    jobs["changed"] = job(store, recipe, slower, mixture)
    for name, profile in PROFILES.items():
        jobs[name] = job(store, recipe, first, mixture).model_copy(
            update={"hardware": TWO_RANKS.model_copy(update=profile)}
        )
    with_words = mix_with_words(store, folder)
    for name, stage in WORDS_UNDER_ZERO.items():
        jobs[name] = job(store, recipe, first, with_words).model_copy(
            update={"hardware": TWO_RANKS.model_copy(update={"zero_stage": stage})}
        )
    decoder_too = first.model_copy(update={"trains": ["connector.projections", "language_model.all"]})
    for name, stage in UNEVEN.items():
        jobs[name] = job(store, recipe, decoder_too if "_all_" in name else first, mixture).model_copy(
            update={"hardware": TWO_RANKS.model_copy(update={"zero_stage": stage})}
        )
    cached = ONE_RANK.model_copy(update={"features": "cached"})
    features = encode(store, small_run(recipe, cached), "stage1", mixture, None)
    jobs["cached"] = job(store, recipe, first, mixture).model_copy(update={"features": features.artifact})
    jobs["rounds"] = job(store, recipe, rounds, mixture)
    jobs["second"] = job(store, recipe, second, mixture, previous=folder / "whole" / "trained.safetensors")
    for name in ("nf4", "nf4_interrupted"):
        jobs[name] = jobs["second"].model_copy(update={"hardware": TWO_RANKS.model_copy(update=IN_NF4)})
    still = second.schedule.model_copy(update={"peak_lr": 1e-12, "warmup_lr": 0.0, "final_lr": 0.0, "steps": 1})
    halved = job(
        store,
        recipe,
        second.model_copy(update={"schedule": still}),
        mixture,
        previous=folder / "whole" / "trained.safetensors",
    )
    jobs["halved"] = halved.model_copy(update={"hardware": TWO_RANKS.model_copy(update={"precision": "bf16"})})
    jobs["halved_zero0"] = jobs["halved"].model_copy(
        update={"hardware": TWO_RANKS.model_copy(update={"precision": "bf16", "zero_stage": 0})}
    )
    jobs |= jobs_on_disk(folder, jobs)
    for name, content in jobs.items():
        (folder / name).mkdir()
        (folder / name / "job.json").write_text(content.model_dump_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        DeepSpeedLauncher("tests.train.training_scenario").run(
            folder / "whole" / "job.json", TWO_RANKS, folder / "train.log", lambda line: None
        )
    yield folder


def jobs_on_disk(folder: Path, jobs: dict[str, Job]) -> dict[str, Job]:
    """Jobs that swap, as in LIKE_ON_DISK; none where that cannot be, for the reason in `cannot_swap.txt`."""
    (folder / "swapped").mkdir()
    disk = TWO_RANKS.model_copy(
        update={"zero_stage": 3, "offload": "optimizer_and_parameters", "offload_folder": str(folder / "swapped")}
    )
    try:
        refuse_unfit_disk(disk, "test", needed=10**8, locked=8 * 2**20)  # what any user may lock
        build_extension()
    except TinyGPTVError as error:
        (folder / "cannot_swap.txt").write_text(str(error))
        return {}
    on_disk = {name: jobs[other].model_copy(update={"hardware": disk}) for name, other in LIKE_ON_DISK.items()}
    optimizer_alone = disk.model_copy(update={"offload": "optimizer"})
    on_disk["disk_taken_up"] = on_disk["disk"].model_copy(update={"hardware": optimizer_alone})
    in_bf16 = disk.model_copy(update={"precision": "bf16"})
    on_disk["disk_halved"] = jobs["halved"].model_copy(update={"hardware": in_bf16})
    return on_disk | {"disk_given_up": jobs["whole"]}


def job(store: Store, recipe: Recipe, stage: Any, mixture: Manifest, previous: Path | None = None) -> Job:
    return Job(
        stage=stage,
        model=recipe.model,
        lora=adapters(recipe, stage),
        seed=recipe.seed,
        hardware=TWO_RANKS,
        workdir=store.workdir,
        mixture=mixture.artifact,
        previous=str(previous) if previous else None,
        inherits=inherited(recipe, stage) if previous else [],
    )


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Everything but the times."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(folder / "metrics.jsonl")]


def assert_alike(one: Path, other: Path) -> None:
    """The same losses and weights but for rounding: two ranks may add up in another order."""
    losses, expected = ([row["loss"] for row in metrics(folder)] for folder in (one, other))
    assert losses == pytest.approx(expected, abs=1e-5)
    trained, wanted = (load_file(folder / "trained.safetensors") for folder in (one, other))
    assert trained.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(trained[name], wanted[name], atol=1e-5, rtol=1e-4)


def test_a_stage_learns_and_records_every_step(root: Path) -> None:
    rows = metrics(root / "whole")
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.05
    assert all(row["grad_norm"] > 0 for row in rows)
    assert all(row["losses"]["$source"] == pytest.approx(row["loss"], abs=1e-5) for row in rows)
    assert (root / "whole" / "checkpoints").exists()


def test_features_computed_before_teach_the_same_and_are_named_first(root: Path) -> None:
    (used,) = read_events(root / "cached")
    assert (used["event"], used["instead_of"]) == ("features_used", "vision_encoder, qformer")
    assert f"features used: artifact {used['artifact']}" in (root / "train.log").read_text()
    assert_alike(root / "cached", root / "whole")


def test_an_interrupted_stage_ends_as_if_it_had_not_been(root: Path) -> None:
    assert "stopped before step 5" in (root / "interrupted" / "error.txt").read_text()
    assert "steps 3 to 8" in (root / "train.log").read_text()
    assert_alike(root / "interrupted", root / "whole")


def test_a_stage_whose_rank_is_killed_goes_on_by_itself_and_ends_as_if_it_had_not_been(root: Path) -> None:
    failed, restarted = read_events(root / "whole")  # beside the job file of the start
    # Which of the two the launcher sees end first is chance: the one that was killed, or the one that misses it.
    assert failed["event"] == "rank_failed"
    assert (failed["rank"], failed["exit_code"]) in {(1, -9), (0, 1)}
    assert restarted["event"] == "restarted"
    assert_alike(root / "killed", root / "whole")


def test_a_torn_checkpoint_is_skipped_in_favour_of_the_one_before(root: Path) -> None:
    log = (root / "train.log").read_text()
    assert "step000006: tensors.safetensors has changed since it was written; skipped" in log
    assert_alike(root / "torn", root / "whole")


def test_a_loss_that_is_no_number_stops_before_the_step_and_names_the_samples(root: Path) -> None:
    told = (root / "blind" / "error.txt").read_text()
    assert told.startswith("TrainingError: stage1, step 5: the loss is nan")
    assert "Samples of the step: 000" in told
    assert not (root / "blind" / "trained.safetensors").exists()
    assert len(metrics(root / "blind")) == 4


def test_a_loss_that_is_no_number_can_be_stepped_over(root: Path) -> None:
    rows = metrics(root / "rolled_back")
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row["batch"] for row in rows] == [1, 2, 3, 4, 6, 7, 8, 9]
    lost, back = read_events(root / "rolled_back")
    assert (lost["event"], lost["step"], len(lost["keys"])) == ("loss_not_finite", 5, 8)
    assert (back["event"], back["to_step"], back["skipped"]) == ("rolled_back", 3, [4])
    expected = [row["loss"] for row in metrics(root / "whole")[:4]]
    assert [row["loss"] for row in rows[:4]] == pytest.approx(expected, abs=1e-5)
    trained = load_file(root / "rolled_back" / "trained.safetensors")
    assert all(tensor.isfinite().all() for tensor in trained.values())


def test_a_checkpoint_of_another_training_is_refused_with_what_differs(root: Path) -> None:
    told = (root / "changed" / "error.txt").read_text()
    assert told.startswith("HandoffError: ")
    assert "step000003 belongs to another training: stage.schedule.peak_lr: 0.003 → 0.002. Undo these changes" in told


@pytest.mark.parametrize("name", PROFILES)
def test_every_way_to_share_the_optimizer_learns_the_same(root: Path, name: str) -> None:
    assert_alike(root / name, root / "whole")
    norms, expected = ([row["grad_norm"] for row in metrics(root / one)] for one in (name, "whole"))
    assert norms == pytest.approx(expected, abs=1e-5)


def test_without_zero_sixteen_bits_have_the_same_gradient_norm_too(root: Path) -> None:
    (found,), (expected,) = (metrics(root / name) for name in ("halved_zero0", "halved"))
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=0.01)


def test_what_is_watched_is_said_first(root: Path) -> None:
    line = "stage1: watching NaN or Inf in the loss, NaN or Inf in the gradients, steps without labels; not: loss"
    assert line in (root / "train.log").read_text()


@pytest.fixture(scope="module")
def disk(root: Path) -> Path:
    """The folder that trainings of LIKE_ON_DISK swapped to."""
    if (cannot := root / "cannot_swap.txt").exists():
        pytest.skip(cannot.read_text())
    return root / "swapped"


@pytest.mark.parametrize("name", LIKE_ON_DISK)
def test_what_is_swapped_to_a_disk_learns_the_same_and_moves_from_and_to_there(
    root: Path, disk: Path, name: str
) -> None:
    assert not (root / name / "error.txt").exists()
    assert_alike(root / name, root / LIKE_ON_DISK[name])


def test_on_a_disk_a_stage_in_sixteen_bits_carries_on_all_thirty_two(root: Path, disk: Path) -> None:
    first, carried = (load_file(root / name / "trained.safetensors") for name in ("whole", "disk_halved"))
    for name, tensor in first.items():
        torch.testing.assert_close(carried[name], tensor, atol=1e-9, rtol=0)


def test_optimizer_and_parameters_were_on_the_disk_and_are_gone(root: Path, disk: Path) -> None:
    swapped = json.loads((root / "disk" / "swapped.json").read_text())
    for rank in ("rank0", "rank1"):
        # Value, two moments and gradient of two weights; all else that is trained is smaller than what is swapped.
        assert sum(f"/optimizer/{rank}/" in file for file in swapped) == 2 * 4
        assert sum(f"/float32params/{rank}/" in file for file in swapped) > 20
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("name", ["uneven_zero2", "uneven_zero3"])
def test_ranks_with_unequal_numbers_of_labels_and_pieces_hang_nowhere_and_learn_the_same(root: Path, name: str) -> None:
    assert not (root / name / "error.txt").exists()
    assert_alike(root / name, root / "uneven_whole")


def test_a_head_that_learns_in_pieces_learns_the_same(root: Path) -> None:
    """Of the decoder's other tensors some have gradients of nothing but rounding, which AdamW makes steps of."""
    losses, expected = ([r["loss"] for r in metrics(root / name)] for name in ("uneven_all_zero3", "uneven_all_whole"))
    assert losses == pytest.approx(expected, abs=1e-5)
    trained, wanted = (
        load_file(root / name / "trained.safetensors") for name in ("uneven_all_zero3", "uneven_all_whole")
    )
    for part in ("weight", "bias"):
        name = f"language_model.lm_head.{part}"
        torch.testing.assert_close(trained[name], wanted[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", WORDS_UNDER_ZERO)
def test_steps_of_words_alone_and_of_fewer_samples_hang_no_rank_and_learn_the_same(root: Path, name: str) -> None:
    assert not (root / name / "error.txt").exists()
    rows = metrics(root / name)
    assert {tuple(row["losses"]) for row in rows} == {("$source",), ("words",)}
    assert all(row["loss"] > 0 for row in rows)
    assert_alike(root / name, root / "words_zero2")


def test_the_next_stage_begins_where_the_last_one_ended(root: Path) -> None:
    first, second = (load_file(root / name / "trained.safetensors") for name in ("whole", "second"))
    adapters_added = {name for name in second if ".lora_" in name}
    assert second.keys() - adapters_added == first.keys()
    assert len(adapters_added) == 2 * 2 * 2
    assert any(second[name].any() for name in adapters_added if ".lora_B." in name)
    assert metrics(root / "second")[0]["loss"] == pytest.approx(metrics(root / "whole")[-1]["loss"], abs=0.1)


def test_adapters_learn_beside_a_base_in_four_bits_what_they_learn_beside_the_whole(root: Path) -> None:
    found, expected = ([row["loss"] for row in metrics(root / name)] for name in ("nf4", "second"))
    assert found != expected
    assert found == pytest.approx(expected, rel=0.02)
    assert found[-1] < found[0]


def test_beside_four_bits_an_interrupted_stage_ends_as_if_it_had_not_been(root: Path) -> None:
    assert "stopped before step 5" in (root / "nf4_interrupted" / "error.txt").read_text()
    assert_alike(root / "nf4_interrupted", root / "nf4")


def test_what_was_learned_beside_four_bits_is_merged_onto_the_whole_base(root: Path) -> None:
    trained, usual = (load_file(root / name / "trained.safetensors") for name in ("nf4", "second"))
    assert {name: tensor.shape for name, tensor in trained.items()} == {n: t.shape for n, t in usual.items()}
    recipe = small_recipe(root)
    lora = recipe.stages[1].lora
    assert lora is not None
    model = empty_model(recipe.model, recipe.stages[1].inputs.image_size, lora)
    load_weights(model, recipe.model, handoff=Handoff(root / "nf4" / "trained.safetensors", trained))
    merge_lora(model.language_model)
    place = "model.layers.0.self_attn.dense"
    base = load_file(root / "language_model.safetensors")[f"{place}.weight"]
    up, down = (trained[f"language_model.{place}.lora_{one}.weight"] for one in "BA")
    merged = model.language_model.get_submodule(place).weight
    assert not torch.equal(merged, base)
    torch.testing.assert_close(merged, base + lora.alpha / lora.rank * up @ down, atol=1e-7, rtol=1e-5)


def test_a_stage_in_sixteen_bits_carries_on_all_thirty_two(root: Path) -> None:
    """Its rate is next to nothing, so what it leaves is what it was handed."""
    first, carried = (load_file(root / name / "trained.safetensors") for name in ("whole", "halved"))
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in first.values())
    for name, tensor in first.items():
        torch.testing.assert_close(carried[name], tensor, atol=1e-9, rtol=0)


def test_every_round_begins_with_a_new_optimizer(root: Path) -> None:
    rows = metrics(root / "rounds")
    assert [row["round"] for row in rows] == [1] * 4 + [2] * 4
    assert rows[4]["lr"] == rows[0]["lr"]


@pytest.fixture(scope="module")
def one_rank(root: Path) -> tuple[Store, ResolvedRun, Manifest, list[str]]:
    """The first stage again, by `train_stage`, on one rank that takes twice as many pieces.

    In the same start it goes on from what two ranks left under ZeRO-2, under ZeRO-3.
    """
    store, lines = Store(str(root / "workdir")), list[str]()
    run = small_run(small_recipe(root), ONE_RANK)
    shutil.copytree(root / "left", root / "moved")
    moved = Job.model_validate_json((root / "moved" / "job.json").read_text())
    moved = moved.model_copy(update={"hardware": ONE_RANK.model_copy(update={"zero_stage": 3})})
    (root / "moved" / "job.json").write_text(moved.model_dump_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        patch.setenv("MOVED", str(root / "moved"))
        launcher = DeepSpeedLauncher("tests.train.one_rank_scenario")
        manifest = train_stage(store, run, "one", "stage1", mix_pairs(store), None, launcher, on_line=lines.append)
    return store, run, manifest, lines


def test_fewer_ranks_learn_the_same(root: Path, one_rank: tuple[Store, ResolvedRun, Manifest, list[str]]) -> None:
    store, _, manifest, _ = one_rank
    alone, together = metrics(store.folder(manifest.artifact)), metrics(root / "whole")
    assert [row["loss"] for row in alone] == pytest.approx([row["loss"] for row in together], abs=1e-4)


def test_what_two_ranks_left_is_gone_on_with_by_one_under_another_zero_stage(
    root: Path, one_rank: tuple[Store, ResolvedRun, Manifest, list[str]]
) -> None:
    _, _, _, lines = one_rank
    assert any("steps 3 to 8 on 1 ranks under ZeRO-3" in line for line in lines)
    assert_alike(root / "moved", root / "whole")


def test_a_finished_stage_is_an_artifact_with_its_figures(
    one_rank: tuple[Store, ResolvedRun, Manifest, list[str]],
) -> None:
    _, run, manifest, lines = one_rank
    assert set(manifest.files) == {"job.json", "metrics.jsonl", "train.log", "trained.safetensors"}
    assert manifest.details["steps"] == 8
    assert manifest.rows_out == 8 * run.recipe.stages[0].global_batch_size
    assert any(line.startswith("stage1 8/8 loss ") and line.endswith(" samples/s") for line in lines)


def test_a_finished_stage_can_be_asked(one_rank: tuple[Store, ResolvedRun, Manifest, list[str]]) -> None:
    store, run, manifest, _ = one_rank
    model = load_stage_model(store, run.recipe, "stage1", manifest)
    trained = load_file(store.folder(manifest.artifact) / "trained.safetensors")
    assert torch.equal(model.connector[1].weight, trained["connector.1.weight"])
    assert not model.training
