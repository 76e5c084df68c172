"""Checkpoints: torch.distributed.checkpoint folders, made visible by one atomic rename.

`checkpoints/<step>/` holds the tensors, the run's settings (run.yaml), and state.json: the step,
the run, and the size and checksum of every file, to detect truncated or changed ones. A checkpoint
loads on any number of processes and in any layout. Only the run's own checkpoints are ever replaced
or deleted.
"""

import shutil
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.collectives import share, waiting_for_all
from trainer.config import CheckpointConfig
from trainer.files import make_folder, move_aside, replace_durably
from trainer.folder.checkpoint_state import (
    STATE,
    Position,
    check_intact,
    complete,
    fingerprint_of,
    is_intact,
    of_step,
    read_state,
    write_state,
)
from trainer.model.optimizer import Optimizer
from trainer.records import CONFIG
from trainer.world import World

SAVING = ".saving-"
"""Prefix of an unfinished checkpoint's name."""

# trainer.folder.checkpoint_tensors is imported on use.


def due(config: CheckpointConfig | None, step: int, steps: int) -> list[str]:
    """Return the kinds of checkpoint to save after a step: `dump`, `eval`, both or none."""
    if config is None:
        return []
    kinds = [
        kind
        for kind, every in (("dump", config.dump.every), ("eval", config.eval.every))
        if every is not None and step % every == 0
    ]
    return kinds or (["dump"] if step == steps else [])


class Saver:
    """Saves one checkpoint at a time, in the background unless the config says otherwise.

    Readers see the complete checkpoint or none. All ranks call each method. The next call raises an
    error of the background thread.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig | None,
        world: World,
        settings: str | None = None,
    ) -> None:
        """`settings`: the text of run.yaml, part of each checkpoint.

        Raises ConfigError if the folder is not writable.
        """
        self._folder, self._config, self._world = folder, config, world
        self._settings = settings
        if config is not None and world.is_main:
            make_folder(folder, "checkpoint.path")
            for unfinished in folder.glob(f"{SAVING}*"):  # by killed attempts
                shutil.rmtree(unfinished, ignore_errors=True)
        # A separate group: training's collectives continue meanwhile.
        self._group = None
        if world.size > 1:
            self._group = dist.new_group(backend="gloo", timeout=world.timeout)
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(
        self,
        position: Position,
        kinds: list[str],
        model: nn.Module,
        optimizer: Optimizer,
    ) -> None:
        """Wait for the previous save, copy the state, and write the copy."""
        self.wait()
        state = _copy_state(model, optimizer)
        if self._config is None or not self._config.async_save:
            self._write(state, position, kinds)
            return
        self._thread = threading.Thread(
            target=self._write_async, args=(state, position, kinds), name="checkpoint"
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait for a save in progress."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _write_async(self, state: dict[str, Any], position: Position, kinds: list[str]) -> None:
        if self._world.device.type == "cuda":
            # The current device is per thread: on GPU 0, each rank would open a context.
            torch.cuda.set_device(self._world.device)
        try:
            self._write(state, position, kinds)
        # torch's CheckpointException derives from BaseException.
        except BaseException as error:
            self._failure = error

    def _write(self, state: dict[str, Any], position: Position, kinds: list[str]) -> None:
        target = of_step(self._folder, position.step)
        temporary = target.with_name(f"{SAVING}{target.name}")
        try:
            self._fill(temporary, state, {**asdict(position), "kinds": kinds})
            if self._world.is_main:
                _make_way(target, position)
                replace_durably(temporary, target)
                if self._config is not None:
                    prune(self._folder, self._config, position)
        except BaseException:  # a full disk, for example, which torch reports on all ranks
            if self._world.is_main:
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _fill(self, temporary: Path, state: dict[str, Any], facts: dict[str, Any]) -> None:
        from trainer.folder.checkpoint_tensors import write_tensors

        if self._world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self._barrier()
        write_tensors(state, temporary, self._group)
        self._barrier()
        if self._world.is_main:
            if self._settings is not None:
                (temporary / CONFIG).write_text(self._settings, encoding="utf-8")
            files = {path.name: fingerprint_of(path) for path in sorted(temporary.iterdir())}
            write_state(temporary, {**facts, "files": files})

    def _barrier(self) -> None:
        if self._group is not None:
            dist.all_reduce(torch.zeros(1), group=self._group)


def _copy_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Return a copy of the model and optimizer state on the CPU."""
    from trainer.folder.checkpoint_tensors import copy_to_cpu

    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    return copy_to_cpu(state, next(model.parameters()).device)


def _make_way(target: Path, position: Position) -> None:
    """Remove a run's earlier checkpoint of a step; move aside what is not the run's."""
    if not target.exists():
        return
    try:
        is_own = position.is_of(read_state(target))
    except (OSError, ValueError, KeyError):
        is_own = (target / STATE).exists()  # damaged: only the run's own get here, see owner.py
    if is_own:
        shutil.rmtree(target, ignore_errors=True)
        return
    aside = move_aside([target])
    print(f"warning: {target}: not this run's checkpoint; moved to {aside}", flush=True)


def prune(folder: Path, config: CheckpointConfig, position: Position) -> None:
    """Delete the checkpoints of a run that `keep` of no kind retains; that of `position` stays.

    Later ones are damaged, or the run would have resumed from them: they do not count.
    """
    ours = (item for item in complete(folder) if position.is_of(item[1]))
    found = [item for item in ours if item[1]["step"] <= position.step]
    wanted = {path for path, _ in found[:1]}
    for kind, keep in (("dump", config.dump.keep), ("eval", config.eval.keep)):
        of_kind = [path for path, facts in found if kind in facts["kinds"]]
        wanted.update(of_kind[:keep] if keep > 0 else of_kind)
    for path, _ in found:
        if path not in wanted:
            shutil.rmtree(path, ignore_errors=True)


def find_newest(folder: Path, start: Position, world: World) -> Position | None:
    """Return the newest intact checkpoint of the run that begins at `start`, or None.

    Rank 0's find, on all ranks.
    """
    step = -1
    with waiting_for_all(world):
        if world.is_main:
            ours = (item for item in complete(folder) if start.is_of(item[1]))
            step = next((facts["step"] for path, facts in ours if is_intact(path, facts)), -1)
    step = share(step, world)
    return None if step < 0 else Position.of(read_state(of_step(folder, step)))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights in a checkpoint, without building a model. Raises CheckpointError."""
    from trainer.folder.checkpoint_tensors import ModelReader

    weights = ModelReader(path).read_all()
    check_intact(path)
    return weights


def load(path: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Load a checkpoint into a model and its optimizer. Raises CheckpointError."""
    from trainer.folder.checkpoint_tensors import read_tensors

    # State dicts are views: reading into them loads the weights.
    read_tensors(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
