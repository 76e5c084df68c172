"""Ablations of the architecture and of the data: differences to a base, and the noise of seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from study.analysis.series import Series, name_parts
from study.formats import format_count, format_ends, format_known, format_missing
from study.grid import Cell
from study.measure.interval import CONFIDENCE
from study.measure.losses import TRAINING, FinalLoss, choose_loss
from study.measure.noise import Noise, noise_within
from study.sequences import group_by


@dataclass(frozen=True)
class Difference:
    """A row of ablations.csv: a changed architecture or data mix of a size."""

    variant: str
    """What base and change have in common."""
    model: str
    params: int
    """Parameters with the change."""
    change: str
    """Variant and swept values that differ from the base."""
    base: str
    """Those that it is compared with; its own row has the same name in `change`."""
    seeds: int
    """Runs with a loss."""
    loss: float | None
    """Their mean."""
    difference: float | None
    """Mean loss minus that of the base; above 0 is worse."""
    standard_error: float | None
    """Of the difference, from the noise of seeds; None if no cell has several."""
    low: float | None
    """Lower end of the 95% interval of the difference."""
    high: float | None
    exceeds_noise: bool | None
    """Whether the interval excludes 0."""
    noise: float | None
    """Standard deviation between seeds of the same cell."""
    degrees: int
    """Degrees of freedom of the noise."""
    loss_kind: str
    note: str

    def readable(self) -> list[tuple[str, str]]:
        """Return headings and cells for people."""
        return [
            ("Variant", self.variant),
            ("Model", self.model),
            ("Params", format_count(self.params)),
            ("Change", self.change),
            ("Seeds", str(self.seeds)),
            ("Loss", format_known(self.loss, "{:.3f}".format)),
            ("Difference", format_known(self.difference, "{:+.3f}".format)),
            ("Standard error", format_known(self.standard_error, "{:.2g}".format)),
            ("95% interval", format_ends(self.low, self.high, "{:+.3f}".format)),
            ("Exceeds noise", {None: "", True: "yes", False: "no"}[self.exceeds_noise]),
            ("Notes", self.note),
        ]


def compare_with_base(series: Series, losses: Mapping[str, FinalLoss]) -> list[Difference]:
    """Return a row for each change of each size of a series, the base of the size first.

    The base is the cell without changes, or if there is none, the first of the grid. Means are
    compared as if the runs of one seed had nothing in common.
    """
    known, kind = choose_loss(series.cells, losses)
    sizes = {model: _by_change(series, cells) for model, cells in series.by_model().items()}
    values = {
        model: {
            change: [known[cell.name] for cell in cells if cell.name in known]
            for change, cells in changes.items()
        }
        for model, changes in sizes.items()
    }
    everywhere = noise_within([group for changes in values.values() for group in changes.values()])
    rows = []
    for model, changes in sizes.items():
        of_size = noise_within(list(values[model].values()))
        noise = of_size or everywhere
        base, *others = changes
        first = _describe(series.label, changes[base], base, base, values[model][base], noise, kind)
        rows.append(replace(first, note="; ".join(filter(None, ["base", first.note]))))
        for change in others:
            row = _describe(
                series.label, changes[change], change, base, values[model][change], noise, kind
            )
            problem = _incomparable(changes[base][0], changes[change][0], kind)
            if problem is not None:
                rows.append(replace(row, note="; ".join(filter(None, [problem, row.note]))))
            else:
                unlike = _unlike_tokens(changes[base][0], changes[change][0])
                borrowed = of_size is None
                rows.append(_against(row, values[model][base], noise, borrowed, unlike))
    return rows


def _by_change(series: Series, cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Return change -> cells of all seeds, the base first.

    A change is named by what the base has not, or in full if that would not tell changes apart.
    """
    changes = group_by(cells, lambda cell: series.changes[cell.name])
    base = () if () in changes else next(iter(changes))
    others = {parts: alike for parts, alike in changes.items() if parts != base}
    further = [tuple(part for part in parts if part not in base) for parts in others]
    if () in further or len(set(further)) < len(further):
        further = list(others)
    names = map(name_parts, further)
    return {name_parts(base): changes[base], **dict(zip(names, others.values(), strict=True))}


def _describe(
    label: str,
    cells: Sequence[Cell],
    change: str,
    base: str,
    losses: Sequence[float],
    noise: Noise | None,
    kind: str,
) -> Difference:
    return Difference(
        variant=label,
        model=cells[0].model,
        params=cells[0].params,
        change=change,
        base=base,
        seeds=len(losses),
        loss=statistics.fmean(losses) if losses else None,
        difference=None,
        standard_error=None,
        low=None,
        high=None,
        exceeds_noise=None,
        noise=None if noise is None else noise.deviation,
        degrees=0 if noise is None else noise.degrees,
        loss_kind=kind,
        note=format_missing(len(losses), len(cells)),
    )


def _incomparable(base: Cell, cell: Cell, kind: str) -> str | None:
    """Return why the losses of two cells say nothing about each other; None if they do."""
    before, after = base.run.data, cell.run.data
    if before.tokenizer != after.tokenizer:
        return "not comparable: another tokenizer, so a token is other text"
    if set(base.run.held_out_sources) != set(cell.run.held_out_sources):
        return "not comparable: other held-out text; set eval.validation.sources"
    if kind == TRAINING and before.sources != after.sources:
        return "not comparable: the training losses are of other text; set eval"
    return None


def _unlike_tokens(base: Cell, cell: Cell) -> str | None:
    """Return why the losses of two cells say nothing of the change alone: its other tokens.

    A length that both declare, such as `tokens: 20N`, is what the study asks.
    """
    declared = cell.length
    if declared is not None and declared.key != "steps" and declared == base.length:
        return None
    before, after = (item.run.steps * item.tokens_per_step for item in (base, cell))
    if after == before:
        return None
    return f"no verdict: trained on {after / before:.3g} times the base's tokens"


def _against(
    row: Difference,
    base: Sequence[float],
    noise: Noise | None,
    borrowed: bool,
    unlike: str | None,
) -> Difference:
    """Return a row with its difference to the losses of the base.

    `unlike`: why it has no interval; None if it may have one.
    """
    notes = [row.note] if row.note else []
    if row.loss is None or not base:
        if row.loss is not None:
            notes.append("the base has no loss")
        return replace(row, note="; ".join(notes))
    difference = row.loss - statistics.fmean(base)
    if unlike is None and noise is None:
        unlike = "noise not known: no cell has seeds that differ"
    if unlike is not None or noise is None:
        notes += filter(None, [unlike])
        return replace(row, difference=difference, note="; ".join(notes))
    if borrowed:
        notes.append("noise of the seeds of other sizes")
    error = noise.deviation * math.sqrt(1 / row.seeds + 1 / len(base))
    half = noise.factor(CONFIDENCE) * error
    return replace(
        row,
        difference=difference,
        standard_error=error,
        low=difference - half,
        high=difference + half,
        exceeds_noise=abs(difference) > half,
        note="; ".join(notes),
    )
