"""Runs that no trainer made: settings, run.json, checkpoints of a small model."""

from pathlib import Path
from typing import Any

import torch

from trainer.config import ModelConfig, OptimConfig, RunConfig
from trainer.folder import checkpoint
from trainer.folder.checkpoint_state import Position
from trainer.layers import merge
from trainer.model.adamw import AdamW
from trainer.model.model import Transformer
from trainer.model.optimizer import Optimizer
from trainer.records import Attempt, RunSummary
from trainer.world import World

ALONE = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))
SHAPE = {"dim": 32, "n_layers": 2, "n_heads": 4, "multiple_of": 16}
BATCH = torch.arange(66).view(2, 33)


def run_config(folder: Path, **changes: Any) -> RunConfig:
    """Return the settings of a run; mappings in `changes` are merged key by key."""
    values = {
        "dump_dir": str(folder),
        "steps": 10,
        "model": {"dim": 64, "n_layers": 2, "n_heads": 2},
        "data": {"root_dir": "data", "sources": {"text": 1.0}},
    }
    return RunConfig.model_validate(merge(values, changes))


def make_summary(**changes: object) -> RunSummary:
    """Return what run.json says of a run in its first attempt."""
    attempt = Attempt(attempt=1, start="2026-01-01T00:00:00+00:00", fingerprint="f")
    values = {"status": "running", "params": 1, "fingerprint": "f", "attempts": (attempt,)}
    return RunSummary.model_validate({**values, **changes})


def save_now(
    folder: Path, position: Position, kinds: list[str], model: Transformer, optimizer: Optimizer
) -> None:
    """Save a checkpoint and wait until it is written."""
    saver = checkpoint.Saver(folder, None, ALONE)
    saver.save(position, kinds, model, optimizer)
    saver.wait()


def make_run(folder: Path, model: dict[str, Any] | None = None, **data: Any) -> Transformer:
    """Save a model at steps 1 and 2, as a run does; return that of step 2."""
    shape = {**SHAPE, **(model or {})}
    config = run_config(folder, name="a run", steps=2, model=shape, data={"seq_len": 48, **data})
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(config.to_yaml())
    made = Transformer(config.model, config.data.tokenizer.vocab_size, config.data.seq_len)
    for step in (1, 2):
        made.init_weights(step)
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.ndim == 1:  # norms of ones would hide one that is lost
                    parameter.uniform_(0.5, 1.5, generator=generator)
        optimizer = AdamW(made, config.optim)
        position = Position(step, 1.0, "trajectory")
        save_now(folder / "checkpoints", position, ["dump"], made, optimizer)
    return made


class SmallRun:
    """A model and its optimizer, which take steps and are saved without a loop."""

    def __init__(self, seed: int = 0) -> None:
        self.model = Transformer(ModelConfig(dim=32, n_layers=1, n_heads=2), 258, 32)
        self.model.init_weights(seed)
        self.optimizer = AdamW(self.model, OptimConfig(lr=1e-2))

    def steps(self, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            self.optimizer.zero_grad()
            loss = self.model(BATCH[:, :-1], BATCH[:, 1:])
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses

    def save(self, folder: Path, step: int, *kinds: str) -> None:
        position = Position(step, 1.5 * step, "trajectory")
        save_now(folder, position, list(kinds), self.model, self.optimizer)


def steps_in(folder: Path) -> list[int]:
    """Return the steps whose checkpoints are in a folder."""
    return sorted(int(path.name) for path in folder.glob("[0-9]*"))
