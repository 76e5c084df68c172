"""What the report says of each cell: its state, why it failed, and how its run was made."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.formats import format_amount, format_number
from study.grid import Cell, Grid
from study.jobs.launch import cell_line
from study.measure.run_files import find_damage
from study.measure.summaries import is_stale, read_failure
from study.points import LOGS
from study.show.plan import find_state
from trainer.files import read_end
from trainer.layers import flatten
from trainer.records import RunSummary
from trainer.yaml_files import dump_yaml

LOG_LINES = 20
"""Last lines of a failed run's log."""

LOG_BYTES = 16_384
"""End of the log that is read for them."""

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
"""Colours and control characters of a terminal."""

NOT_SETTINGS = frozenset({"name", "dump_dir"})
"""Keys of a run.yaml that differ between all runs."""


@dataclass(frozen=True)
class Missing:
    """A cell without a measurement."""

    name: str
    state: str
    detail: str
    """How far it came and why it failed; empty if nothing is known."""
    log: str
    """Last lines of its log; empty if there is none."""


@dataclass(frozen=True)
class Provenance:
    """How a run was made."""

    name: str
    state: str
    facts: Sequence[tuple[str, str]]
    """Name and value of what run.json records."""
    differences: Sequence[tuple[str, str, str]]
    """Key, value of the base and own value of each setting that differs."""
    config: str
    """The complete run.yaml."""
    command: str
    """The shell line that starts it."""


def read_log_end(folder: str | Path) -> str:
    """Return the last lines of a run's log, without a terminal's control characters."""
    for name in LOGS:
        try:
            text = read_end(Path(folder, name), LOG_BYTES).decode(errors="replace")
        except OSError:
            continue
        lines = CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).splitlines()
        return "\n".join([line.rstrip() for line in lines if line.strip()][-LOG_LINES:])
    return ""


def find_missing(cell: Cell, summary: RunSummary | None, has_row: bool) -> Missing | None:
    """Return why a cell has no complete measurement; None if it has one that did not diverge.

    `has_row`: it is in the throughput table.
    """
    state, detail = find_state(cell, summary)
    failure = read_failure(cell.folder) if state not in ("stale", "measured") else None
    damage = "" if has_row or state == "stale" else find_damage(cell)
    if damage:
        state, detail = "damaged", damage
    elif state == "measured":
        if not detail:
            return None
        state, detail = "diverged", detail.removeprefix("diverged, ")
    if failure is not None:
        state, detail = "failed", "; ".join(filter(None, [detail, failure.message]))
    log = "" if state == "stale" else read_log_end(cell.folder)  # a job may fail without a run.json
    return Missing(cell.name, state, detail, log)


def describe_runs(
    grid: Grid, summaries: Mapping[str, RunSummary | None], speeds: Mapping[str, float | None]
) -> tuple[str, list[Provenance]]:
    """Return the name of the base cell, and the provenance of each cell to measure.

    `speeds` are tokens/s of all GPUs, by the names of cells.
    The base is the first cell of the grid without overrides or, if all have some, the first one.
    """
    cells = grid.measured
    if not cells:
        return "", []
    base = next((cell for cell in cells if not cell.overrides), cells[0])
    settings = dict(_settings(base))
    return base.name, [
        _describe(cell, summaries.get(cell.name), speeds.get(cell.name), settings, cell is base)
        for cell in cells
    ]


def _describe(
    cell: Cell,
    summary: RunSummary | None,
    tokens_per_s: float | None,
    base: dict[str, Any],
    is_base: bool,
) -> Provenance:
    is_gone = summary is None or is_stale(cell, summary)
    missing = find_missing(cell, summary, has_row=False) if is_gone else None
    state = missing.state if missing else str(summary and (summary.outcome or summary.status))
    return Provenance(
        name=cell.name,
        state=state,
        facts=[] if summary is None else list(_facts(summary, tokens_per_s)),
        differences=[] if is_base else _differences(base, dict(_settings(cell))),
        config=cell.run.to_yaml(),
        command=cell_line(cell),
    )


def _differences(base: dict[str, Any], own: dict[str, Any]) -> list[tuple[str, str, str]]:
    keys = [key for key in dict.fromkeys([*base, *own]) if base.get(key) != own.get(key)]
    return [(key, _show(base, key), _show(own, key)) for key in keys]


def _show(settings: Mapping[str, Any], key: str) -> str:
    return dump_yaml(settings[key]).removesuffix("...\n").strip() if key in settings else "not set"


def _settings(cell: Cell) -> Iterator[tuple[str, Any]]:
    for path, value in flatten(cell.run.model_dump(mode="json")):
        key = ".".join(map(str, path))
        if key not in NOT_SETTINGS:
            yield key, value


def _facts(run: RunSummary, tokens_per_s: float | None) -> Iterator[tuple[str, str]]:
    """Yield what is known about how a run was made."""
    last, versions, choices = run.attempts[-1], run.versions, run.choices
    yield "Started", run.attempts[0].start
    yield from _known("Ended", last.end)
    yield "Attempts", str(len(run.attempts))
    yield from _known("Commit", run.commit)
    yield from _known("Trainer version", run.trainer_version)
    for name, value in versions:
        label = {"torch": "PyTorch", "cuda": "CUDA", "nccl": "NCCL"}.get(name, name.capitalize())
        yield from _known(label, value)
    yield from _known("GPU" if run.device != "cpu" else "CPU", run.gpu_name)
    if run.device != "cpu":
        yield from _known("CPU", run.processor)
    yield from _known("Hosts", ", ".join(run.hosts))
    if run.machine_load is not None and run.machine_cores:
        yield "Other load", f"{format_amount(run.machine_load)} of {run.machine_cores} cores"
    yield from _gpu_facts(run, tokens_per_s)
    used = {name: value for name, value in choices if value is not None}
    yield from _known("Chosen", ", ".join(f"{name} {value}" for name, value in used.items()))
    yield "Fingerprint", run.fingerprint


def _gpu_facts(run: RunSummary, tokens_per_s: float | None) -> Iterator[tuple[str, str]]:
    gpu = run.gpu_conditions
    if gpu is None:
        return
    clock = f"{gpu.clock_mhz:.0f} MHz ({gpu.clock_mhz_min:.0f} to {gpu.clock_mhz_max:.0f})"
    limits = f", lowered by: {', '.join(gpu.limits)}" if gpu.limits else ""
    yield "Clock", clock + limits
    yield "Power limit", f"{gpu.power_limit_w:.0f} W"
    if gpu.power_w is not None:
        yield "Power", f"{gpu.power_w:.0f} W, of the main process's GPU"
        if tokens_per_s and run.gpus:
            # All GPUs do the same work; the rest of the machine is not included.
            energy_mj = format_number(1e3 * gpu.power_w * run.gpus / tokens_per_s)
            yield "Energy per token", f"{energy_mj} mJ, of the GPUs in steady state"


def _known(name: str, value: str | None) -> Iterator[tuple[str, str]]:
    if value:
        yield name, value
