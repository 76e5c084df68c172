"""The benchmarks run: on the smallest shape, for a turn or two."""

import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.interleaved_steps import plain
from trainer.config import BYTE_VOCABULARY, ModelConfig

ROOT = Path(__file__).parents[1]


def test_interleaved_steps_print_a_line_for_each_contender() -> None:
    command = [sys.executable, "benchmarks/interleaved_steps.py", "--shape", "tiny"]
    command += ["--batch-size", "1", "--seq-len", "16", "--turns", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[2:]
    assert [line[:16].strip() for line in lines] == ["ours", "plain PyTorch", "transformers"]
    assert "x1.00 (1.00 to 1.00)" in lines[0]


def test_the_plain_contender_learns() -> None:
    window = torch.randint(BYTE_VOCABULARY, (2, 17), generator=torch.Generator().manual_seed(0))
    shape = ModelConfig(dim=16, n_layers=1, n_heads=1, multiple_of=16)
    step = plain(shape, window, compiled=False)
    losses = [step().item() for _ in range(30)]
    assert losses[-1] < losses[0] - 0.3


def test_trainers_side_by_side() -> None:
    command = [sys.executable, "benchmarks/side_by_side.py", "--steps", "20", "--repeats", "1"]
    command += ["--batch-size", "2", "--seq-len", "32", "--peak-tflops", "1", "--only", "eager"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["ours", "transformers"]
    assert "%" in lines[2]
    assert lines[3].count(" x") == 2
