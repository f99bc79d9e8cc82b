"""Weight files ↔ tables of tensors, lazily and safely.

Only safetensors and `torch.load(weights_only=True)` are used, so no code from a file is ever run. Both map the file
into memory; what was read through a mapping counts as memory of this process until the mapping is gone, so files are
opened again and again rather than held open.
"""

import json
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tinygptv.errors import HandoffError
from tinygptv.models.stored import Stored, Table

_SAFETENSORS_INDEX, _TORCH_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
_REOPEN_BYTES = 64 * 2**20
_MAX_HEADER_BYTES = 100_000_000
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def open_weights(path: Path, finite: bool = True) -> Table:
    """The tensors of a safetensors file, a `.pth` checkpoint (its `model` entry), or a folder of shards, by name.

    Raises HandoffError that says what the file is instead: absent, truncated, a web page, a git-lfs pointer, no
    checkpoint, one without tensors, or one with code in it. Unless they need not be `finite`, reading a tensor with NaN
    or Inf raises it too.
    """
    if path.is_dir():
        return _open_folder(path, finite)
    try:
        with path.open("rb") as stream:
            head = stream.read(256)
    except FileNotFoundError:
        raise HandoffError(f"{path}: there is no such file; put the weights there or change the definition") from None
    _refuse_other_formats(path, head)
    if head[8:9] == b"{":
        return _open_safetensors(path, finite)
    return _open_torch(path, finite)


