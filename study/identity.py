"""What tells runs apart, and runs of another speed: keys from the settings and the trainer."""

from dataclasses import replace
from typing import Any

from study.templates import render_config
from study.terms import NEUTRAL_FOLDER, Placed
from study.trainer_command import command, environment
from trainer.config import DataConfig, OptimConfig, digest


def fingerprint(placed: Placed) -> str:
    """Sixteen hex digits that change with anything the results of a run depend on: settings, and
    the trainer's version, config and command. Folders do not count."""
    run = placed.run
    if placed.trainer.is_native:
        return run.fingerprint(placed.gpus)  # as it writes itself into run.json
    return digest({"run": run.fingerprint(placed.gpus), **_identity(_without_folders(placed))})


def speed_key(placed: Placed) -> str:
    """Sixteen hex digits; equal only if two runs are expected to have the same speed."""
    key, nodes = placed.run.speed_key(placed.gpus), placed.cluster.nodes(placed.gpus)
    more: dict[str, Any] = {"nodes": nodes} if nodes > 1 else {}
    if not placed.trainer.is_native:
        more |= _identity(_without_values(_without_folders(placed)))
    elif placed.trainer.found_version is not None:
        more["version"] = placed.trainer.found_version
    return digest({"run": key, **more}) if more else key


def _identity(placed: Placed) -> dict[str, Any]:
    """Return what of a trainer tells runs with equal settings apart."""
    trainer = placed.trainer
    return {
        "version": trainer.found_version,
        "config": render_config(placed),
        "command": command(placed),
        "environment": environment(placed),
        "setup": list(trainer.setup),
    }


def _without_folders(placed: Placed) -> Placed:
    """Return a run with neutral folders."""
    run = placed.run
    data = run.data.model_copy(update={"root_dir": NEUTRAL_FOLDER, "shards_dir": NEUTRAL_FOLDER})
    values: dict[str, Any] = {"dump_dir": NEUTRAL_FOLDER, "name": "run", "data": data}
    return replace(placed, run=run.model_copy(update=values))


def _without_values(placed: Placed) -> Placed:
    """Return a run with neutral values of the settings that cannot change the speed and differ
    between the runs of a study. `RunConfig.speed_settings` leaves out these and a few more."""
    run = placed.run
    optim = OptimConfig(
        name=run.optim.name,
        fused=run.optim.fused,
        clip=None if run.optim.clip is None else 1.0,
        warmup=10,
    )
    data: DataConfig = run.data.model_copy(update={"sources": {"text": 1.0}, "seed": None})
    values = {"steps": 1000, "seed": 0, "optim": optim, "data": data}
    values |= {"checkpoint": None, "eval": None}
    return replace(placed, run=run.model_copy(update=values))
