"""Processes that a launcher starts without saying which rank each one is."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.__main__ import main
from trainer.launcher import check_launcher
from trainer.problems import ConfigError

ROOT = Path(__file__).parents[2]

ARGUMENTS = ["config=my run.yaml", "steps=5"]
RANKS = {"RANK": "0", "WORLD_SIZE": "4"}
ALLOCATION = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_NNODES": "2"}


@pytest.mark.parametrize(
    ("environment", "command"),
    [
        (
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "1"},
            "torchrun --nproc_per_node=4 --standalone -m trainer 'config=my run.yaml' steps=5",
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "2"},
            "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 torchrun --nnodes=2 --nproc_per_node=8 ",
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_NUM_NODES": "2"},
            "srun --nodes=2 --ntasks=2 --ntasks-per-node=1 torchrun --nnodes=2 --nproc_per_node=3 ",
        ),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "torchrun --nproc_per_node=2 --standalone"),
        ({"PMI_SIZE": "2", "RANK": "0"}, "torchrun --nproc_per_node=2 --standalone"),
        ({"PMI_SIZE": "2", "WORLD_SIZE": "2"}, "torchrun --nproc_per_node=2 --standalone"),
    ],
)
def test_processes_without_ranks_are_refused_with_the_command(
    environment: dict[str, str], command: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_launcher(environment, ARGUMENTS)
    assert str(caught.value).startswith("command line: 1 problem\n  found ")
    assert f"expected {command}" in str(caught.value)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        ALLOCATION,  # of the batch script, in which one process was started
        {**ALLOCATION, "SLURM_STEP_NUM_TASKS": "1"},
        {"PMI_SIZE": ""},
        {"SLURM_STEP_NUM_TASKS": "4", **RANKS},  # torchrun, or exported by hand
    ],
)
def test_other_starts_are_not(environment: dict[str, str]) -> None:
    check_launcher(environment, ARGUMENTS)


def test_a_command_without_arguments_ends_with_the_program() -> None:
    with pytest.raises(ConfigError, match=r" -m trainer$"):
        check_launcher({"PMI_SIZE": "2"}, [])


def test_the_command_refuses_it_before_it_reads_the_config(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # pytest keeps its own
    assert main(["config=no-such-file.yaml"]) == 1
    found = capsys.readouterr()
    assert "found 4 processes of srun" in found.err
    assert "no-such-file.yaml" in found.err
    assert "cannot be read" not in found.err


def test_what_torchrun_prints_of_a_mistake_in_the_settings_ends_with_the_mistake(
    tmp_path: Path,
) -> None:
    settings = tmp_path / "run.yaml"
    settings.write_text("step: 5\n")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    done = subprocess.run(
        [*launch, "-m", "trainer", f"config={settings}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    *_, last = done.stderr.partition("Root Cause")
    assert f"traceback : {settings}: " in last
    assert "step: unknown key" in last
