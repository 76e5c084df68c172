"""Two or more throughput tables, cell by cell: ratios, and whether they exceed the noise.

Runs that differ only in the seed are one cell, with the mean of their logarithmic speeds and of
their losses. The noise follows from the spread of repeated runs in all the tables, of the losses
from those of the kind that is compared, on one text. A difference exceeds it if it lies outside the
two-sided 95% interval of no difference (Student's t), with Bonferroni's correction for the number
of cells: where nothing has changed, one comparison in twenty finds any cell.

Where too few cells were repeated, no verdict is possible; the threshold of a CI then assumes a
noise of the speed.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from statistics import fmean
from typing import Any

from study.config import DEFAULT_FILE
from study.formats import format_number_of
from study.load import load_study_file
from study.measure.comparability import Pair, losses_compare, unlike
from study.measure.interval import CONFIDENCE, Width, assumed_width, width_of_mean, width_of_runs
from study.measure.losses import TRAINING, VALIDATION
from study.measure.noise import Noise, noise_within
from study.measure.repeats import relative_spread
from study.measure.throughput_row import ThroughputRow, read_rows
from study.sequences import group_by
from trainer.problems import ConfigError

Label = tuple[str, ...]
"""Of a cell, without its seed: cluster, model, GPU count and variant; without what is compared."""

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
        facts = [format_number_of(len(self.rows), "run")]
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
    """Tokens/s/GPU, the geometric mean over seeds; None of all cells together."""
    other_speed: float | None
    speed_ratio: float
    """Other over base."""
    speed_noise: float
    """Half the width of the interval of no difference, relative."""
    speed_degrees: int
    """Degrees of freedom of the noise; 0 if it is assumed, as too little was repeated."""
    speed: str
    """`faster`, `slower`, or `same`, which is within the noise; empty if the noise is assumed."""
    memory_ratio: float | None
    loss_kind: str
    """Held-out loss if every trained run on both sides has one, otherwise the training loss."""
    base_loss: float | None
    """Mean of the runs that were trained to their end, nats per token."""
    other_loss: float | None
    loss_difference: float | None
    """Other minus base, nats per token."""
    loss_noise: float | None
    """Half the width of the interval of no difference; None if too few seeds were repeated."""
    loss_degrees: int
    """Degrees of freedom of the noise."""
    loss: str
    """`lower`, `higher`, or `same`; empty if the noise is not known, or losses do not compare."""
    note: str
    """What differs besides the label that is compared, base first; and which losses are missing."""


def read_side(path: Path) -> Side:
    """Return the runs in a throughput.csv, a study's results folder, or a study file's results.

    Raises ConfigError if there is no table.
    """
    if path.is_dir():
        table, file = path / "throughput.csv", path / "study.yaml"
    elif path.suffix in (".yaml", ".yml", ".json"):
        table, file = Path(load_study_file(str(path)).folder, "throughput.csv"), path
    else:
        table, file = path, path.with_name("study.yaml")
    if not table.exists():
        raise ConfigError(str(table), [f"does not exist; expected {_tell_command(file)}"])
    return Side(str(path), [row for row in read_rows(table) if row.tokens_per_s_per_gpu])


def _tell_command(file: Path) -> str:
    """Return what writes the table of a study; `file` is the study's, and may not exist."""
    if not file.exists():
        return "a throughput table, a study's results folder, or a study file"
    # Without a file, Snakemake trains the default study.
    name = (
        ""
        if file.resolve() == Path(DEFAULT_FILE).resolve()
        else f" --configfile {quote(str(file))}"
    )
    return f"a throughput table, which `snakemake --cores 1{name}` writes"


def split(side: Side, key: str, base: str | None) -> list[Side]:
    """Return the runs of each value of a label as a side of its own, the base first.

    Without `base`, it is the value of the table's first run. Raises ConfigError if there are fewer
    than two values, or no base.
    """
    groups = group_by(side.rows, lambda row: str(getattr(row, key)))
    names = list(groups)
    if base is not None and base not in groups:
        raise ConfigError(side.name, [f"no {key} '{base}'; found {', '.join(names) or 'no run'}"])
    if len(names) < 2:
        raise ConfigError(side.name, [f"found {len(names)} {key}; expected two or more to compare"])
    first = names[0] if base is None else base
    names.sort(key=lambda name: name != first)
    return [Side(name, groups[name]) for name in names]


