"""A small study, and synthetic runs in its cells' folders, as the trainer writes them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from study.config import Study
from study.estimate.forecast import Forecast
from study.grid import Cell, Grid
from study.measure.throughput import throughput_rows
from study.measure.throughput_table import to_frame, write_table
from study.show.plan import PlanRow, format_plan, plan_table
from trainer.flops import flops_per_token
from trainer.layers import merge
from trainer.settings import validate
from trainer.yaml_files import parse_yaml

STUDY = """
study: test
models:
  tiny: {dim: 64, n_layers: 2, n_heads: 2}
  wide: {dim: 128, n_layers: 2, n_heads: 4}
clusters:
  here: {device: cpu, gpu_name: CPU core, gpus_per_node: 4}
  fast:
    gpu_name: H200
    peak_tflops: 989.5
    gpus_per_node: 8
    slurm: {account: nlp, partition: fast, gpu_request: gres, mem_gib: 48, runtime_min: 30}
corpora: [python_stdlib]
run:
  steps: 40
  data: {root_dir: data, sources: {python_stdlib: 1.0}, batch_size: 8, seq_len: 64}
grid:
  - {cluster: here, model: [tiny, wide], gpus: [1, 2]}
"""

CONTINUED: dict[str, Any] = {
    "variants": {"stable": {}, "on": {}},
    "run": {"steps": 240, "checkpoint": {"dump": {"every": 240, "keep": 0}}},
    "grid": [
        {"cluster": "here", "model": "tiny", "gpus": 1, "variant": "stable"},
        {
            **{"cluster": "here", "model": "tiny", "gpus": 1, "variant": "on", "steps": 300},
            "from": {"cell": "stable", "at": "100%"},
        },
    ],
}
"""A run of 240 steps, and one of 300 that continues it."""

GUIDE = {
    # The first Slurm row of the group's guide: 27.5M, 8x H200, 131,072 tokens per step, 500 steps.
    "models": {"small": {"dim": 512, "n_layers": 8, "n_heads": 8}},
    "run": {"steps": 500, "data": {"batch_size": 8, "seq_len": 2048}, "logging": {"freq": 10}},
    "grid": [{"cluster": "fast", "model": "small", "gpus": 8}],
}

MANY = {
    "models": {f"m{n}": {"dim": 32 * n, "n_layers": 2, "n_heads": 2} for n in range(1, 11)},
    "grid": [{"cluster": "here", "model": [f"m{n}" for n in range(1, 11)], "gpus": [1, 2, 4]}],
}

MakeGrid = Callable[..., Grid]


@pytest.fixture
def make_grid(tmp_path: Path) -> MakeGrid:
    """Return a function from changes of the small study to its grid, in a folder of the test's."""

    def make(changes: Mapping[str, Any] | None = None) -> Grid:
        values = merge(parse_yaml(STUDY, "study.yaml"), changes or {})
        values["results_dir"] = str(tmp_path / "results")
        return Grid(validate(Study, values, "study.yaml"))

    return make


def throughput_table(grid: Grid) -> pd.DataFrame:
    """Return the throughput table of a study's runs."""
    return to_frame(throughput_rows(grid))


def write_run(
    cell: Cell,
    step_s: float | Sequence[float] = 0.1,
    startup_s: float = 4.0,
    loss: Callable[[int], float | None] = lambda step: 6.0 / (1 + step / 50),
    evaluations: Mapping[int, float] | None = None,
    **changes: Any,
) -> None:
    """Write the folder of a run in which every steady interval takes `step_s` a step.

    With a sequence, the intervals take these in turn. The first interval takes ten times as long.
    `changes` are laid over run.json.
    """
    folder = Path(cell.folder)
    folder.mkdir(parents=True, exist_ok=True)
    steps, freq = cell.run.steps, cell.run.logging.freq
    times = [step_s] if isinstance(step_s, float) else list(step_s)
    records, elapsed, last = [], startup_s, 0
    for step in sorted({1, steps, *range(freq, steps + 1, freq)}):
        time_s = times[(len(records) - 1) % len(times)] if records else 10 * times[0]
        elapsed += (step - last) * time_s if records else 0
        records.append(make_record(cell, step, step - last, time_s, elapsed, loss(step)))
        last = step
    write_lines(folder / "metrics.jsonl", records)
    if evaluations is not None:
        lines = [
            {"global_step": step, "eval/loss": value, "time/elapsed_s": startup_s + step * times[0]}
            for step, value in evaluations.items()
        ]
        write_lines(folder / "metrics.eval.jsonl", lines)
    summary = merge(make_summary(cell, startup_s, elapsed), changes)
    (folder / "run.json").write_text(json.dumps(summary))


def make_record(
    cell: Cell, step: int, steps: int, step_s: float, elapsed_s: float, loss: float | None
) -> dict[str, Any]:
    """Return a record as the trainer writes it."""
    tokens_per_s = cell.tokens_per_step / step_s
    data = cell.run.data
    flops = flops_per_token(cell.run.model, data.tokenizer.vocab_size, data.seq_len)
    return {
        "global_step": step,
        "loss/out": loss,
        "optim/lr": 1e-3,
        "optim/grad_norm": 1.0,
        "optim/total_tokens": step * cell.tokens_per_step,
        "memory/max_reserved_gib": None,
        "speed/wps": tokens_per_s / cell.gpus,
        "speed/tokens_per_s": tokens_per_s,
        "speed/tflops_per_gpu": tokens_per_s / cell.gpus * flops / 1e12,
        "time/elapsed_s": elapsed_s,
        "time/step_s": step_s,
        "time/interval_steps": steps,
        "time/data_s": 0.0,
        "time/checkpoint_s": 0.0,
        "time/eval_s": 0.0,
        "attempt": 1,
    }


def make_summary(cell: Cell, startup_s: float, wall_s: float) -> dict[str, Any]:
    """Return the run.json of a run that has ended well."""
    fingerprint = cell.fingerprint
    return {
        "status": "completed",
        "outcome": "trained",
        "params": cell.params,
        "gpus": cell.gpus,
        "nodes": cell.nodes,
        "gpu_name": "NVIDIA H200",
        "hosts": ["node-1"],
        "versions": {"python": "3.11.2", "torch": "2.13.0", "cuda": None},
        "commit": "0123456789abcdef",
        "trainer_version": "aaaa",
        "fingerprint": fingerprint,
        "attempts": [
            {
                "attempt": 1,
                "start": "2026-01-01T00:00:00+00:00",
                "end": "2026-01-01T00:10:00+00:00",
                "wall_s": wall_s,
                "first_step": 1,
                "status": "completed",
                "fingerprint": fingerprint,
                "startup": {"imports_s": 1.0, "first_step_s": 1.0, "total_s": startup_s},
            }
        ],
        "peak_memory_gib": 1.5,
        "loss_final": 1.5,
        "loss_validation": 1.6,
        "steps_done": cell.run.steps,
    }


def write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write a file of JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def measured(grid: Grid) -> Grid:
    """Write the throughput table of a grid's runs, which estimates read; return the grid."""
    write_table(throughput_rows(grid), Path(grid.study.folder, "throughput.csv"))
    return grid


def plan(grid: Grid) -> tuple[list[PlanRow], str]:
    """Return the plan's rows and its text, with all measurements so far."""
    forecast = Forecast(measured(grid))
    rows = plan_table(grid, forecast)
    return rows, format_plan(grid, rows, forecast)
