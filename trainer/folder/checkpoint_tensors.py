"""Writing and reading the tensors of a checkpoint with torch.distributed.checkpoint.

Imported on use: the import takes over a second, which would delay a run's start.
"""

import contextlib
import io
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed._state_dict_utils import _offload_state_dict_to_cpu
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.serialization import _get_layout
from torch.utils._pytree import tree_map

from trainer.folder.checkpoint_state import METADATA, CheckpointError
from trainer.folder.failure import find_full_disk, reason_of

PREFIX = "model."
"""What the names of weights begin with in an index; other names are the optimizer's."""


def copy_to_cpu(state: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a copy of a state on the CPU."""
    if device.type != "cpu":
        copied: dict[str, Any] = _offload_state_dict_to_cpu(state)
        return copied
    return tree_map(lambda item: item.detach().clone() if torch.is_tensor(item) else item, state)


def write_tensors(state: dict[str, Any], folder: Path, group: dist.ProcessGroup | None) -> None:
    """Write a state to a folder; all ranks of the group call it. Raises CheckpointException."""
    writer = _Writer(folder)
    with _no_group_warning_off():
        dcp.save(state, storage_writer=writer, process_group=group, no_dist=group is None)


def read_tensors(source: Path, state: dict[str, Any]) -> None:
    """Read into the tensors of `state`, whatever layout they were saved with; all ranks call it.

    Raises CheckpointError.
    """
    _read(_SafeReader(source), state, no_dist=not dist.is_initialized())


class ModelReader:
    """Reads the weights of a checkpoint, one rank by itself; objects elsewhere in it are ignored.

    Each method raises CheckpointError.
    """

    def __init__(self, source: Path) -> None:
        self._reader = _SafeReader(source, PREFIX)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all weights."""
        return {name: tuple(entry.size) for name, entry in self._entries().items()}

    def read(self, weights: dict[str, Tensor]) -> None:
        """Read into `weights`: of a distributed one, the part that this rank holds."""
        _read(self._reader, {"model": weights}, no_dist=True)

    def read_all(self) -> dict[str, Tensor]:
        """Return all weights."""
        weights = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in self._entries().items()
        }
        self.read(weights)
        return weights

    def _entries(self) -> dict[str, TensorStorageMetadata]:
        """Return name -> entry of the index."""
        try:
            index = self._reader.read_metadata().state_dict_metadata
        except (OSError, RuntimeError, ValueError, pickle.PickleError) as error:
            raise CheckpointError(f"{self._reader.path}: cannot be read: {error}") from error
        return {
            name.removeprefix(PREFIX): entry
            for name, entry in index.items()
            if isinstance(entry, TensorStorageMetadata)
        }


def _read(reader: "_SafeReader", state: dict[str, Any], no_dist: bool) -> None:
    source = reader.path
    try:
        with _no_group_warning_off():
            dcp.load(state, storage_reader=reader, no_dist=no_dist)
    # CheckpointException derives from BaseException, so other handlers would miss it.
    except (OSError, RuntimeError, ValueError, KeyError, CheckpointException) as error:
        raise CheckpointError(f"{source}: cannot be read: {reason_of(error)}") from error


@contextlib.contextmanager
def _no_group_warning_off() -> Iterator[None]:
    """Silence torch's warning about a missing process group, which a single process needs not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


class _Writer(dcp.FileSystemWriter):
    """Reports a full disk as such: torch's own error only says that a position is not as expected,
    and what caused it does not reach the other ranks."""

    def write_data(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().write_data(*args, **kwargs)
        except RuntimeError as error:
            full = find_full_disk(error)
            if full is None:
                raise
            raise OSError(full.errno, full.strerror, str(self.path)) from None


class _SafeReader(dcp.FileSystemReader):
    """Reads a checkpoint without executing code that its pickles may name.

    torch reads tensors with weights_only, but the index, and what the index declares as an object,
    with plain pickle.
    """

    def __init__(self, source: Path, prefix: str = "") -> None:
        """With a `prefix`, entries whose name does not begin with it are left out."""
        super().__init__(source)
        self._prefix = prefix
        self._metadata: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._metadata is None:
            self._metadata = self._load_metadata()
        return self._metadata

    def _load_metadata(self) -> Metadata:
        path = Path(self.path) / METADATA
        try:
            metadata = _MetadataUnpickler(io.BytesIO(path.read_bytes())).load()
            index = metadata.state_dict_metadata
            index = {name: entry for name, entry in index.items() if name.startswith(self._prefix)}
        except (OSError, pickle.PickleError):
            raise
        except Exception as error:  # a damaged pickle raises any
            raise pickle.UnpicklingError(f"{METADATA} is not an index: {error}") from error
        for name, entry in index.items():
            if not isinstance(entry, TensorStorageMetadata):
                raise pickle.UnpicklingError(f"{name} is not a tensor")
        metadata.state_dict_metadata = index
        metadata.storage_meta = getattr(metadata, "storage_meta", None) or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


# The types and functions that torch pickles into an index, by their names there.
_PARTS: dict[tuple[str, str], Any] = {
    (part.__module__, part.__qualname__): part
    for part in (
        *(Metadata, MetadataIndex, TensorStorageMetadata, TensorProperties),
        *(BytesStorageMetadata, ChunkStorageMetadata, StorageMeta, _MEM_FORMAT_ENCODING),
        *(_StorageInfo, torch.Size, _get_layout),
    )
}


def _memory_format(kind: Any, name: Any) -> _MEM_FORMAT_ENCODING:
    """Stand in for getattr, by which early releases of Python 3.11 pickle a member of an enum."""
    if kind is not _MEM_FORMAT_ENCODING:
        raise pickle.UnpicklingError(f"the index asks for '{name}' of what is no memory format")
    return _MEM_FORMAT_ENCODING[name]


# The second name is that of pickle's protocols below 3.
_PARTS["builtins", "getattr"] = _PARTS["__builtin__", "getattr"] = _memory_format


class _MetadataUnpickler(pickle.Unpickler):
    """Builds an index from its known parts, for any Python version; imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        part = _PARTS.get((module, name)) or _find_dtype(module, name) or _find_path(module, name)
        if part is None:
            raise pickle.UnpicklingError(
                f"the index names {module}.{name}, which does not belong in one"
            )
        return part


def _find_dtype(module: str, name: str) -> torch.dtype | None:
    found = vars(torch).get(name) if module == "torch" else None
    return found if isinstance(found, torch.dtype) else None


def _find_path(module: str, name: str) -> type[PurePosixPath] | None:
    """Return a pure path type for the folder that an index names.

    Python 3.13 pickles paths from pathlib._local, other versions from pathlib.
    """
    of_pathlib = module == "pathlib" or module.startswith("pathlib.")
    return PurePosixPath if of_pathlib and name in ("PosixPath", "WindowsPath") else None
