"""Checkpoints: torch.distributed.checkpoint folders, made visible by one atomic rename.

`checkpoints/<step>/` holds the tensors and state.json: the step, what the losses depend on, and the
size of every file, by which a torn copy is recognised.
"""

import contextlib
import io
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from trainer.config import CheckpointConfig
from trainer.parallel import World, agree, barrier

STATE = "state.json"
METADATA = ".metadata"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read."""


@dataclass(frozen=True)
class Position:
    """Where a checkpoint stands."""

    step: int
    """Optimizer steps done."""
    elapsed_s: float
    """Seconds of wall-clock time that the run had taken, over all attempts."""
    trajectory: str
    """`RunConfig.trajectory`: what the sequence of losses depends on."""


def due(config: CheckpointConfig | None, step: int, steps: int) -> list[str]:
    """Return the kinds of checkpoint to take after a step: `dump`, `eval`, both or none."""
    if config is None:
        return []
    kinds = [
        kind
        for kind, every in (("dump", config.dump.every), ("eval", config.eval.every))
        if every is not None and step % every == 0
    ]
    return kinds or (["dump"] if step == steps else [])


def save(
    folder: Path,
    position: Position,
    kinds: list[str],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    world: World,
) -> None:
    """Save after a step; every rank calls it. Readers see the whole checkpoint or none of it."""
    target = folder / f"{position.step:010d}"
    temporary = folder / f".saving-{position.step:010d}"
    if world.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    barrier(world)
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    with _alone_on_purpose():
        dcp.save(state, checkpoint_id=temporary, no_dist=world.size == 1)
    barrier(world)
    if world.is_main:
        files = {path.name: path.stat().st_size for path in temporary.iterdir()}
        facts = {**position.__dict__, "kinds": kinds, "files": files}
        (temporary / STATE).write_text(json.dumps(facts, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
        _flush(folder)
    barrier(world)


def prune(folder: Path, config: CheckpointConfig) -> None:
    """Delete what `keep` of each kind does not ask for; the newest stays in any case."""
    complete = list(_complete(folder))
    wanted = {path for path, _ in complete[:1]}
    for kind, keep in (("dump", config.dump.keep), ("eval", config.eval.keep)):
        of_kind = [path for path, facts in complete if kind in facts["kinds"]]
        wanted.update(of_kind if keep < 0 else of_kind[:keep])
    for path, _ in complete:
        if path not in wanted:
            shutil.rmtree(path, ignore_errors=True)


def find_newest(folder: Path, trajectory: str, world: World) -> Position | None:
    """Return the newest whole checkpoint of this trajectory; rank 0 looks, all ranks agree."""
    step = -1
    if world.is_main:
        steps = (f["step"] for _, f in _complete(folder) if f["trajectory"] == trajectory)
        step = next(steps, -1)
    step = agree(step, world)
    if step < 0:
        return None
    facts = json.loads((folder / f"{step:010d}" / STATE).read_text())
    return Position(facts["step"], facts["elapsed_s"], facts["trajectory"])


def load(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load the checkpoint of a step into a model and its optimizer. Raises CheckpointError."""
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": model_state, "optimizer": optimizer_state}
    source = folder / f"{step:010d}"
    alone = not torch.distributed.is_initialized()
    try:
        with _alone_on_purpose():
            dcp.load(state, storage_reader=_SafeReader(source), no_dist=alone)
    # torch's own exception is no Exception: it would pass by every other handler.
    except (OSError, RuntimeError, CheckpointException) as error:
        raise CheckpointError(f"{source}: cannot be read: {error}") from error
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )


def _complete(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the whole checkpoints and their state.json, newest first; say what is passed over."""
    for path in sorted(folder.glob("[0-9]*"), reverse=True):
        try:
            facts = json.loads((path / STATE).read_text())
            sizes = {name: (path / name).stat().st_size for name in facts["files"]}
        except (OSError, ValueError, KeyError) as error:
            print(f"warning: {path}: not a whole checkpoint, passed over: {error}", flush=True)
            continue
        if sizes == facts["files"]:
            yield path, facts
        else:
            print(f"warning: {path}: files are cut short, passed over", flush=True)


@contextlib.contextmanager
def _alone_on_purpose() -> Iterator[None]:
    """Keep torch from warning that there is no process group: a lone process needs none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _flush(folder: Path) -> None:
    """Make a rename in a folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _SafeReader(dcp.FileSystemReader):
    """Reads the index of a checkpoint without executing what a pickle may name.

    torch reads the tensors with weights_only, but the index with plain pickle.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / METADATA
        metadata = _MetadataUnpickler(io.BytesIO(path.read_bytes())).load()
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = dcp.StorageMeta()  # type: ignore[attr-defined]
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _MetadataUnpickler(pickle.Unpickler):
    MODULES = (
        "torch.distributed.checkpoint.metadata",
        "torch.distributed.checkpoint.filesystem",
    )
    NAMES = frozenset(
        {
            ("torch", "Size"),
            ("torch.serialization", "_get_layout"),
            ("torch._utils", "_rebuild_device"),
            ("torch", "device"),
            ("collections", "OrderedDict"),
            ("pathlib", "PosixPath"),
            ("builtins", "dict"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if module in self.MODULES or (module, name) in self.NAMES or dtype:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"the index names {module}.{name}, which is not a part of one")
