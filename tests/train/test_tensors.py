"""Trained tensors as files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tinygptv.errors import TrainingError
from tinygptv.store.artifacts import sha256_of
from tinygptv.train.tensors import write_tensors


def test_tensors_written_one_by_one_are_a_file_that_others_read(tmp_path: Path) -> None:
    tensors = {"matrix": torch.randn(3, 5), "half": torch.randn(4).bfloat16(), "scalar": torch.tensor(2.0)}
    names = [(name, tuple(tensor.shape)) for name, tensor in tensors.items()]
    assert write_tensors(tmp_path / "t.safetensors", names, iter(tensors.values())) == sha256_of(
        tmp_path / "t.safetensors"
    )
    found = load_file(tmp_path / "t.safetensors")
    assert {name: tensor.dtype for name, tensor in found.items()} == dict.fromkeys(tensors, torch.float32)
    assert all(torch.equal(found[name], tensor.float()) for name, tensor in tensors.items())


def test_nan_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="b contains NaN or Inf; not saved"):
        write_tensors(tmp_path / "t", [("a", (2,)), ("b", (2,))], [torch.ones(2), torch.tensor([1.0, float("nan")])])