def compare(base: Side, others: Sequence[Side], by: str | None = None) -> list[Difference]:
    """Return the cells that each side shares with the base, then all of its cells together; of a
    side that shares none, nothing.

    `by` is a label that differs between the sides. Raises ConfigError if no side shares a cell.
    """
    cells = {side.name: _cells(side, by) for side in (base, *others)}
    groups = [rows for group in cells.values() for rows in group.values()]
    on_one_text = [same for rows in groups for same in group_by(rows, _text).values()]
    noise = _Noise(
        noise_within(_log_speeds(rows) for rows in groups),
        relative_spread(_speeds(rows) for rows in groups),
        {kind: noise_within(_losses(rows, kind) for rows in on_one_text) for kind in KINDS},
    )
    found = []
    for other in others:
        shared = [label for label in cells[base.name] if label in cells[other.name]]
        if not shared:
            continue
        pairs = [(cells[base.name][label], cells[other.name][label]) for label in shared]
        kind = _kind(rows for pair in pairs for rows in pair)
        rows = [
            _difference("/".join(label), base, other, pair, kind, noise, len(shared), by)
            for label, pair in zip(shared, pairs, strict=True)
        ]
        found += [*rows, _together(rows, pairs, noise, by)]
    if not found:
        names = ", ".join(other.name for other in others)
        raise ConfigError(base.name, [f"shares no cell with {names}; nothing to compare"])
    return found


def unshared(base: Side, other: Side, by: str | None = None) -> dict[str, list[str]]:
    """Return the cells of each of two sides that the other lacks."""
    mine, theirs = _cells(base, by), _cells(other, by)
    return {
        base.name: ["/".join(label) for label in mine if label not in theirs],
        other.name: ["/".join(label) for label in theirs if label not in mine],
    }


def slower_than(differences: Sequence[Difference], percent: float) -> list[str]:
    """Return the cells that are slower by more than a threshold and the noise together."""
    found = []
    for row in differences:
        ratio, noise = row.speed_ratio, row.speed_noise
        if ratio * (1 + noise) < 1 - percent / 100:
            assumed = "" if row.speed_degrees else "assumed "
            text = f"{row.other}, {row.cell or 'all cells'}: {1 - ratio:.1%}"
            text += f", with {'an ' if assumed else 'a '}{assumed}noise of {noise:.1%}"
            found.append("; ".join(filter(None, [text, row.note])))
    return found


@dataclass(frozen=True)
class _Noise:
    """Of the logarithm of a run's speed, and of each kind of its loss, nats."""

    speed: Noise | None
    assumed_speed: float
    """Its standard deviation if `speed` rests on too few repetitions."""
    loss: dict[str, Noise | None]


def _cells(side: Side, by: str | None) -> dict[Label, list[ThroughputRow]]:
    return group_by(side.rows, lambda row: _label(row, by))


def _label(row: ThroughputRow, by: str | None) -> Label:
    texts = {name: str(getattr(row, name)) for name in LABELS} | {"gpus": f"gpus-{row.gpus}"}
    if by == "trainer":
        texts["variant"] = row.plain_variant or row.variant
    return tuple(text for name, text in texts.items() if name != by)


def _text(row: ThroughputRow) -> str | None:
    return row.text


def _speeds(rows: Sequence[ThroughputRow]) -> list[float]:
    return [row.tokens_per_s_per_gpu for row in rows if row.tokens_per_s_per_gpu]


def _log_speeds(rows: Sequence[ThroughputRow]) -> list[float]:
    return [math.log(speed) for speed in _speeds(rows)]


KINDS: dict[str, Callable[[ThroughputRow], float | None]] = {
    VALIDATION: lambda row: row.val_loss,
    TRAINING: lambda row: row.loss_last,
}


def _trained(rows: Sequence[ThroughputRow]) -> list[ThroughputRow]:
    """Return the runs whose loss is that of their end."""
    return [row for row in rows if row.status == "completed" and row.outcome != "diverged"]


def _losses(rows: Sequence[ThroughputRow], kind: str) -> list[float]:
    return [loss for row in _trained(rows) if (loss := KINDS[kind](row)) is not None]


def _kind(groups: Iterable[Sequence[ThroughputRow]]) -> str:
    """Return the kind of loss that all runs are compared by."""
    trained = [row for rows in groups for row in _trained(rows)]
    return VALIDATION if all(row.val_loss is not None for row in trained) else TRAINING


