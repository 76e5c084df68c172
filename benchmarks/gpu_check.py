"""Correctness and speed on this machine's GPU, the most valuable first, within a time limit.

    make gpu-check      # python -m benchmarks.gpu_check [--minutes 8] [--folder results/gpu-check]

Needs no network. Each item is written to FOLDER/items.jsonl when it ends: run the same command
again to continue after the last one; at another commit it starts over. An item that crashes or
exceeds its time is recorded as failed, and the next one runs in a new process. Nothing here changes
the card's settings.

A step's time is the median over groups of five steps, with minimum and maximum; losses are compared
step by step with eager fp32 from the same weights on the same batches. --rehearse uses tiny shapes
and no compilation, for a rehearsal on any machine.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import ROOT, add_other_trainers, command_line, gpu_kernels, run
from benchmarks.gpu_bench import Bench, read_gpu_state
from benchmarks.gpu_runs import resumed, whole_run
from benchmarks.gpu_steps import ddp, kernels, losses, speed
from benchmarks.trainer_runs import machine_text
from trainer.folder.software import describe_software
from trainer.layers import merge

UNFINISHED = 75
"""Exit code if there is more to do."""

MARGIN_S, START_S = 15.0, 120.0
"""How much longer than stated an item may take, and how long a worker may start."""

EAGER = {"distributed": {"compile": False}}
MASKED = {"data": {"document_mask": True}}

_now = time.monotonic


@dataclass(frozen=True)
class Item:
    """A measurement."""

    name: str
    seconds: float
    """What it takes at most; it is not begun with less left."""
    measure: Callable[[], list[str]]
    """Returns the lines to print."""


def items_of(bench: Bench, also: Sequence[Sequence[str]] = ()) -> list[Item]:
    """Return what to measure, the most valuable first; `also`: as in benchmarks.side_by_side."""
    items = [
        Item("kernels alone", 15, partial(gpu_kernels.alone, bench)),
        Item("losses, 27.5M", 40, partial(losses, bench, {})),
    ]
    variants = {
        "default": {},
        "bf16 residual": {"residual_dtype": "bf16"},
        "eager": {"compile": False},
        "eager, bf16 residual": {"compile": False, "residual_dtype": "bf16"},
    }
    for size, seconds in (("27.5M", 20), ("206M", 25), ("85M", 25), ("820M", 40)):
        for name, changes in variants.items():
            measure = partial(speed, bench, size, {"distributed": changes})
            items.append(Item(f"{size}, {name}", seconds, measure))
        measure = partial(speed, bench, size, {}, weight_copies=False)
        items.append(Item(f"{size}, without weight copies", seconds, measure))
    grouped = {"model": {"n_kv_heads": 2}}
    window = {"model": {"sliding_window": 100 if bench.rehearses else 512}}
    other = {"model": {"qk_norm": True, "norm_type": "layernorm", "activation": "relu2"}}
    items += [
        Item("whole run, nothing compiled", 60, partial(whole_run, bench, empty_cache=True)),
        Item("whole run, 500 steps", 60, partial(whole_run, bench)),
        Item("whole run again", 40, partial(whole_run, bench)),
        Item("whole run, eager", 40, partial(whole_run, bench, compiled=False)),
        Item("kernels, 206M", 20, partial(kernels, bench, "206M", {})),
        Item("kernels, 27.5M", 15, partial(kernels, bench, "27.5M", {})),
        Item("kernels, 27.5M, eager", 15, partial(kernels, bench, "27.5M", EAGER)),
        Item("losses, grouped queries", 25, partial(losses, bench, grouped)),
        Item("losses, document mask", 40, partial(losses, bench, MASKED)),
        Item("losses, window", 40, partial(losses, bench, window)),
        Item("losses, architecture", 40, partial(losses, bench, other)),
        Item("losses, DDP", 40, partial(ddp, bench)),
        Item("resumed run", 90, partial(resumed, bench)),
    ]
    if not bench.rehearses:
        items.append(Item("norms alone", 30, partial(gpu_kernels.norms, bench)))
    return [*items, *_switches(bench), *_benchmarks(bench, also)]


def _switches(bench: Bench) -> list[Item]:
    """Return the speed of 27.5M with each setting that may change it."""
    switches: dict[str, dict[str, Any]] = {
        "without CUDA graph": {"distributed": {"cuda_graphs": False}},
        "without fused pointwise": {"distributed": {"fused_pointwise": False}},
        "combo kernels": {"distributed": {"compile_options": {"combo_kernels": True}}},
        "tuned kernels": {"distributed": {"compile_options": {"coordinate_descent_tuning": True}}},
        "autotuned matmuls": {"distributed": {"compile_options": {"max_autotune_gemm": True}}},
        "document mask": MASKED,
        "document mask, dense": merge(MASKED, {"distributed": {"attention": "cudnn"}}),
        "32K ids": {"data": {"tokenizer": {"n_words": 32768}}},
        "4 micro-batches": {"grad_acc_steps": 4},
        "Muon": {"optim": {"name": "muon"}},
    }
    if bench.rehearses:
        del switches["document mask, dense"]  # the kernel of another device
    tuned = ("tuned kernels", "autotuned matmuls")  # compiled in many variants
    return [
        Item(f"27.5M, {name}", 90 if name in tuned else 25, partial(speed, bench, "27.5M", changes))
        for name, changes in switches.items()
    ]


def _benchmarks(bench: Bench, also: Sequence[Sequence[str]]) -> list[Item]:
    """Return the other benchmarks that run on a GPU."""
    calls: dict[str, tuple[float, list[str]]] = {
        "rates": (60, ["roofline", "--measure"]),
        "operations": (60, ["operations"]),
        "host_time": (60, ["host_time", "--turns", "300"]),
    }
    if not bench.rehearses:
        shape = ["--shape", "small", "--seq-len", "2048"]
        calls["interleaved_steps"] = (60, ["interleaved_steps", *shape, "--turns", "20"])
        if importlib.util.find_spec("transformers") is not None:
            turn = ["--batch-size", "8", "--steps", "60", "--dtype", "bf16", "--repeats", "1"]
            others = [word for other in also for word in ("--also", *other)]
            for how, seconds in (("eager", 60), ("compiled, cold", 130)):
                command = ["side_by_side", *shape, *turn, *others, "--only", how]
                calls[f"side by side, {how}"] = (seconds, command)
    return [Item(name, s, partial(run_benchmark, *command)) for name, (s, command) in calls.items()]


def main(arguments: list[str] | None = None) -> int:
    parser = command_line(__doc__)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--folder", type=Path, default=ROOT / "results/gpu-check")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--only", default="", help="only items whose name starts with this")
    add_other_trainers(parser)
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)  # seconds left
    options = parser.parse_args(arguments)
    folder = options.folder.absolute()  # the worker has another working directory
    log, bench = Log(folder), Bench(options.rehearse, folder)
    known = items_of(bench, options.also)
    items = [item for item in known if item.name.startswith(options.only)]
    if not items:
        names = "; ".join(item.name for item in known)
        sys.exit(f"--only: found {options.only!r}; expected the start of one of: {names}")
    if options.worker is not None:
        work(items, log, _now() + options.worker)
        sys.stdout.flush()
        os._exit(0)  # compile workers of torch 2.11 may hold up a normal exit for minutes
    if not torch.cuda.is_available() and not options.rehearse:
        sys.exit("torch finds no GPU here; --rehearse runs tiny shapes on the CPU")
    end = _now() + 60 * options.minutes
    log.begin()
    if options.rehearse:
        work(items, log, end)
    else:
        supervise(items, log, end, sys.argv[1:] if arguments is None else arguments)
    missing = [item.name for item in items if item.name not in log.done()]
    print(log.text())
    if missing:
        print(f"not measured yet: {'; '.join(missing)}. Run the same command to continue.")
    return UNFINISHED if missing else 0


class Log:
    """items.jsonl: a line when an item begins, and one when it ends."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._path = folder, folder / "items.jsonl"

    def begin(self) -> None:
        """Start again if the commit has changed; note what ran."""
        commit = describe_software()["commit"]
        if self._path.exists() and self._lines()[0].get("commit") != commit:
            self._path.rename(self._path.with_suffix(f".{int(time.time())}.jsonl"))
        if not self._path.exists():
            self.write(commit=commit, machine=f"{_gpu_text()}{machine_text()}")

    def write(self, **values: Any) -> None:
        """Append a line."""
        with self._path.open("a") as file:
            file.write(json.dumps(values) + "\n")

    def done(self) -> set[str]:
        """Return the names of the items that have ended."""
        return {line["item"] for line in self._lines() if "lines" in line}

    def unfinished(self) -> str:
        """Return the name of the item that has begun and not ended; empty if there is none."""
        begun = [line["item"] for line in self._lines() if "item" in line]
        return begun[-1] if begun and begun[-1] not in self.done() else ""

    def fail_unfinished(self, why: str) -> None:
        """Record the item that has begun and not ended as failed."""
        begun = self.unfinished()
        if begun:
            self.write(item=begun, lines=[f"FAILED: {why}"])

    def text(self) -> str:
        """Return all that was measured."""
        first, *rest = self._lines()
        rows = [f"{first['machine']}, commit {first['commit']}"]
        for line in rest:
            if "lines" in line:
                own, *others = line["lines"] or [""]
                rows += [f"{line['item']:32} {own}", *(f"    {other}" for other in others)]
        return "\n".join(rows)

    def _lines(self) -> list[dict[str, Any]]:
        # The worker may be writing the last line.
        lines = self._path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]


