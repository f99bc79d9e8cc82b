"""Swapping to a disk: whose folders stay and go, and what is refused before anything starts."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.train.small import small_recipe, small_run
from tinygptv.definitions.hardware import Hardware
from tinygptv.errors import DefinitionError, SetupError
from tinygptv.store.artifacts import Outcome, Store
from tinygptv.train import disk
from tinygptv.train.disk import (
    build_extension,
    refuse_unfit_disk,
    refuse_unlockable,
    refuse_without_extension,
    swap_folder,
)
from tinygptv.train.launch.torchrun import RecordingLauncher
from tinygptv.train.stage import train_stage

HOST = Hardware(
    about="one", device="cpu", ranks=1, micro_batch_size=1, precision="fp32", zero_stage=3, offload="optimizer"
)


def swapping_to(folder: Path) -> Hardware:
    return HOST.model_copy(update={"offload_folder": str(folder)})


def test_each_rank_has_a_folder_of_its_own_as_long_as_it_trains(tmp_path: Path) -> None:
    with swap_folder(swapping_to(tmp_path)) as one, swap_folder(swapping_to(tmp_path)) as other:
        assert one is not None
        assert other is not None
        assert one != other
        (one / "zero_stage_3").mkdir()
        assert {one, other} == set(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


def test_the_swap_folder_is_removed_when_the_training_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), swap_folder(swapping_to(tmp_path)):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_rank_left_is_removed_by_the_next_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    if (child := os.fork()) == 0:
        with swap_folder(swapping_to(tmp_path)) as folder:
            assert folder is not None
            (folder / "0_param.tensor.swp").write_bytes(b"0" * 1024)
            os._exit(0)
    os.waitpid(child, 0)
    (left,) = tmp_path.glob("tinygptv-swap-*")
    with swap_folder(swapping_to(tmp_path)) as mine:
        assert mine is not None
        assert not left.exists()
        assert {path.name for path in tmp_path.iterdir()} == {"holiday.jpg", mine.name}


def test_a_profile_without_a_disk_swaps_nowhere() -> None:
    with swap_folder(HOST) as folder:
        assert folder is None


def test_on_another_machine_without_the_folder_a_rank_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(SetupError, match=r"offload_folder: .*/none: No such file or directory; name a folder"),
        swap_folder(swapping_to(tmp_path / "none")),
    ):
        pass


def full(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk.shutil, "disk_usage", lambda folder: SimpleNamespace(free=3_000_000_000))


def in_memory(patch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    patch.setattr(disk, "_try_to_write", refuse)


@pytest.mark.parametrize(
    ("name", "spoil", "told"),
    [
        ("none", None, "is not a folder on this machine; create it on a fast local disk"),
        ("", full, r"has 3.00 GB free and the ranks of this machine swap 4.00 GB; free some space"),
        ("", in_memory, "does not support direct writes: Invalid argument; name another folder"),
    ],
)
def test_a_folder_that_cannot_take_it_is_refused_by_file_and_field(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    spoil: Callable[[pytest.MonkeyPatch], None] | None,
    told: str,
) -> None:
    if spoil:
        spoil(monkeypatch)
    with pytest.raises(DefinitionError, match=told) as refused:
        refuse_unfit_disk(swapping_to(tmp_path / name), "mine", needed=4_000_000_000, locked=0)
    assert str(refused.value).startswith(f"infra/hardware/mine.yaml, offload_folder: {tmp_path / name} ")
    assert list(tmp_path.iterdir()) == []


def test_without_a_compiler_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SetupError, match=r"apt-get install libaio-dev g\+\+, or leave out offload_folder"):
        refuse_without_extension()


def test_without_the_right_to_lock_memory_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.resource, "getrlimit", lambda limit: (8 * 2**20, 8 * 2**20))
    monkeypatch.setattr(disk, "_may_lock", lambda size: False)
    refuse_unlockable(8 * 2**20)
    with pytest.raises(SetupError, match=r"0.50 GB of each rank's memory must be locked, and this user may lock 0.01"):
        refuse_unlockable(500_000_000)
    monkeypatch.setattr(disk, "_may_lock", lambda size: True)
    refuse_unlockable(500_000_000)


def test_a_few_pages_can_be_locked_by_anyone() -> None:
    assert disk._may_lock(4096)


def test_a_stage_that_cannot_swap_is_refused_before_anything_starts(store: Store, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    for name in ("vision_encoder", "qformer", "language_model"):
        (tmp_path / f"{name}.safetensors").write_text(name)
    launcher = RecordingLauncher()
    run = small_run(recipe, swapping_to(tmp_path / "none"))
    mixture = store.make("mixtures/tiny_pairs@1", "test", {}, [], lambda folder: Outcome())
    with pytest.raises(DefinitionError, match=r"infra/hardware/test.yaml, offload_folder: .*/none is not a folder"):
        train_stage(store, run, "mine", "stage1", mixture, None, launcher)
    assert launcher.jobs == []


def test_a_user_without_a_home_is_told_where_else_the_extension_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "home" / "extensions"))
    monkeypatch.setenv("PATH", os.environ["PATH"])  # it adds to this
    with pytest.raises(
        SetupError, match=r"cannot be compiled into .*home.*; name another folder, TORCH_EXTENSIONS_DIR="
    ):
        build_extension()