def _difference(
    cell: str,
    base: Side,
    other: Side,
    pair: Pair,
    kind: str,
    noise: _Noise,
    cells: int,
    by: str | None,
) -> Difference:
    level = 1 - (1 - CONFIDENCE) / cells
    a, b = (fmean(_log_speeds(rows)) for rows in pair)
    speed = width_of_runs(noise.speed, level, pair)
    speed = speed or assumed_width(noise.assumed_speed, level, pair)
    losses = [_losses(rows, kind) for rows in pair]
    base_loss, other_loss = (fmean(values) if values else None for values in losses)
    gap = None if base_loss is None or other_loss is None else other_loss - base_loss
    loss = None if gap is None else width_of_runs(noise.loss[kind], level, losses)
    compares = losses_compare(pair, by)
    memory = [[row.peak_memory_gib for row in rows if row.peak_memory_gib] for rows in pair]
    notes = unlike(pair, by)
    if gap is not None and not compares:
        notes.append("losses of unlike runs have no verdict")
    for side, rows, values in zip((base, other), pair, losses, strict=True):
        if len({row.text for row in rows if row.text is not None}) > 1:
            notes.append(f"runs of {side.name} read different text")
        if any(losses) and len(values) < len(rows):
            notes.append(f"{len(values)} of {len(rows)} runs of {side.name} have a loss")
    return Difference(
        cell=cell,
        base=base.name,
        other=other.name,
        runs=f"{len(pair[0])}, {len(pair[1])}",
        base_speed=math.exp(a),
        other_speed=math.exp(b),
        memory_ratio=fmean(memory[1]) / fmean(memory[0]) if all(memory) else None,
        loss_kind=kind,
        base_loss=base_loss,
        other_loss=other_loss,
        note="; ".join(notes),
        **_verdicts(b - a, speed, gap, loss, compares),
    )


def _together(
    rows: Sequence[Difference], pairs: Sequence[Pair], noise: _Noise, by: str | None
) -> Difference:
    """Return the mean over cells.

    Its noise follows from the spread of runs, or from that of the cells' differences.
    """
    runs = [side for pair in pairs for side in pair]
    ratios = [math.log(row.speed_ratio) for row in rows]
    speed = width_of_mean(noise.speed, runs, ratios)
    speed = speed or assumed_width(noise.assumed_speed, CONFIDENCE, runs, len(rows))
    kind = rows[0].loss_kind
    gaps = [row.loss_difference for row in rows if row.loss_difference is not None]
    gap = fmean(gaps) if len(gaps) == len(rows) else None
    losses = [_losses(side, kind) for side in runs]
    loss = None if gap is None else width_of_mean(noise.loss[kind], losses, gaps)
    compares = all(losses_compare(pair, by) for pair in pairs)
    memory = [math.log(row.memory_ratio) for row in rows if row.memory_ratio]
    return replace(
        rows[0],
        cell="",
        runs=", ".join(str(sum(len(pair[i]) for pair in pairs)) for i in (0, 1)),
        base_speed=None,
        other_speed=None,
        memory_ratio=math.exp(fmean(memory)) if len(memory) == len(rows) else None,
        base_loss=None,
        other_loss=None,
        note="",
        **_verdicts(fmean(ratios), speed, gap, loss, compares),
    )


def _verdicts(
    log_ratio: float, speed: Width, gap: float | None, loss: Width | None, compares: bool
) -> dict[str, Any]:
    """Return the columns of a difference of speeds and of losses, and of their noise.

    `log_ratio`: logarithm of the ratio of the speeds; `compares`: see `losses_compare`.
    """
    return {
        "speed_ratio": math.exp(log_ratio),
        "speed_noise": math.expm1(speed.half),
        "speed_degrees": speed.degrees,
        "speed": _verdict(log_ratio, speed, "slower", "faster"),
        "loss_difference": gap,
        "loss_noise": None if loss is None else loss.half,
        "loss_degrees": 0 if loss is None else loss.degrees,
        "loss": _verdict(gap, loss, "lower", "higher") if compares else "",
    }


def _verdict(value: float | None, width: Width | None, below: str, above: str) -> str:
    if value == 0:
        return "same"
    if value is None or width is None or not width.degrees:
        return ""
    if abs(value) <= width.half:
        return "same"
    return below if value < 0 else above
