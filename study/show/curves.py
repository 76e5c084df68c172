"""Loss curves for drawing: thinned without losing spikes, and many runs as one band.

The horizontal axis is logarithmic, so points are compared within `PER_DECADE` equal parts of each
decade.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from study.grid import Cell
from study.measure.run_files import Run

PER_DECADE = 200
"""Parts of a decade in which a curve keeps four points: less than a pixel of a panel."""

BAND_PER_DECADE = 25
"""Parts of a decade in which a band has one value."""

BAND_PARTS = 25
"""Least parts of the horizontal axis in which a band has one value: the times of runs that are
short beside their start-up are a small part of a decade."""


@dataclass(frozen=True)
class Line:
    """Points of one run, thinned: x is above 0 and ascending; y is NaN where it is not finite."""

    x: np.ndarray
    y: np.ndarray


ALONG = {
    "steps": "Steps",
    "tokens": "Tokens",
    "time": "Wall-clock time (s)",
    "flops": "Model FLOPs",
}
"""What a loss is drawn against -> the axis's label."""


@dataclass(frozen=True)
class Curve:
    """The losses of one run, against each of `ALONG`."""

    cell: Cell
    training: dict[str, Line]
    """Name in `ALONG` -> training losses."""
    validation: dict[str, Line]
    """Name in `ALONG` -> validation losses, not thinned; x is NaN if a time was not recorded."""
    diverged: bool

    @classmethod
    def of(cls, cell: Cell, run: Run) -> "Curve":
        """Return the curve of a run."""
        steps, times, losses = (run.records.column(name) for name in ("step", "elapsed_s", "loss"))
        training = {name: thin(x, losses) for name, x in _along(cell, steps, times).items()}
        known = [item for item in run.evaluations if item.loss is not None]
        # None becomes NaN.
        steps, times, losses = (
            np.array([getattr(item, name) for item in known], dtype=float)
            for name in ("step", "elapsed_s", "loss")
        )
        validation = {name: Line(x, losses) for name, x in _along(cell, steps, times).items()}
        return cls(cell, training, validation, run.summary.outcome == "diverged")

    @property
    def has_loss(self) -> bool:
        """Any training loss is finite."""
        return bool(np.isfinite(self.training["tokens"].y).any())


def _along(cell: Cell, steps: np.ndarray, times: np.ndarray) -> dict[str, np.ndarray]:
    tokens, flops = steps * cell.tokens_per_step, steps * cell.flops_per_step
    return {"steps": steps, "tokens": tokens, "time": times, "flops": flops}


def thin(x: np.ndarray, y: np.ndarray) -> Line:
    """Return the first, the last, the lowest and the highest point of each part of a decade.

    A value that is not finite stays in its part too, as a gap. Points at x = 0 are left out: a
    logarithmic axis has no place for them.
    """
    kept = thinned(x, y)
    return Line(x[kept], y[kept])


def thinned(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the positions of the points that `thin` keeps, ascending."""
    shown = np.flatnonzero(x > 0)
    x, y = x[shown], y[shown]
    if len(x) <= PER_DECADE:
        return shown
    parts = _parts(x, PER_DECADE)
    kept = [np.unique(parts, return_index=True)[1], len(x) - 1 - _first_of(parts[::-1])]
    gap = ~np.isfinite(y)
    for value in (np.where(gap, np.inf, y), np.where(gap, np.inf, -y), np.where(gap, 0.0, 1.0)):
        order = np.lexsort((value, parts))
        kept.append(order[_first_of(parts[order])])
    return shown[np.unique(np.concatenate(kept))]


@dataclass(frozen=True)
class Band:
    """Many runs as one: the median of their losses, and all of their range."""

    x: np.ndarray
    middle: np.ndarray
    """NaN until more than half of the runs have begun: against time, the first loss of a run joins
    losses that others have lowered since, and their median would rise."""
    low: np.ndarray
    high: np.ndarray
    runs: int


def band(lines: Sequence[Line]) -> Band:
    """Return the band of some runs: in each part of a decade the median of the runs' own medians,
    of x and of the loss, and the lowest and the highest loss of any run. At least one loss is
    finite."""
    per_decade = _band_parts(lines)
    found: dict[int, list[np.ndarray]] = {}
    begins = []
    for line in lines:
        known = np.isfinite(line.y)
        if not known.any():
            continue
        x, y = line.x[known], line.y[known]
        parts = _parts(x, per_decade)
        starts = _first_of(parts)
        of_parts = [
            [np.median(log_x), np.median(v), v.min(), v.max()]
            for log_x, v in zip(
                np.split(np.log10(x), starts[1:]), np.split(y, starts[1:]), strict=True
            )
        ]
        # Between two of its points, a run is drawn as a line.
        every = np.arange(parts[0], parts[-1] + 1)
        begins.append(parts[0])
        for part, *values in zip(
            every.tolist(),
            *(np.interp(every, parts[starts], column) for column in np.array(of_parts).T),
            strict=True,
        ):
            found.setdefault(part, []).append(np.array(values))
    known_parts = sorted(found)
    most_began = sorted(begins)[len(begins) // 2]
    columns = [np.array(found[part]).T for part in known_parts]  # log x, median, lowest, highest
    return Band(
        x=10 ** np.array([np.median(logs) for logs, *_ in columns]),
        middle=np.array(
            [
                np.median(medians) if part >= most_began else np.nan
                for part, (_, medians, *_) in zip(known_parts, columns, strict=True)
            ]
        ),
        low=np.array([lowest.min() for *_, lowest, _ in columns]),
        high=np.array([highest.max() for *_, highest in columns]),
        runs=len(lines),
    )


def _band_parts(lines: Sequence[Line]) -> int:
    """Return the parts of a decade in which a band of some runs has one value."""
    known = np.concatenate([line.x[np.isfinite(line.y)] for line in lines])
    decades = np.log10(known.max() / known.min())
    return max(BAND_PER_DECADE, math.ceil(BAND_PARTS / decades) if decades else 0)


def _parts(x: np.ndarray, per_decade: int) -> np.ndarray:
    return np.floor(np.log10(x) * per_decade).astype(int)


def _first_of(parts: np.ndarray) -> np.ndarray:
    """Return the index of the first element of each run of equal values."""
    return np.flatnonzero(np.diff(parts, prepend=parts[:1] - 1))