def save_trained(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors under their plain names as safetensors, in float32."""
    partial = path.with_suffix(".partial")
    save_file({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}, partial)
    partial.rename(path)


def _open_folder(folder: Path, finite: bool) -> Table:
    """Shards as Hugging Face lays them out: one file, or those an index names; else every safetensors file."""
    for name in (_SAFETENSORS_INDEX, _TORCH_INDEX):
        if (folder / name).is_file():
            return _open_shards(folder, folder / name, finite)
    single = [folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()]
    files = single[:1] or sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise HandoffError(f"{folder}: no weights in this folder; it needs safetensors or pytorch_model.bin files")
    table: Table = {}
    for file in files:
        found = open_weights(file, finite)
        if twice := sorted(table.keys() & found.keys()):
            raise HandoffError(
                f"{file}: '{twice[0]}' is also in another file of this folder, and no index says which one counts; "
                "keep one set of weights per folder"
            )
        table |= found
    return table


def _open_shards(folder: Path, index: Path, finite: bool) -> Table:
    try:
        places: dict[str, str] = json.loads(index.read_text())["weight_map"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
        raise HandoffError(f"{index}: not an index of shards ({error!r}); download it again") from error
    shards = sorted(set(places.values()))
    if absent := [shard for shard in shards if not (folder / shard).is_file()]:
        raise HandoffError(
            f"{folder}: shard {absent[0]} of {len(shards)} is missing, {index.name} names it; download it"
        )
    tables = {shard: open_weights(folder / shard, finite) for shard in shards}
    for name, shard in places.items():
        if name not in tables[shard]:
            raise HandoffError(f"{folder / shard}: {index.name} says that '{name}' is in here, and it is not")
    return {name: tables[shard][name] for name, shard in places.items()}


def _refuse_other_formats(path: Path, head: bytes) -> None:
    """Raise for everything that can be recognised by the first bytes."""
    size = path.stat().st_size
    text = head.lstrip().lower()
    if size == 0:
        raise HandoffError(f"{path}: empty, no bytes at all; download it again")
    if head.startswith(b"version https://git-lfs"):
        stands_for = re.search(rb"size (\d+)", head)
        length = f" of {int(stands_for[1]):,} bytes" if stands_for else ""
        raise HandoffError(f"{path}: a git-lfs pointer, which stands for a file{length}; run `git lfs pull` to get it")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise HandoffError(
            f"{path}: a web page, not weights, as is saved when a link leads to a log-in or an error; "
            "download the file itself"
        )
    is_zip, is_pickle, is_safetensors = head.startswith(b"PK\x03\x04"), head[:1] == b"\x80", head[8:9] == b"{"
    if not (is_zip or is_pickle or is_safetensors):
        raise HandoffError(
            f"{path}: not a checkpoint, it begins with {head[:16]!r}; weights are safetensors files, .pth or .bin "
            "files of torch, or folders of them"
        )
    if is_zip and not zipfile.is_zipfile(path):
        raise HandoffError(
            f"{path}: truncated, {size:,} bytes of a torch file without the directory at its end; download it again"
        )


def _open_safetensors(path: Path, finite: bool) -> Table:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(min(length, _MAX_HEADER_BYTES))
    try:
        fields: dict[str, Any] = json.loads(header)
        fields.pop("__metadata__", None)
        whole = 8 + length + max((entry["data_offsets"][1] for entry in fields.values()), default=0)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, IndexError) as error:
        raise HandoffError(f"{path}: truncated or damaged, its header cannot be read; download it again") from error
    if (size := path.stat().st_size) < whole:
        raise HandoffError(f"{path}: truncated, {size:,} of {whole:,} bytes are there; download it again")
    try:
        with safe_open(path, framework="pt") as opened:
            names = list(opened.keys())
    except SafetensorError as error:
        raise HandoffError(f"{path}: damaged ({error}); download it again") from error
    if not names:
        raise HandoffError(f"{path}: holds no tensors")
    if unknown := sorted({fields[name]["dtype"] for name in names} - _DTYPES.keys()):
        raise HandoffError(f"{path}: holds numbers of type {unknown[0]}; convert it to one of {', '.join(_DTYPES)}")
    shapes, dtypes = ({name: fields[name][entry] for name in names} for entry in ("shape", "dtype"))
    return {
        name: Stored((name,), torch.Size(shapes[name]), _DTYPES[dtypes[name]], partial(_read, path, name, finite))
        for name in names
    }


def _read(path: Path, name: str, finite: bool) -> Tensor:
    with safe_open(path, framework="pt") as opened:
        tensor = opened.get_tensor(name)
    if finite:
        refuse_not_finite(path, name, tensor)
    return tensor


def refuse_not_finite(path: Path, name: str, tensor: Tensor) -> None:
    """Raise HandoffError if the tensor `name` of a file holds NaN or Inf."""
    # NaN and Inf survive a sum, which is one pass and takes no memory. If the sum overflows,
    # the numbers are checked one by one.
    if not tensor.is_floating_point() or bool(tensor.sum(dtype=torch.float32).isfinite()):
        return
    if broken := int((~tensor.isfinite()).sum()):
        raise HandoffError(
            f"{path}: '{name}' holds NaN or Inf, {broken:,} of {tensor.numel():,} numbers, and whatever starts from it "
            "would compute nothing else; take an earlier checkpoint, or download the file again"
        )


@dataclass
class _TorchFile:
    """A `.pth` file, mapped; reopened after every 64 MiB, so that pages already read are released."""

    path: Path
    finite: bool
    tensors: dict[str, Tensor] = field(default_factory=dict)
    read_bytes: int = 0

    def read(self, name: str) -> Tensor:
        if not self.tensors or self.read_bytes > _REOPEN_BYTES:
            self.tensors, self.read_bytes = {}, 0
            self.tensors = _load(self.path)
        tensor = self.tensors[name]
        self.read_bytes += tensor.nbytes
        if self.finite:
            refuse_not_finite(self.path, name, tensor)
        return tensor

    def reader(self, name: str) -> Callable[[], Tensor]:
        return partial(self.read, name)


def _open_torch(path: Path, finite: bool) -> Table:
    file = _TorchFile(path, finite)
    return {
        name: Stored((name,), tensor.shape, tensor.dtype, file.reader(name)) for name, tensor in _load(path).items()
    }


def _load(path: Path) -> dict[str, Tensor]:
    """The table of tensors in a torch file. Files from before torch 1.6 are no zip archives and cannot be mapped."""
    if mapped := zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.namelist()
        except (zipfile.BadZipFile, UnicodeDecodeError) as error:
            raise HandoffError(f"{path}: damaged, its directory cannot be read ({error}); download it again") from error
        if not any(name.endswith("data.pkl") for name in members):
            raise HandoffError(
                f"{path}: a zip archive that torch did not write, it holds {', '.join(members[:3]) or 'nothing'}; "
                "unpack it and point at the weights in it"
            )
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickles of another kind, which are refused below anyway
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(r"Unpickler error:\s*(.+?)\s*(\n|$)", str(error))
        raise HandoffError(
            f"{path}: holds code, or what may be code, which is never run ({code[1] if code else error}); get the "
            "weights as safetensors, or as a file of tensors and plain values only"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AssertionError, struct.error) as error:
        reason = next(iter(str(error).splitlines()), "it ends too early")[:120]
        raise HandoffError(
            f"{path}: truncated, or not a checkpoint: torch cannot read it ({reason}); download it again"
        ) from error
    tensors = content.get("model", content) if isinstance(content, dict) else {}
    if not isinstance(tensors, dict) or not any(isinstance(tensor, Tensor) for tensor in tensors.values()):
        found = f"its entries are {', '.join(map(str, list(content)[:4]))}" if isinstance(content, dict) else "no table"
        raise HandoffError(f"{path}: holds no table of tensors, neither at its top nor under 'model' ({found})")
    if other := [name for name, tensor in tensors.items() if not isinstance(tensor, Tensor)]:
        raise HandoffError(f"{path}: '{other[0]}' is no tensor; weights and other values are mixed in this table")
    return tensors
