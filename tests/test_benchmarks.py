"""The benchmarks run: on the smallest shape, for a turn or two."""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check, gpu_kernels, scale
from benchmarks.gpu_bench import Bench
from benchmarks.interleaved_steps import ours, plain
from benchmarks.operations import count
from benchmarks.step_bytes import BlockForm, LossForm, block_kernels, least_bytes, loss_kernels
from benchmarks.trainer_runs import TINY
from trainer.config import BYTE_VOCABULARY, ModelConfig

ROOT = Path(__file__).parents[1]


def test_interleaved_steps_print_a_line_for_each_contender() -> None:
    command = [sys.executable, "-m", "benchmarks.interleaved_steps", "--shape", "tiny"]
    command += ["--batch-size", "1", "--seq-len", "16", "--turns", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[2:]
    assert [line[:16].strip() for line in lines] == ["ours", "plain PyTorch", "transformers"]
    assert "x1.00 (1.00 to 1.00)" in lines[0]


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("step_bytes --compile-options {nonsense}", 1, "compile_options.nonsense: found nothing; "),
        ("step_bytes --compile-options '{nonsense: 1}'", 1, ".nonsense: not an option; "),
        ("step_bytes --compile-options 3", 1, "expected a mapping of keys, found 3"),
        ("step_bytes --model nosuch", 2, "--model: invalid choice: 'nosuch' (choose from"),
        ("interleaved_steps --shape nosuch", 2, "--shape: invalid choice: 'nosuch' (choose from"),
        ("side_by_side --repeats 0", 2, "--repeats: found '0'; expected a whole number above 0"),
        ("side_by_side --also nosuch true log", 2, "--also: found 'nosuch'; expected one of "),
        ("roofline --seq-len 1.5", 2, "--seq-len: found '1.5'; expected a whole number above 0"),
        ("published_tables nosuch", 1, "TABLE: 'nosuch'; expected one of: "),
        ("scaling_law_check /nowhere", 1, "/nowhere: 1 problem\n  cannot be read: No such file"),
        ("gpu_check --rehearse --folder README.md", 1, "README.md: File exists"),
    ],
)
def test_a_mistake_is_a_message(command: str, code: int, told: str) -> None:
    name, *options = shlex.split(command)
    start = [sys.executable, "-m", f"benchmarks.{name}", *options]
    done = subprocess.run(start, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_the_plain_contender_learns() -> None:
    window = torch.randint(BYTE_VOCABULARY, (2, 17), generator=torch.Generator().manual_seed(0))
    shape = ModelConfig(dim=16, n_layers=1, n_heads=1, multiple_of=16)
    step = plain(shape, window, compiled=False)
    losses = [step().item() for _ in range(30)]
    assert losses[-1] < losses[0] - 0.3


def test_trainers_side_by_side(tmp_path: Path) -> None:
    """Ours, transformers, and one that is known by its log alone: 2 x 32 tokens at 640 tokens/s."""
    log = tmp_path / "titan.log"
    lines = [f"step: {step}  loss: 7.1  memory: 1.0GiB  tps: 640  mfu: 1%" for step in (1, 2, 3)]
    command = [sys.executable, "-m", "benchmarks.side_by_side", "--steps", "20", "--repeats", "1"]
    command += ["--batch-size", "2", "--seq-len", "32", "--peak-tflops", "1", "--only", "eager"]
    writes = f"printf '%s\\n' {shlex.join(lines)} > {shlex.quote(str(log))}"
    command += ["--also", "torchtitan", writes, str(log)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[2:] if line.strip()}
    # And litgpt, where it is installed.
    assert rows.keys() >= {"ours", "transformers", "torchtitan"}
    assert "%" in rows["ours"]
    assert rows["ours"].count(" x") == 3
    assert " 640 " in rows["torchtitan"]
    assert rows["torchtitan"].count(" x") == 1


def test_operations_are_fewer_than_of_plain_pytorch() -> None:
    shape = ModelConfig.model_validate(TINY)
    window = torch.randint(BYTE_VOCABULARY, (1, 17))
    own, others = (count(build(shape, window, False)) for build in (ours, plain))
    assert own.total() < 0.85 * others.total()
    assert own["mm"] == 8 * 12 + 3  # 4 products a layer, twice as many backward; the output's 3
    assert own["_local_scalar_dense"] == 0


# Bytes of a block of width D = 512 and FFN width 3 D, in T x D bf16 values, kernel by kernel.
TRITON_FP32 = {
    "sum and norm": 2 + 1 + 2 + 1, "rotary: all of qkv in": 3 + 2,
    "sum and FFN norm": 2 + 1 + 2 + 1, "SwiGLU": 6 + 3,
    "SwiGLU, backward": 3 + 6 + 6, "FFN norm, backward, in fp32 and bf16": 2 + 1 + 2 + 2 + 1,
    "rotary, backward": 3 + 3, "norm, backward, in fp32 and bf16": 2 + 1 + 2 + 2 + 1,
}  # fmt: skip
TRITON_BF16 = {
    "sum and norm": 1 + 1 + 1 + 1, "rotary: all of qkv in": 3 + 2,
    "sum and FFN norm": 1 + 1 + 1 + 1, "SwiGLU": 6 + 3,
    "SwiGLU, backward": 3 + 6 + 6, "FFN norm, backward": 1 + 1 + 1 + 1,
    "rotary, backward": 3 + 3, "norm, backward": 1 + 1 + 1 + 1,
}  # fmt: skip
# Compiled, a sum is computed by the norm after it; in fp32 also once more by the norm's gradient.
COMPILED_FP32 = {
    "sum and norm": 2 + 1 + 1, "rotary: all of qkv in": 3 + 2,
    "sum and FFN norm": 2 + 1 + 1 + 2 + 1, "SwiGLU": 6 + 3,
    "SwiGLU, backward": 3 + 6 + 6, "FFN norm, backward": 1 + 2 + 2 + 2,
    "gradient to bf16": 2 + 1, "rotary, backward": 3 + 3,
    "norm, backward, in fp32 and bf16": 1 + 2 + 1 + 2 + 2 + 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("form", "by_hand"),
    [
        (BlockForm(False, True, "fp32"), TRITON_FP32),
        (BlockForm(True, False, "fp32"), COMPILED_FP32),
        (BlockForm(True, True, "bf16"), TRITON_BF16),
    ],
    ids=str,
)
def test_bytes_of_a_block_by_hand(form: BlockForm, by_hand: dict[str, int]) -> None:
    tokens, dim = 8 * 2048, 512
    shape = ModelConfig(dim=dim, n_layers=8, n_heads=8)
    pointwise = [k for k in block_kernels(shape, (8, 2048), form) if k.is_pointwise]
    # 13 D^2 weights to bf16, their gradients to fp32; with copies, neither.
    weights = 0 if form.triton else 13 * dim**2 * (4 + 2 + 2 + 4)
    expected = sum(by_hand.values()) * tokens * dim * 2 + weights
    # Not by hand: rotary tables, statistics of norms, gradients of their weights.
    moved = sum(kernel.moved for kernel in pointwise)
    assert expected < moved < 1.006 * expected
    assert moved > least_bytes(shape, tokens) == (16 + 8 + 24) * tokens * dim * 2


def test_bytes_of_a_chunked_loss_by_hand() -> None:
    """Compiled, each chunk's bf16 logits are read once, and their gradient is written once."""
    shape = ModelConfig(dim=16, n_layers=1, n_heads=1)
    kernels = loss_kernels(shape, (8, 2048), LossForm("compiled", 32_768, 4096))
    chunks = [k.moved for k in kernels if k.is_pointwise and "exp" in k.name.split()]
    assert chunks == [pytest.approx(2 * 4096 * 32_768 * 2, rel=1e-3)] * 4


@pytest.mark.parametrize("processes", [1, 2])
def test_host_time_of_the_loop(processes: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={processes}", "-m", "benchmarks.host_time", "--turns", "40"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{processes} process(es), eager, 40 turns" in done.stdout
    share = re.search(r"communication: ([\d.]+)%", done.stdout)
    assert share is not None
    assert 0 < float(share[1]) < 50


def test_gpu_check_rehearsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An item of its own, and that the next call goes on after it."""
    command = ["--rehearse", "--folder", str(tmp_path), "--only", "27.5M, "]
    assert gpu_check.main([*command, "--minutes", "0"]) == gpu_check.UNFINISHED
    assert "not measured yet: 27.5M, default" in capsys.readouterr().out
    log = gpu_check.Log(tmp_path)
    log.write(item="27.5M, default", lines=["measured before"])
    log.write(item="27.5M, bf16 residual")
    log.fail_unfinished("the process ended with -11")
    assert gpu_check.main([*command, "--minutes", "10"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("27.5M")]
    assert "27.5M, default                   measured before" in lines
    assert "27.5M, bf16 residual             FAILED: the process ended with -11" in lines
    masked = [line for line in lines if line.startswith("27.5M, document mask ")]
    assert all("tokens/s" in line for line in masked)


def test_kernels_are_timed_by_themselves(tmp_path: Path) -> None:
    rows = gpu_kernels.alone(Bench(rehearses=True, folder=tmp_path))
    assert [row.split(":")[0] for row in rows] == ["27.5M", "85M", "206M", "820M"]
    for row in rows:
        assert len(re.findall(r"\d\.\d us", row)) == len(row.split("; ")) == 12


def test_gpu_check_goes_on_after_an_item_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is another program here: its second item never ends."""
    program = tmp_path / "worker.py"
    program.write_text(
        """
import json, sys, time
path = sys.argv[sys.argv.index("--folder") + 1] + "/items.jsonl"
done = {json.loads(line).get("item") for line in open(path)}
for name in ("one", "two", "three"):
    if name in done:
        continue
    for line in ({"item": name}, {"item": name, "lines": ["measured"]}):
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\\n")
        if name == "two":
            time.sleep(60)
"""
    )
    worker = tmp_path / "worker"
    worker.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(program)])} "$@"\n')
    worker.chmod(0o755)
    monkeypatch.setattr(gpu_check.sys, "executable", str(worker))
    monkeypatch.setattr(gpu_check, "MARGIN_S", 0.2)
    log = gpu_check.Log(tmp_path)
    log.begin()
    seconds = {"one": 20, "two": 0.3, "three": 20}
    items = [gpu_check.Item(name, limit_s, list) for name, limit_s in seconds.items()]
    begun = time.monotonic()
    gpu_check.supervise(items, log, begun + 30, [])
    assert time.monotonic() - begun < 20
    assert log.done() == {"one", "two", "three"}
    assert re.findall(r"^(\w+) +(.*)$", log.text(), re.M)[-3:] == [
        ("one", "measured"),
        ("two", "FAILED: out of time"),
        ("three", "measured"),
    ]


def test_gpu_check_names_its_items(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="found 'nosuch'; expected the start of one of: kernels"):
        gpu_check.main(["--rehearse", "--folder", str(tmp_path), "--only", "nosuch"])


def test_scale_prints_a_row_for_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["plan", "throughput", "records", "nanogpt"]
    scale.main(["--sizes", "1", "2", "10", "--only", *names])
    heading, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == names
    assert heading.split()[-1] == "k"
    assert all(row.count(" MiB") == 3 for row in rows)


def test_scale_exponents_leave_out_the_start() -> None:
    """1 s to start, and 1 ms for each of n**1.5 things."""
    sizes = [1, 100, 10_000]
    assert scale.exponent(sizes, [1 + 1e-3 * n**1.5 for n in sizes]) == "1.50"
    assert scale.exponent(sizes, [1.0, 1.1, 1.2]) == "-"
    assert scale.exponent([1, 2, 10], [1.0, 1.3, 0.9]) == "-"  # a busy machine
