"""Offload to a fast local disk (NVMe): the folder of each rank, and what that requires of the machine.

Each rank swaps to its own folder below `offload_folder`, which it locks, and removes when it ends. A killed rank leaves
its folder behind but no lock, so the next process removes it. DeepSpeed reads and writes through an extension that is
compiled once per machine, and swaps through pages that are locked in memory.
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import resource
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path

from tinygptv.definitions.hardware import Hardware
from tinygptv.errors import DefinitionError, SetupError

logger = getLogger(__name__)

_PREFIX = "tinygptv-swap-"
_OTHERWISE = "or leave out offload_folder to offload to the host's memory"


@contextlib.contextmanager
def swap_folder(hardware: Hardware) -> Iterator[Path | None]:
    """A temporary folder for this process alone, or None if the profile does not offload to a disk.

    Folders of dead processes next to it are removed first. Raises SetupError if it cannot be created.
    """
    if hardware.offload_folder is None:
        yield None
        return
    offload_folder = Path(hardware.offload_folder)
    try:
        with _locked(offload_folder):
            _remove_abandoned(offload_folder)
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=offload_folder))
            held = _lock(folder)
    except OSError as error:
        raise SetupError(f"offload_folder: {offload_folder}: {error.strerror}; name a folder, {_OTHERWISE}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def refuse_unfit_disk(hardware: Hardware, hardware_name: str, needed: int, locked: int) -> None:
    """Raise DefinitionError if the profile's `offload_folder` cannot take `needed` bytes of this machine's ranks, and
    SetupError if DeepSpeed's extension cannot be built or a rank may not lock `locked` bytes of memory."""
    assert hardware.offload_folder is not None
    folder = Path(hardware.offload_folder)
    where = f"infra/hardware/{hardware_name}.yaml, offload_folder: {folder}"
    if not folder.is_dir():
        raise DefinitionError(f"{where} is not a folder on this machine; create it on a fast local disk, {_OTHERWISE}")
    try:
        with _locked(folder):
            _remove_abandoned(folder)
        _try_to_write(folder)
    except OSError as error:
        raise DefinitionError(
            f"{where} does not support direct writes: {error.strerror}; name another folder, on a local "
            f"disk, {_OTHERWISE}"
        ) from error
    if (free := shutil.disk_usage(folder).free) < needed:
        raise DefinitionError(
            f"{where} has {free / 1e9:.2f} GB free and the ranks of this machine swap {needed / 1e9:.2f} GB; free some "
            f"space, name a folder on a larger disk, {_OTHERWISE}"
        )
    refuse_without_extension()
    refuse_unlockable(locked)


def refuse_without_extension() -> None:
    """Raise SetupError if DeepSpeed's extension for disks cannot be built: it needs libaio and a compiler."""
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if shutil.which(os.environ.get("CXX", "c++")) is None or not AsyncIOBuilder().is_compatible():
        raise SetupError(
            "offload_folder in the hardware profile needs DeepSpeed's disk extension. Compiling it takes libaio "
            f"and a C++ compiler; install them, apt-get install libaio-dev g++, {_OTHERWISE}"
        )


def refuse_unlockable(size: int) -> None:
    """Raise SetupError if a process may not lock `size` bytes of memory."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    # Some privileges override the limit; locking more than it shows whether this process has them.
    if allowed != resource.RLIM_INFINITY and size > allowed and not _may_lock(allowed + mmap.PAGESIZE):
        raise SetupError(
            f"offload_folder in the hardware profile: {size / 1e9:.2f} GB of each rank's memory must be locked, and "
            f"this user may lock {allowed / 1e9:.2f} GB; raise the limit (ulimit -l unlimited, memlock in "
            f"/etc/security/limits.conf, or LimitMEMLOCK of the service), {_OTHERWISE}"
        )


def _may_lock(size: int) -> bool:
    with mmap.mmap(-1, size) as pages:
        start = ctypes.c_char.from_buffer(pages)
        refused = ctypes.CDLL(None).mlock(ctypes.byref(start), ctypes.c_size_t(size))
        del start  # a mapping cannot be closed while a pointer into it exists
    return not refused


def build_extension() -> None:
    """Build DeepSpeed's extension for disks, or load what was built before; DeepSpeed then finds it loaded.

    One process at a time builds. Its lock ends with the process; a stale lock of torch's would block everyone forever.
    Raises SetupError if it cannot be stored, as for a user without a home.
    """
    import torch
    from deepspeed.ops.op_builder import AsyncIOBuilder, PinMemoryBuilder
    from torch.utils import cpp_extension

    # torch hands this path to a shell unquoted, and the checkout's path may have spaces.
    cpp_extension.TORCH_LIB_PATH = shlex.quote(str(Path(torch.__file__).parent / "lib"))
    os.environ["PATH"] += os.pathsep + str(Path(sys.executable).parent)  # ninja, without activation
    for builder in (PinMemoryBuilder(), AsyncIOBuilder()):  # the second links to the first
        try:
            folder = Path(cpp_extension._get_build_directory(builder.NAME, verbose=False))
        except OSError as error:
            raise SetupError(
                f"DeepSpeed's extension for disks cannot be compiled into {error.filename}: {error.strerror}; name "
                f"another folder, TORCH_EXTENSIONS_DIR=/path/to/it, {_OTHERWISE}"
            ) from error
        arguments = builder.cxx_args()
        builder.cxx_args = lambda arguments=arguments: [*arguments, "-g0"]  # without debug symbols: half the time
        with _locked(folder):
            (folder / "lock").unlink(missing_ok=True)
            if not any(folder.glob("*.so")):
                logger.info("compiling %s of DeepSpeed, once per machine; this takes some minutes", builder.NAME)
            builder.load(verbose=False)


def _try_to_write(folder: Path) -> None:
    """Write as the extension does: directly, which in-memory file systems refuse."""
    descriptor, path = tempfile.mkstemp(prefix=".", dir=folder)
    try:
        os.close(descriptor)
        os.close(os.open(path, os.O_WRONLY | os.O_DIRECT))
    finally:
        Path(path).unlink()


def _remove_abandoned(offload_folder: Path) -> None:
    """Remove the folders of dead processes; call with `offload_folder` locked."""
    for folder in offload_folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            os.close(_lock(folder, fcntl.LOCK_NB))
            shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: Path, how: int = 0) -> int:
    """Lock a folder until the descriptor is closed or the process ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = _lock(folder)
    try:
        yield
    finally:
        os.close(descriptor)
