"""Sends a run's records to TensorBoard and Weights & Biases.

metrics.jsonl remains the source of truth. A tracker that fails is reported once and then dropped:
no run fails because the network or a login is missing.
"""

import hashlib
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from trainer.config import RunConfig
from trainer.problems import ConfigError

LOGIN_TIMEOUT_S = 30
"""Seconds that wandb may wait for an API key at the terminal, where a run has no user."""


def check_trackers(config: RunConfig) -> None:
    """Raise ConfigError if the library of a configured tracker is not installed."""
    asked = {"wandb": config.logging.wandb is not None, "tensorboard": config.logging.tensorboard}
    problems = [
        f"logging.{name}: needs `pip install {name}`, which is not installed"
        for name, wanted in asked.items()
        if wanted and importlib.util.find_spec(name) is None
    ]
    if problems:
        raise ConfigError(f"run '{config.name}'", problems)


class Tracker(Protocol):
    """One destination of records."""

    def write(self, record: dict[str, Any]) -> None:
        """Send the numbers of a record."""

    def close(self) -> None:
        """Send what is left."""


class Trackers:
    """The trackers that a run's settings name, on the main process."""

    def __init__(self, config: RunConfig, step: int, began: str) -> None:
        """`began` is the start time of the first attempt, `step` that of the checkpoint."""
        makers: dict[str, Callable[[], Tracker]] = {}
        if config.logging.tensorboard:
            makers["tensorboard"] = partial(_TensorBoard, config, step)
        if config.logging.wandb is not None:
            makers["wandb"] = partial(_Wandb, config, began)
        self._open: dict[str, Tracker] = {}
        for name, make in makers.items():
            self._try(name, partial(self._add, name, make))

    def write(self, record: dict[str, Any]) -> None:
        """Send the numbers of a record; its step is under `global_step`."""
        for name, tracker in list(self._open.items()):
            self._try(name, partial(tracker.write, record))

    def close(self) -> None:
        """Send what is left."""
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.close)
        self._open.clear()

    def _add(self, name: str, make: Callable[[], Tracker]) -> None:
        self._open[name] = make()

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # the run continues, whatever a library raises
            self._open.pop(name, None)
            problem = f"{type(error).__name__}: {error}"
            print(f"warning: {name}: failed, gets no more records: {problem}", flush=True)


def numbers(record: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a record, without its step."""
    return {
        key: value
        for key, value in record.items()
        if isinstance(value, int | float) and key != "global_step"
    }


class _TensorBoard:
    def __init__(self, config: RunConfig, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Drop events after the checkpoint's step: those steps are repeated.
        self._writer = SummaryWriter(str(Path(config.dump_dir, "tensorboard")), purge_step=step + 1)

    def write(self, record: dict[str, Any]) -> None:
        for key, value in numbers(record).items():
            self._writer.add_scalar(key, value, record["global_step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, config: RunConfig, began: str) -> None:
        import wandb

        assert config.logging.wandb is not None
        given = config.logging.wandb.model_dump(exclude_none=True)
        defaults = {
            "name": config.name,
            "dir": config.dump_dir,
            "id": make_id(config.dump_dir, began),
            "resume": "allow",
        }
        self._run = wandb.init(
            **(defaults | given),
            config=config.model_dump(mode="json"),
            # train.log has the console output; wandb would keep a copy.
            settings=wandb.Settings(console="off", login_timeout=LOGIN_TIMEOUT_S),
        )

    def write(self, record: dict[str, Any]) -> None:
        self._run.log(numbers(record), step=record["global_step"])

    def close(self) -> None:
        self._run.finish()


def make_id(dump_dir: str, began: str) -> str:
    """Return an id for a run: the same for all its attempts, but not for the folder's next run."""
    return hashlib.sha256(f"{Path(dump_dir).absolute()}\n{began}".encode()).hexdigest()[:16]