def _gpu_text() -> str:
    if not torch.cuda.is_available():
        return ""
    state = read_gpu_state()
    power = f", {state.power_limit_w:.0f} W" if state is not None else ""
    return f"{torch.cuda.get_device_name()}{power}, "


def supervise(items: list[Item], log: Log, end: float, arguments: list[str]) -> None:
    """Measure in a process of its own; start another if it dies."""
    while True:
        todo = [item for item in items if item.name not in log.done()]
        if not todo or end - _now() < todo[0].seconds:
            return
        command = [sys.executable, "-m", "benchmarks.gpu_check", *arguments]
        command += ["--folder", str(log.folder), "--worker", str(end - _now())]
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        code = _wait(process, items, log, end)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if code == 0:
            return
        log.fail_unfinished("out of time" if code is None else f"the process ended with {code}")


def _wait(process: subprocess.Popen[bytes], items: list[Item], log: Log, end: float) -> int | None:
    """Return the worker's exit code; None if the time of its item, or all time, is up."""
    allowed = {item.name: item.seconds + MARGIN_S for item in items}
    begun, since = log.unfinished(), _now()
    while (code := process.poll()) is None:
        if log.unfinished() != begun:
            begun, since = log.unfinished(), _now()
        if _now() > min(end + MARGIN_S, since + allowed.get(begun, START_S)):
            return None
        time.sleep(0.2)
    return code


def work(items: list[Item], log: Log, end: float) -> None:
    """Measure what is missing, as long as there is time."""
    for item in items:
        if item.name in log.done():
            continue
        if end - _now() < item.seconds:
            print(f"{item.name}: {end - _now():.0f} s left, needs {item.seconds:.0f}", flush=True)
            return
        log.write(item=item.name)
        start = _now()
        try:
            lines = item.measure()
        except Exception as error:
            lines = [f"FAILED: {type(error).__name__}: {str(error)[:300]}"]
        log.write(item=item.name, lines=lines, seconds=round(_now() - start, 1))
        print(f"{item.name:32} {lines[0] if lines else ''}", flush=True)


def run_benchmark(name: str, *arguments: str) -> list[str]:
    """Return what another benchmark prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout if done.returncode == 0 else done.stdout + done.stderr[-500:]
    return [f"exit code {done.returncode}", *output.strip().splitlines()]


if __name__ == "__main__":
    run(main)
