"""Weights in files of other programs, and of other runs, read into a model in any layout.

Imported on use: the import takes over a second.
"""

import contextlib
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

from trainer.folder.checkpoint_state import CONSOLIDATED, CheckpointError
from trainer.folder.checkpoint_tensors import ModelReader
from trainer.json_files import parse_json
from trainer.model.weight_names import Shape, transformers_name

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
FLOATS = ("F16", "BF16", "F32", "F64")

Box = tuple[slice, ...]
"""The rows, and columns if any, of a part of a tensor."""


class WeightFiles(ABC):
    """The weights in a folder. Each method raises CheckpointError."""

    shapes: Mapping[str, Shape]
    """Name in the files -> shape."""

    def name(self, ours: str) -> str:
        """Return the name in the files of one of our weights."""
        return ours

    @abstractmethod
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy into `weights`, under our names: of a distributed one, this rank's part."""


class OurCheckpoint(WeightFiles):
    """A checkpoint of ours."""

    def __init__(self, folder: Path) -> None:
        self._reader = ModelReader(folder)
        self.shapes = self._reader.shapes()

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Read only the part that this rank holds."""
        self._reader.read(dict(weights))


class LinguaCheckpoint(OurCheckpoint):
    """A checkpoint of lingua: the same names, but the rows of wq and wk in another order."""

    def __init__(self, folder: Path, head_dim: int) -> None:
        super().__init__(folder)
        self._head_dim = head_dim

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Read only the part that this rank holds, but the whole of one wq or wk at a time."""
        self._reader.read({name: part for name, part in weights.items() if not is_rotary(name)})
        for name, target in weights.items():
            if is_rotary(name):
                whole = torch.empty(tuple(target.shape))
                self._reader.read({name: whole})
                _copy(target, _Reordered(whole, self._head_dim))


class ConsolidatedFile(WeightFiles):
    """lingua's consolidated.pth, mapped into memory: only the parts that are used are read."""

    def __init__(self, folder: Path, head_dim: int) -> None:
        self._head_dim = head_dim
        path = folder / CONSOLIDATED
        try:
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except pickle.UnpicklingError:
            problem = "is not a file of tensors alone, which torch.load(weights_only=True) reads"
            raise CheckpointError(f"{path}: {problem}") from None
        except Exception as error:  # a damaged file raises any
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        weights = content.get("model") if isinstance(content, dict) else None
        if not isinstance(weights, dict) or not all(map(_is_weight, weights.values())):
            raise CheckpointError(f"{path}: found no tensors under the key 'model'")
        self._weights: dict[str, Tensor] = weights
        self.shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Read only the part that this rank holds."""
        for name, target in weights.items():
            whole = self._weights[name]
            _copy(target, _Reordered(whole, self._head_dim) if is_rotary(name) else whole)


class SafetensorsFolder(WeightFiles):
    """The model.safetensors of transformers, or the files in its index."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        shapes = {}
        for path, names in _list_files(folder).items():
            found = _read_header(path)
            for name in names if names is not None else found:
                if name not in found:
                    problem = f"found no {name}, which {SAFETENSORS_INDEX} expects there"
                    raise CheckpointError(f"{path}: {problem}")
                self._files[name], shapes[name] = path, found[name]
        self.shapes = shapes

    def name(self, ours: str) -> str:
        """Return transformers' name."""
        return transformers_name(ours)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Read only the part that this rank holds."""
        for path in sorted(set(self._files.values())):
            with _opened(path) as file:
                for ours, target in weights.items():
                    if self._files[self.name(ours)] == path:
                        _copy(target, file.get_slice(self.name(ours)))


class _Reordered:
    """A matrix wq or wk of lingua, with the rows in our order."""

    def __init__(self, whole: Tensor, head_dim: int) -> None:
        self._whole = whole
        self._rows = rotary_rows(len(whole), head_dim)

    def __getitem__(self, box: Box) -> Tensor:
        return self._whole[self._rows[box[0]], box[1]]


class _Sliceable(Protocol):
    """A tensor, or one that is read as it is indexed."""

    def __getitem__(self, box: Box) -> Tensor: ...


def is_rotary(name: str) -> bool:
    """Say whether a weight's rows are rotated by position: those of queries and keys."""
    return name.endswith(("attention.wq.weight", "attention.wk.weight"))


def rotary_rows(rows: int, head_dim: int) -> Tensor:
    """Return for each of our rows of wq or wk the one of lingua's, (rows,).

    lingua rotates the pairs (2i, 2i+1) of a head, as Meta's Llama; we, as transformers, the pairs
    (i, i + head_dim/2).
    """
    pairs = torch.arange(rows).view(-1, head_dim // 2, 2)  # (heads, pairs, 2)
    return pairs.transpose(1, 2).flatten()


def _copy(target: Tensor, source: _Sliceable) -> None:
    """Copy a whole tensor, or of a distributed one the part that this rank holds."""
    offsets, sizes = [0] * target.ndim, list(target.shape)
    if isinstance(target, DTensor):
        (chunk,) = target.__create_chunk_list__()
        offsets, sizes = list(chunk.offsets), list(chunk.sizes)
        target = target.to_local()
    if target.numel():  # an uneven division leaves some ranks nothing
        ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
        target.copy_(source[tuple(map(slice, offsets, ends))])


def _is_weight(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _list_files(folder: Path) -> dict[Path, list[str] | None]:
    """Return the files -> the names that the index says they hold; None without an index."""
    index = folder / SAFETENSORS_INDEX
    if not index.exists():
        if not (folder / SAFETENSORS).exists():
            raise CheckpointError(f"{folder}: found neither {SAFETENSORS} nor {SAFETENSORS_INDEX}")
        return {folder / SAFETENSORS: None}
    try:
        named = parse_json(index.read_bytes())["weight_map"]
        files: dict[Path, list[str] | None] = {}
        for name, file in named.items():
            if Path(file).name != file:
                raise ValueError(f"'{file}' is not the name of a file in the folder")
            names = files.setdefault(folder / file, [])
            assert names is not None
            names.append(name)
    except Exception as error:  # not JSON, or of other types
        raise CheckpointError(f"{index}: cannot be read: {error!r}") from error
    return files


def _read_header(path: Path) -> dict[str, Shape]:
    """Return the shapes in a file."""
    found = {}
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_slice(name)
            if tensor.get_dtype() not in FLOATS:
                expected = ", ".join(FLOATS)
                problem = f"{name}: found {tensor.get_dtype()} numbers; expected {expected}"
                raise CheckpointError(f"{path}: {problem}")
            found[name] = tuple(tensor.get_shape())
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
