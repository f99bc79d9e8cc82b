"""Reading files safely: each kind of wrong file gets one error that says what it is and what to do."""

import json
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tinygptv.errors import HandoffError
from tinygptv.models.stored import read_all
from tinygptv.models.weights.files import open_weights

TENSORS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)}


def save_shards(folder: Path) -> None:
    """The tensors in two shards, with the index that Hugging Face writes."""
    folder.mkdir()
    places = {}
    for number, (name, tensor) in enumerate(TENSORS.items(), 1):
        places[name] = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensor}, folder / places[name])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def save_bin_shards(folder: Path) -> None:
    folder.mkdir()
    places = {}
    for number, (name, tensor) in enumerate(TENSORS.items(), 1):
        places[name] = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: tensor}, folder / places[name])
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))


GOOD: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda path: save_file(TENSORS, path),
    "a bare table": lambda path: torch.save(TENSORS, path),
    "with optimizer": lambda path: torch.save(
        {"model": TENSORS, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 3, "config": {"run": {}}},
        path,
    ),
    "before torch 1.6": lambda path: torch.save({"model": TENSORS}, path, _use_new_zipfile_serialization=False),
    "shards": save_shards,
    "shards of torch": save_bin_shards,
}


@pytest.mark.parametrize("kind", GOOD)
def test_every_usual_kind_of_file_is_read(tmp_path: Path, kind: str) -> None:
    GOOD[kind](tmp_path / "weights")
    table = open_weights(tmp_path / "weights")
    assert {name: stored.shape for name, stored in table.items()} == {n: t.shape for n, t in TENSORS.items()}
    tensors = read_all(table)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert tensors["b"].dtype == table["b"].dtype == torch.bfloat16


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("save", [save_file, torch.save])
def test_what_is_no_number_is_named_with_its_file(
    tmp_path: Path, save: Callable[[dict[str, torch.Tensor], Path], object], dtype: torch.dtype, number: float
) -> None:
    tensors = {"good": torch.ones(3, dtype=dtype), "bad": torch.ones(3, 4, dtype=dtype)}
    tensors["bad"][1, 2] = number
    save(tensors, tmp_path / "weights")
    table = open_weights(tmp_path / "weights")
    assert table["good"].read().sum() == 3
    with pytest.raises(HandoffError, match=r"weights: 'bad' holds NaN or Inf, 1 of 12 numbers"):
        table["bad"].read()


def test_large_numbers_and_those_that_are_not_floating_are_numbers(tmp_path: Path) -> None:
    tensors = {"large": torch.full((9,), 3e38), "half": torch.full((9,), 65504.0).half(), "ids": torch.arange(4)}
    save_file(tensors, tmp_path / "weights")
    assert read_all(open_weights(tmp_path / "weights")).keys() == tensors.keys()


def test_of_shards_the_one_with_what_is_no_number_is_named(tmp_path: Path) -> None:
    save_shards(tmp_path / "weights")
    second = tmp_path / "weights" / "model-00002-of-00002.safetensors"
    save_file({name: tensor / 0 for name, tensor in load_file(second).items()}, second)
    with pytest.raises(HandoffError, match=r"model-00002-of-00002\.safetensors: '.*' holds NaN or Inf"):
        read_all(open_weights(tmp_path / "weights"))


def test_what_is_read_is_no_view_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(TENSORS, path)
    before = path.read_bytes()
    read_all(open_weights(path))["a.weight"].zero_()
    assert path.read_bytes() == before


