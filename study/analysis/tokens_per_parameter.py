"""Loss against tokens per parameter, of sizes that were trained for several lengths."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from study.analysis.series import Series
from study.formats import format_count, format_known, format_missing, format_number
from study.measure.losses import FinalLoss, choose_loss
from study.sequences import group_by


@dataclass(frozen=True)
class LengthRow:
    """A row of tokens_per_parameter.csv: a length of a size."""

    variant: str
    model: str
    params: int
    tokens: int
    """Tokens of the whole run, in whole steps."""
    tokens_per_param: float
    seeds: int
    """Runs with a loss."""
    loss: float | None
    """Their mean."""
    standard_error: float | None
    """Of the mean, from the spread of the seeds; None with fewer than two."""
    loss_kind: str
    note: str

    def readable(self) -> list[tuple[str, str]]:
        """Return headings and cells for people."""
        return [
            ("Variant", self.variant),
            ("Model", self.model),
            ("Params", format_count(self.params)),
            ("Tokens", format_count(self.tokens)),
            ("Tokens/param", format_number(self.tokens_per_param)),
            ("Seeds", str(self.seeds)),
            ("Loss", format_known(self.loss, "{:.3f}".format)),
            ("Standard error", format_known(self.standard_error, "{:.2g}".format)),
            ("Notes", self.note),
        ]


def lengths_of(series: Series, losses: Mapping[str, FinalLoss]) -> list[LengthRow]:
    """Return a row for each size and length of a series, by ascending size and length."""
    known, kind = choose_loss(series.cells, losses)
    rows = []
    for model, cells in series.by_model().items():
        lengths = group_by(cells, lambda cell: cell.tokens_per_step * cell.run.steps)
        for tokens, alike in sorted(lengths.items()):
            values = [known[cell.name] for cell in alike if cell.name in known]
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
            params = alike[0].params
            rows.append(
                LengthRow(
                    variant=series.label,
                    model=model,
                    params=params,
                    tokens=tokens,
                    tokens_per_param=tokens / params,
                    seeds=len(values),
                    loss=statistics.fmean(values) if values else None,
                    standard_error=error,
                    loss_kind=kind,
                    note=_note(len(values), len(alike)),
                )
            )
    return rows


def _note(found: int, planned: int) -> str:
    return format_missing(found, planned) if found else "no loss yet"
