"""The shipped descriptions: the exact command and config of each, and runs of stand-ins for the
trainers from the grid to the tables."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from study.estimate.estimate import estimate_table
from study.grid import Grid
from study.jobs.foreign_job import write_job
from study.jobs.foreign_run import main
from study.load import load_grid_file
from study.measure.measurement import read_measurements
from study.measure.throughput import throughput_rows
from study.measure.throughput_table import write_table
from study.templates import render_config
from study.trainer_command import command
from tests.study.trainers.mixed_study import MIXED_STUDY, STANDINS
from trainer.layers import merge
from trainer.problems import ConfigError
from trainer.yaml_files import dump_yaml

ROOT = Path(__file__).parents[3]
DATA = Path(__file__).with_name("data")


Load = Callable[..., Grid]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function from the trainers of cells on two GPUs to the grid."""

    def load_for(*names: str, distributed: dict[str, Any] | None = None) -> Grid:
        grid = [{"cluster": "here", "model": "tiny", "gpus": 2, "trainer": list(names)}]
        changes = {"results_dir": str(tmp_path / "results"), "grid": grid}
        values = merge(MIXED_STUDY, changes, {"run": {"distributed": distributed or {}}})
        (tmp_path / "study.yaml").write_text(dump_yaml(values))
        return load_grid_file(str(tmp_path / "study.yaml"))

    return load_for


CONFIGURED = {
    "lingua": "-m apps.main.train config={run}/config.yaml",
    "lingua-fork": "-m apps.main.train config={run}/config.yaml",
    "torchtitan": "-m torchtitan.train --module=config --config=cell",
    "litgpt": "litgpt pretrain --config={run}/config.yaml",
    "transformers": "-m examples.transformers_train config={run}/config.yaml",
    "nanogpt": "train.py {run}/config.py",
    "nanochat": "-m scripts.base_train --depth=2 --aspect-ratio=64 --head-dim=32 --max-seq-len=64 "
    "--window-pattern=L --device-batch-size=8 --total-batch-size=2048 --num-iterations=40 "
    "--warmup-steps=10 --final-lr-frac=0.1 --eval-every=20 --core-metric-every=-1 "
    "--sample-every=-1 --save-every=20 --model-tag={name}",
}
"""Trainer -> what its command is after the launcher. Two GPUs, each with two micro-batches of 8
sequences of 64 tokens, are 2048 tokens per step."""


@pytest.mark.parametrize("name", CONFIGURED)
def test_command_and_config_are_exact(load: Load, name: str) -> None:
    (cell,) = load(name)
    run = Path(cell.folder).absolute()
    launch = "torchrun --nproc_per_node=2 --standalone --local-addr=localhost "
    if name in ("lingua-fork", "nanochat"):
        launch = f"uv run {launch}"
    if name == "litgpt":
        launch = "python -m "
    words = (word.format(run=run, name=cell.run.name) for word in CONFIGURED[name].split())
    assert command(cell.placed) == launch + shlex.join(words)
    text = render_config(cell.placed)
    if name == "nanochat":
        assert text is None
        return
    assert text is not None
    kept = (DATA / f"{name.removesuffix('-fork')}.txt").read_text()
    for folder in (str(run), json.dumps(str(run))[1:-1]):
        text = text.replace(folder, "/run")
    assert text.replace(cell.run.name, "NAME") == kept


SHARDED = {"fsdp_type": "full_shard"}
RECOMPUTED = {"activation_checkpointing": "full"}


@pytest.mark.parametrize("name", [name for name in CONFIGURED if name != "lingua-fork"])
@pytest.mark.parametrize("distributed", [{"tp_size": 2}, SHARDED, RECOMPUTED])
def test_a_layout_is_in_the_config_or_refused(
    load: Load, name: str, distributed: dict[str, Any]
) -> None:
    """No cell is trained in another way than it says. litgpt shards on several GPUs anyway."""
    (plain,) = load(name)
    try:
        (cell,) = load(name, distributed=distributed)
    except ConfigError as error:
        (key,) = distributed
        refused = f"cannot do that ({key}, by its description)" in str(error)
        assert refused or "config/trainers/lingua.yaml" in str(error)
        return
    if (name, distributed) != ("litgpt", SHARDED):
        assert render_config(cell.placed) != render_config(plain.placed)


def test_stand_ins_run_from_the_grid_to_the_tables(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of 2048 tokens takes 5 ms: 204,800 tokens/s on each of two GPUs."""
    grid = load(*STANDINS)
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool, rest in (("torchrun", '"$@"'), ("uv", '"${@:3}"')):
        program = shlex.join([sys.executable, str(Path(__file__).with_name("standin.py"))])
        (tools / tool).write_text(f"#!/bin/bash\nexec {program} {rest}\n")
        (tools / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    for cell in grid:
        folder = Path(cell.folder)
        folder.mkdir(parents=True)
        (folder / "settings.yaml").write_text(cell.run.to_yaml())
        write_job(cell)
        job = json.loads((folder / "trainer.json").read_text())
        (folder / "trainer.json").write_text(json.dumps(job | {"workdir": str(tmp_path)}))
        assert main([str(folder), "--", *shlex.split(command(cell.placed))]) == 0
    rows = {row.trainer: row for row in throughput_rows(grid)}
    for name, row in rows.items():
        assert row.status == "completed", name
        assert row.steps == 40
        assert row.step_ms_p50 == pytest.approx(5, rel=1e-3), name
        assert row.tokens_per_s_per_gpu == pytest.approx(204_800, rel=1e-3), name
        assert row.tflops_per_gpu == pytest.approx(rows["lingua"].tflops_per_gpu, rel=1e-3)
        assert row.loss_last == pytest.approx(2.0 + 2.718281828**-4, abs=0.02), name
        assert row.startup_s is not None, name
        assert row.wall_s is not None
        assert 0.2 < row.startup_s <= row.wall_s, name
    assert rows["lingua"].peak_memory_gib == rows["torchtitan"].peak_memory_gib == 3.5
    assert rows["nanogpt"].val_loss == pytest.approx(2.0 + 2.718281828**-2 + 0.1, abs=1e-3)
    # The step after a save, and the one with an evaluation, are not in steady state.
    assert rows["lingua"].steady_steps == 30
    assert rows["torchtitan"].steady_steps == 34
    table = tmp_path / "throughput.csv"
    write_table(list(rows.values()), table)
    estimates = estimate_table(grid, read_measurements(table, grid))
    assert {item.basis for item in estimates} == {"Verified"}