def test_reading_costs_no_memory_before_a_tensor_is_asked_for(tmp_path: Path) -> None:
    """Four files' worth of tensors pass through a process that never holds more than one of them."""
    for name in ("x.safetensors", "x.pth"):
        tensors = {f"t{number}": torch.zeros(25_000_000) for number in range(4)}
        save_file(tensors, tmp_path / name) if name.endswith("safetensors") else torch.save(tensors, tmp_path / name)
    code = f"""
import resource
from pathlib import Path
from tinygptv.models.weights.files import open_weights
from tinygptv.release.measure import memory
before = memory("VmHWM")
for name in ("x.safetensors", "x.pth"):
    for stored in open_weights(Path({str(tmp_path)!r}) / name).values():
        stored.read().sum()
print((memory("VmHWM") - before) // 10**6)
"""
    done = subprocess.run([os.sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 260


def halved(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def truncated_safetensors(path: Path) -> None:
    save_file(TENSORS, path)
    os.truncate(path, path.stat().st_size - 4)


def truncated_header(path: Path) -> None:
    save_file(TENSORS, path)
    os.truncate(path, 40)


def truncated_torch(path: Path) -> None:
    torch.save({"model": TENSORS}, path)
    halved(path)


def damaged_directory(path: Path) -> None:
    torch.save({"model": TENSORS}, path)
    path.write_bytes(path.read_bytes().replace(b"PK\x01\x02", b"PK\x01\x00"))


def truncated_old_torch(path: Path) -> None:
    torch.save({"model": TENSORS}, path, _use_new_zipfile_serialization=False)
    halved(path)


def truncated_second_shard(path: Path) -> None:
    save_shards(path)
    os.truncate(path / "model-00002-of-00002.safetensors", 70)


def missing_shard(path: Path) -> None:
    save_shards(path)
    (path / "model-00002-of-00002.safetensors").unlink()


def foreign_shard(path: Path) -> None:
    save_shards(path)
    save_file({"c": torch.ones(2)}, path / "model-00002-of-00002.safetensors")


def two_sets(path: Path) -> None:
    path.mkdir()
    save_file(TENSORS, path / "one.safetensors")
    save_file(TENSORS, path / "two.safetensors")


def zip_of_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def mixed_table(path: Path) -> None:
    torch.save({"a": torch.ones(2), "step": 3}, path)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda path: None, "there is no such file"),
    "empty": (lambda path: path.write_bytes(b""), "empty, no bytes at all; download it again"),
    "a web page": (lambda path: path.write_text("<!DOCTYPE html><html>log in</html>"), "a web page, not weights"),
    "a git-lfs pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2025270169\n"),
        r"a git-lfs pointer, which stands for a file of 2,025,270,169 bytes; run `git lfs pull`",
    ),
    "text": (lambda path: path.write_text("epoch 1"), "not a checkpoint, it begins with b'epoch 1'"),
    "another archive": (zip_of_text, r"a zip archive that torch did not write, it holds readme\.txt"),
    "no tensors": (lambda path: torch.save({"epoch": 3}, path), "holds no table of tensors.*its entries are epoch"),
    "a single tensor": (lambda path: torch.save(torch.ones(3), path), "holds no table of tensors.*no table"),
    "an empty safetensors": (lambda path: save_file({}, path), "holds no tensors"),
    "more than tensors": (mixed_table, "'step' is no tensor"),
    "truncated safetensors": (truncated_safetensors, r"truncated, \d+ of \d+ bytes are there; download it again"),
    "a truncated header": (truncated_header, "truncated or damaged, its header cannot be read"),
    "a truncated .pth": (truncated_torch, "truncated, .* without the directory at its end"),
    "a damaged .pth": (damaged_directory, "damaged, its directory cannot be read"),
    "a truncated .pth of old": (truncated_old_torch, "truncated, or not a checkpoint"),
    "a truncated second shard": (truncated_second_shard, r"model-00002-of-00002\.safetensors: truncated"),
    "a missing shard": (missing_shard, r"shard model-00002-of-00002\.safetensors of 2 is missing"),
    "a shard of another model": (foreign_shard, r"says that 'b' is in here, and it is not"),
    "two sets of weights": (two_sets, "'a.weight' is also in another file of this folder"),
    "an empty folder": (lambda path: path.mkdir(), "no weights in this folder"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_told_for_what_it_is(tmp_path: Path, kind: str) -> None:
    make, told = WRONG[kind]
    make(tmp_path / "weights")
    with pytest.raises(HandoffError, match=f"weights.*: .*{told}|{told}") as refused:
        open_weights(tmp_path / "weights")
    assert str(tmp_path / "weights") in str(refused.value)
    assert "\n" not in str(refused.value)


class Trap:
    """Pickled code, which would make a folder when unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_checkpoint_is_named_and_never_run(tmp_path: Path, save: Callable[[object, Path], object]) -> None:
    save({"model": {"trap": Trap(tmp_path / "sprung")}}, tmp_path / "trap.pth")
    with pytest.raises(HandoffError, match=r"trap\.pth: holds code.* never run \((posix\.mkdir|Unsupported operand)"):
        open_weights(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()
