"""Step times in steady state from the logs of other trainers: lingua, torchtitan, nanoGPT.

The first interval of every attempt includes start-up and compilation and is left out, as are
intervals that include a checkpoint or an evaluation.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from study.grid import Cell
from trainer.config import ConfigError

TORCHTITAN = re.compile(r"step:\s*(\d+)\s.*?\btps:\s*([\d,.]+)")
"""A torchtitan line: `step: 10  loss: 7.12  grad_norm: 1.2  memory: ...  tps: 6,123  ...`."""

NANOGPT = re.compile(r"^iter (\d+): loss \S+, time ([\d.]+)ms")
"""A nanoGPT line: `iter 10: loss 3.1234, time 123.45ms, mfu 30.12%`."""

NANOGPT_EVALUATION = re.compile(r"^step \d+: train loss")
"""A nanoGPT line for an evaluation; the time of the next `iter` line includes it."""

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def read_lingua(path: Path, cell: Cell) -> list[float]:
    """Return the step times, s, in a lingua metrics.jsonl.

    `speed/wps` is tokens/s of one GPU. After a requeue, steps are logged again; the later records
    count. The interval after a checkpoint includes it.
    """
    found: list[tuple[int, float]] = []
    fresh = True  # the next record is the first of its attempt
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            step, wps = int(record["global_step"]), float(record["speed/wps"])
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, json.JSONDecodeError) and not line.endswith("\n"):
                continue  # cut off by a kill
            problem = f"line {number}: {error!r}; expected global_step and speed/wps"
            raise ConfigError(str(path), [problem]) from None
        if found and step <= found[-1][0]:
            found = [item for item in found if item[0] < step]
            fresh = True
        if wps > 0:
            found.append((step, 0.0 if fresh else cell.tokens_per_step / (wps * cell.gpus)))
        fresh = False
    saves = _periods(cell)
    previous = [0, *(step for step, _ in found)]
    return [
        step_s
        for before, (_, step_s) in zip(previous, found, strict=False)
        if step_s and not any(before and before % every == 0 for every in saves)
    ]


def _periods(cell: Cell) -> list[int]:
    """Return the number of steps between checkpoints, for each kind of checkpoint."""
    saves = cell.run.checkpoint
    return [] if saves is None else [k.every for k in (saves.dump, saves.eval) if k.every]


def read_torchtitan(path: Path, cell: Cell) -> list[float]:
    """Return the step times, s, in a torchtitan log, whose tps is tokens/s of one GPU."""
    found: list[tuple[int, float]] = []
    for line in _lines(path):
        match = TORCHTITAN.search(COLOURS.sub("", line))
        if match is None:
            continue
        step, tps = int(match[1]), float(match[2].replace(",", ""))
        first = not found or step <= found[-1][0]
        if first:
            found = [item for item in found if item[0] < step]
        if tps > 0:
            found.append((step, 0.0 if first else cell.tokens_per_step / (tps * cell.gpus)))
    return [step_s for _, step_s in found if step_s]


def read_nanogpt(path: Path, cell: Cell) -> list[float]:
    """Return the step times, s, in a nanoGPT log."""
    found: list[tuple[int, float]] = []
    evaluated = False
    for line in _lines(path):
        match = NANOGPT.match(line)
        if match is None:
            evaluated = evaluated or NANOGPT_EVALUATION.match(line) is not None
            continue
        step, step_s = int(match[1]), float(match[2]) / 1e3
        first = not found or step <= found[-1][0]
        if first:
            found = [item for item in found if item[0] < step]
        found.append((step, 0.0 if first or evaluated else step_s))
        evaluated = False
    return [step_s for _, step_s in found if step_s]


READERS: dict[str, Callable[[Path, Cell], list[float]]] = {
    "lingua": read_lingua,
    "torchtitan": read_torchtitan,
    "nanogpt": read_nanogpt,
}
"""Format of a log -> its reader: (path, cell) to the times of its steady steps, s."""


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from file
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from None


def percentiles(values: Iterable[float]) -> tuple[float, float, float]:
    """Return the 10th, 50th and 90th percentiles."""
    import numpy as np

    low, middle, high = (float(value) for value in np.quantile(list(values), (0.1, 0.5, 0.9)))
    return low, middle, high
