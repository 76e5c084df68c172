"""Two or more throughput tables, cell by cell: ratios, and whether they exceed the noise.

Runs that differ only in the seed are one cell, with the mean of their logarithmic speeds and of
their losses. The noise of a cell follows from the spread of repeated runs in all the tables
(`study.measure.repeats`). A difference exceeds it if it lies outside the two-sided 95% interval of
no difference, with Bonferroni's correction for the number of cells: where nothing has changed, one
comparison in twenty finds any cell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean, stdev

from study.config import Study
from study.load import load_study_file
from study.measure.repeats import loss_spread, speed_spread
from study.measure.throughput_row import ThroughputRow, read_rows
from trainer.problems import ConfigError

Label = tuple[str, ...]
"""Of a cell, without its seed: cluster, model, GPU count and variant; without what is compared."""

CONFIDENCE = 0.95
"""That no difference is found where there is none."""

LABELS = ("cluster", "model", "gpus", "variant")
"""What a cell is named by; the name of its variant includes its trainer's."""


@dataclass(frozen=True)
class Side:
    """The runs on one side of a comparison."""

    name: str
    rows: Sequence[ThroughputRow]

    @property
    def ran(self) -> str:
        """How many runs there are, of which commits and versions of torch."""
        facts = [f"{len(self.rows)} runs"]
        for what, values in (
            ("commit", [row.commit and row.commit[:9] for row in self.rows]),
            ("torch", [row.torch_version for row in self.rows]),
        ):
            known = dict.fromkeys(value for value in values if value)
            if known:
                facts.append(f"{what} {', '.join(known)}")
        return "; ".join(facts)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A cell on two sides. A value that is not known on both is None."""

    cell: str
    """The labels of the cell; empty for all cells together."""
    base: str
    other: str
    runs: str
    """Number of runs on each side."""
    base_speed: float | None
    """Tokens/s/GPU, the geometric mean over seeds."""
    other_speed: float | None
    speed_ratio: float | None
    """Other over base."""
    speed_noise: float | None
    """Half the width of the interval of no difference, relative."""
    speed: str
    """`faster`, `slower`, or `same`, which is within the noise; empty if not known."""
    memory_ratio: float | None
    base_loss: float | None
    """Held-out loss if both sides have it, otherwise the last training loss, nats per token."""
    other_loss: float | None
    loss_difference: float | None
    """Other minus base, nats per token."""
    loss_noise: float | None
    """Half the width of the interval of no difference; None if no seed was repeated."""
    loss: str
    """`lower`, `higher`, or `same`; empty if the noise is not known."""


def read_side(path: Path) -> Side:
    """Return the runs in a throughput.csv, a study's results folder, or a study file's results.

    Raises ConfigError if there is no table.
    """
    table = path
    if path.is_dir():
        table = path / "throughput.csv"
    elif path.suffix in (".yaml", ".yml", ".json"):
        study: Study = load_study_file(str(path))
        table = Path(study.folder, "throughput.csv")
    if not table.exists():
        found = "does not exist; expected a throughput table, which `snakemake --cores 1` writes"
        raise ConfigError(str(table), [found])
    return Side(str(path), [row for row in read_rows(table) if row.tokens_per_s_per_gpu])


def split(side: Side, key: str, base: str | None) -> list[Side]:
    """Return the runs of each value of a label as a side of its own, the base first.

    Without `base`, it is the value of the table's first run. Raises ConfigError if there are fewer
    than two values, or no base.
    """
    groups: dict[str, list[ThroughputRow]] = {}
    for row in side.rows:
        groups.setdefault(str(getattr(row, key)), []).append(row)
    names = list(groups)
    if base is not None and base not in groups:
        raise ConfigError(side.name, [f"no {key} '{base}'; found {', '.join(names) or 'no run'}"])
    if len(names) < 2:
        raise ConfigError(side.name, [f"found {len(names)} {key}; expected two or more to compare"])
    first = names[0] if base is None else base
    names.sort(key=lambda name: name != first)
    return [Side(name, groups[name]) for name in names]


def compare(base: Side, others: Sequence[Side], by: str | None = None) -> list[Difference]:
    """Return the cells that each side shares with the base, then all of its cells together.

    `by` is a label that differs between the sides. Raises ConfigError if a side shares no cell.
    """
    cells = {side.name: _cells(side, by) for side in (base, *others)}
    speeds = [[_speed(row) for row in rows] for group in cells.values() for rows in group.values()]
    losses = [_losses(rows) for group in cells.values() for rows in group.values()]
    noise = _Noise(speed_spread(speeds), loss_spread(losses))
    found = []
    for other in others:
        shared = [label for label in cells[base.name] if label in cells[other.name]]
        if not shared:
            raise ConfigError(other.name, [f"shares no cell with {base.name}; nothing to compare"])
        pairs = [(cells[base.name][label], cells[other.name][label]) for label in shared]
        rows = [
            _difference("/".join(label), base, other, pair, noise, len(shared))
            for label, pair in zip(shared, pairs, strict=True)
        ]
        found += [*rows, _together(rows, base, other, pairs, noise)]
    return found


def unshared(base: Side, other: Side, by: str | None = None) -> dict[str, list[str]]:
    """Return the cells of each of two sides that the other lacks."""
    mine, theirs = _cells(base, by), _cells(other, by)
    return {
        base.name: ["/".join(label) for label in mine if label not in theirs],
        other.name: ["/".join(label) for label in theirs if label not in mine],
    }


def slower_than(differences: Sequence[Difference], percent: float) -> list[str]:
    """Return the cells that are slower by more than a threshold, beyond the noise."""
    found = []
    for row in differences:
        ratio = row.speed_ratio or 1.0
        if row.speed == "slower" and ratio < 1 - percent / 100:
            noise = f", with a noise of {row.speed_noise:.1%}"
            found.append(f"{row.other}, {row.cell or 'all cells'}: {1 - ratio:.1%}{noise}")
    return found


@dataclass(frozen=True)
class _Noise:
    """Standard deviations of a run: of the logarithm of its speed, and of its loss, nats."""

    speed: float
    loss: float | None


def _cells(side: Side, by: str | None) -> dict[Label, list[ThroughputRow]]:
    cells: dict[Label, list[ThroughputRow]] = {}
    for row in side.rows:
        cells.setdefault(_label(row, by), []).append(row)
    return cells


def _label(row: ThroughputRow, by: str | None) -> Label:
    texts = {name: str(getattr(row, name)) for name in LABELS} | {"gpus": f"gpus-{row.gpus}"}
    if by == "trainer":
        texts["variant"] = row.plain_variant or row.variant
    return tuple(text for name, text in texts.items() if name != by)


def _speed(row: ThroughputRow) -> float:
    assert row.tokens_per_s_per_gpu is not None
    return row.tokens_per_s_per_gpu


def _losses(rows: Sequence[ThroughputRow]) -> list[float]:
    """Return the held-out losses if there are any, otherwise the last training losses."""
    return _comparable_losses(rows, rows)[0]


def _difference(
    cell: str,
    base: Side,
    other: Side,
    pair: tuple[Sequence[ThroughputRow], Sequence[ThroughputRow]],
    noise: _Noise,
    cells: int,
) -> Difference:
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / cells)
    share = math.sqrt(sum(1 / len(rows) for rows in pair))
    a, b = (fmean(math.log(_speed(row)) for row in rows) for rows in pair)
    width = z * noise.speed * share
    losses = [_mean(values) for values in _comparable_losses(*pair)]
    gap = _minus(losses[1], losses[0])
    loss_width = None if noise.loss is None or gap is None else z * noise.loss * share
    memory = [_mean([row.peak_memory_gib for row in rows if row.peak_memory_gib]) for rows in pair]
    return Difference(
        cell=cell,
        base=base.name,
        other=other.name,
        runs=f"{len(pair[0])}, {len(pair[1])}",
        base_speed=math.exp(a),
        other_speed=math.exp(b),
        speed_ratio=math.exp(b - a),
        speed_noise=math.expm1(width),
        speed=_verdict(b - a, width, "slower", "faster"),
        memory_ratio=memory[1] / memory[0] if memory[0] and memory[1] else None,
        base_loss=losses[0],
        other_loss=losses[1],
        loss_difference=gap,
        loss_noise=loss_width,
        loss=_verdict(gap, loss_width, "lower", "higher"),
    )


def _comparable_losses(
    first: Sequence[ThroughputRow], second: Sequence[ThroughputRow]
) -> tuple[list[float], list[float]]:
    """Return the losses of both, of one kind: held-out if both have them."""
    sides = (first, second)
    held_out = [[row.val_loss for row in rows if row.val_loss is not None] for rows in sides]
    if all(held_out):
        return held_out[0], held_out[1]
    last = [[row.loss_last for row in rows if row.loss_last is not None] for rows in sides]
    return last[0], last[1]


def _together(
    rows: Sequence[Difference],
    base: Side,
    other: Side,
    pairs: Sequence[tuple[Sequence[ThroughputRow], Sequence[ThroughputRow]]],
    noise: _Noise,
) -> Difference:
    """Return the mean over cells.

    Its noise follows from the spread of runs, or from that of the cells' ratios if that is larger.
    """
    z, count = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2), len(rows)
    share = math.sqrt(sum(1 / len(runs) for pair in pairs for runs in pair)) / count
    ratios = [math.log(row.speed_ratio) for row in rows if row.speed_ratio]
    ratio, width = fmean(ratios), z * max(noise.speed * share, _error(ratios))
    gaps = [row.loss_difference for row in rows if row.loss_difference is not None]
    gap = fmean(gaps) if len(gaps) == count else None
    known = noise.loss is not None and gap is not None
    loss_width = z * max((noise.loss or 0.0) * share, _error(gaps)) if known else None
    memory = [math.log(row.memory_ratio) for row in rows if row.memory_ratio]
    return Difference(
        cell="",
        base=base.name,
        other=other.name,
        runs=", ".join(str(sum(len(pair[i]) for pair in pairs)) for i in (0, 1)),
        base_speed=None,
        other_speed=None,
        speed_ratio=math.exp(ratio),
        speed_noise=math.expm1(width),
        speed=_verdict(ratio, width, "slower", "faster"),
        memory_ratio=math.exp(fmean(memory)) if len(memory) == count else None,
        base_loss=None,
        other_loss=None,
        loss_difference=gap,
        loss_noise=loss_width,
        loss=_verdict(gap, loss_width, "lower", "higher"),
    )


def _error(values: Sequence[float]) -> float:
    """Return the standard error of a mean; 0 for too few values to tell."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 2 else 0.0


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _verdict(value: float | None, width: float | None, below: str, above: str) -> str:
    if value == 0:
        return "same"
    if value is None or width is None:
        return ""
    if abs(value) <= width:
        return "same"
    return below if value < 0 else above
