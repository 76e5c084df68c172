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
import functools
import gc
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks import ROOT, command_line
from benchmarks.trainer_runs import device, machine_text, settings, shape_of, write_text
from trainer import gpu_state
from trainer.config import BYTE_VOCABULARY, RunConfig
from trainer.execution.compiling import VARIABLES as CACHE_VARIABLES
from trainer.folder.run_folder import describe_software
from trainer.layers import merge
from trainer.loop.learner import Learner, build_learner, set_up_process
from trainer.loop.step import capture_later, compile_ahead, train_step
from trainer.tokens.tokenizer import ByteTokenizer
from trainer.world import get_world, gpu_uuid

SIZES = {
    "27.5M": "small",
    "85M": "85M",
    "206M": "206M",
    "820M": {"dim": 2048, "n_layers": 16, "n_heads": 32},
}
STEPS = 30
"""Steps whose losses are compared."""
FP32 = {"compile": False, "model_dtype": "fp32", "cuda_graphs": False, "fused_pointwise": False}
UNFINISHED = 75
"""Exit code if there is more to do."""
DOCUMENT = 400
"""Mean tokens of a document where documents are masked."""
TABLE_LINES = 40

_now = time.monotonic


@dataclass(frozen=True)
class Item:
    """A measurement."""

    name: str
    seconds: float
    """What it takes at most; it is not begun with less left."""
    measure: Callable[[], list[str]]
    """Returns the lines to print."""


@dataclass(frozen=True)
class Bench:
    """The shapes and batch of the items."""

    rehearses: bool
    folder: Path

    @property
    def batch(self) -> tuple[int, int]:
        """Sequences, and tokens of each."""
        return (2, 128) if self.rehearses else (8, 2048)

    @property
    def seconds(self) -> float:
        """How long steps are timed."""
        return 0.05 if self.rehearses else 1.5

    def config(self, size: str, /, **changes: Any) -> RunConfig:
        """Return a run's settings: those of a real run."""
        shape = SIZES[size]
        values = shape_of(shape) if isinstance(shape, str) else shape
        if self.rehearses:
            values = {"dim": 32, "n_layers": 2, "n_heads": 4, "multiple_of": 32}
        base = settings(self.folder, values, self.batch, 1000)
        base["distributed"] = {"compile": False, "threads": 1} if self.rehearses else {}
        base["optim"] = {"lr": 3e-4, "scheduler": "constant"}
        return RunConfig.model_validate(merge(base, changes))

    def items(self) -> list[Item]:
        """Return what to measure, the most valuable first."""
        items = [Item("losses, 27.5M", 40, partial(losses, self, {}))]
        for size, seconds in (("27.5M", 20), ("206M", 25), ("85M", 25), ("820M", 40)):
            for name, changes in (("default", {}), ("bf16 residual", {"residual_dtype": "bf16"})):
                measure = partial(speed, self, size, {"distributed": changes})
                items.append(Item(f"{size}, {name}", seconds, measure))
        grouped = {"model": {"n_kv_heads": 2}}
        masked = {"data": {"document_mask": True}}
        window = {"model": {"sliding_window": 100 if self.rehearses else 512}}
        other = {"model": {"qk_norm": True, "norm_type": "layernorm", "activation": "relu2"}}
        items += [
            Item("whole run, nothing compiled", 60, partial(whole_run, self, empty_cache=True)),
            Item("whole run, 500 steps", 60, partial(whole_run, self)),
            Item("whole run again", 40, partial(whole_run, self)),
            Item("kernels, 206M", 20, partial(kernels, self, "206M")),
            Item("kernels, 27.5M", 15, partial(kernels, self, "27.5M")),
            Item("losses, grouped queries", 25, partial(losses, self, grouped)),
            Item("losses, document mask", 40, partial(losses, self, masked)),
            Item("losses, window", 40, partial(losses, self, window)),
            Item("losses, architecture", 40, partial(losses, self, other)),
            Item("losses, DDP", 40, partial(ddp, self)),
            Item("resumed run", 90, partial(resumed, self)),
        ]
        switches: dict[str, dict[str, Any]] = {
            "without CUDA graph": {"distributed": {"cuda_graphs": False}},
            "without fused pointwise": {"distributed": {"fused_pointwise": False}},
            "eager": {"distributed": {"compile": False}},
            "document mask": masked,
            "document mask, dense": merge(masked, {"distributed": {"attention": "cudnn"}}),
            "32K ids": {"data": {"tokenizer": {"n_words": 32768}}},
            "4 micro-batches": {"grad_acc_steps": 4},
            "Muon": {"optim": {"name": "muon"}},
        }
        if self.rehearses:
            del switches["document mask, dense"]  # the kernel of another device
        for name, changes in switches.items():
            items.append(Item(f"27.5M, {name}", 25, partial(speed, self, "27.5M", changes)))
        items.append(Item("rates", 60, partial(module, self, "roofline", ["--measure"])))
        steps = ["--shape", "small", "--seq-len", "2048", "--turns", "20"]
        for name, options in (
            ("operations", []),
            ("host_time", ["--turns", "300"]),
            ("interleaved_steps", steps),
        ):
            if not self.rehearses or name != "interleaved_steps":
                items.append(Item(name, 60, partial(module, self, name, options)))
        if importlib.util.find_spec("transformers") is not None and not self.rehearses:
            options = ["--shape", "small", "--dtype", "bf16", "--repeats", "1"]
            options += ["--batch-size", "8", "--seq-len", "2048", "--steps", "60"]
            for how, seconds in (("eager", 60), ("compiled, cold", 130)):
                work = partial(module, self, "side_by_side", [*options, "--only", how])
                items.append(Item(f"side by side, {how}", seconds, work))
        return items


def main(arguments: list[str] | None = None) -> int:
    parser = command_line(__doc__)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--folder", type=Path, default=ROOT / "results/gpu-check")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--only", default="", help="only items whose name starts with this")
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)  # seconds left
    options = parser.parse_args(arguments)
    log = Log(options.folder)
    bench = Bench(options.rehearse, options.folder.absolute())
    items = [item for item in bench.items() if item.name.startswith(options.only)]
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
        self._path = folder / "items.jsonl"

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

    def fail_unfinished(self, why: str) -> None:
        """Record the item that has begun and not ended as failed."""
        begun = [line["item"] for line in self._lines() if "item" in line]
        if begun and begun[-1] not in self.done():
            self.write(item=begun[-1], lines=[f"FAILED: {why}"])

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
        return [json.loads(line) for line in self._path.read_text().splitlines()]


def _gpu_text() -> str:
    if not torch.cuda.is_available():
        return ""
    state = _gpu_state()
    power = f", {state.power_limit_w:.0f} W" if state is not None else ""
    return f"{torch.cuda.get_device_name()}{power}, "


def _gpu_state() -> gpu_state.GpuState | None:
    uuid = gpu_uuid(get_world(device()))
    return None if uuid is None else gpu_state.read(uuid)


def supervise(items: list[Item], log: Log, end: float, arguments: list[str]) -> None:
    """Measure in a process of its own; start another if it dies."""
    while True:
        todo = [item for item in items if item.name not in log.done()]
        if not todo or end - _now() < todo[0].seconds:
            return
        command = [sys.executable, "-m", "benchmarks.gpu_check", *arguments]
        process = subprocess.Popen(
            [*command, "--worker", str(end - _now())], cwd=ROOT, start_new_session=True
        )
        try:
            code = process.wait(timeout=max(1.0, end - _now() + 10))
        except subprocess.TimeoutExpired:
            code = None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if code == 0:
            return
        log.fail_unfinished("out of time" if code is None else f"the process ended with {code}")


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


def open_learner(config: RunConfig) -> Learner:
    """Return a learner, compiled and about to be captured, as at the beginning of a run."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    gc.collect()
    if config.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    world = get_world(config.device)
    learner = build_learner(config, set_up_process(config, world), world)
    prepare(learner, config)
    return learner


def prepare(learner: Learner, config: RunConfig) -> None:
    """Compile, and capture later, as a run does."""
    if learner.choices.cuda_graphs:
        capture_later(learner, config.optim.lr)
    if learner.choices.compiled:
        compile_ahead(learner)


def batch_of(config: RunConfig, index: int) -> Tensor:
    """Return batch `index` of the standard library's text, with borders if documents are masked."""
    draw = torch.Generator().manual_seed(index)
    text = _text()
    length = config.data.seq_len
    starts = torch.randint(
        len(text) - length - 1,
        (config.grad_acc_steps * config.data.batch_size,),
        generator=draw,
    )
    rows = [list(text[start : start + length + 1]) for start in starts.tolist()]
    tokens = torch.tensor(rows).view(config.grad_acc_steps, -1, length + 1)
    if config.data.tokenizer.vocab_size > BYTE_VOCABULARY:
        tokens = torch.randint(config.data.tokenizer.vocab_size, tokens.shape, generator=draw)
    if config.data.document_mask:
        is_border = torch.rand(tokens.shape, generator=draw) < 1 / DOCUMENT
        tokens = tokens.masked_fill(is_border, ByteTokenizer.bos)
    return tokens.pin_memory() if config.device == "cuda" else tokens


@functools.cache
def _text() -> bytes:
    return b"".join(p.read_bytes() for p in sorted(Path(os.__file__).parent.glob("[a-d]*.py")))


def loss_curve(learner: Learner, config: RunConfig) -> list[float]:
    """Return the losses of the first steps."""
    losses = [train_step(learner, batch_of(config, step))[0].clone() for step in range(STEPS)]
    return torch.stack(losses).tolist()


def losses(bench: Bench, changes: dict[str, Any]) -> list[str]:
    """Compare eager bf16, the default and a bf16 residual stream with eager fp32."""
    curves = {}
    variants: dict[str, dict[str, Any]] = {
        "fp32": FP32,
        "eager bf16": {"compile": False, "model_dtype": "bf16", "cuda_graphs": False},
        "default": {"model_dtype": "bf16"},
        "bf16 residual": {"model_dtype": "bf16", "residual_dtype": "bf16"},
    }
    if changes:
        del variants["eager bf16"], variants["bf16 residual"]
    for name, distributed in variants.items():
        config = bench.config("27.5M", **merge(changes, {"distributed": distributed}))
        learner = open_learner(config)
        curves[name] = loss_curve(learner, config)
        kernel = learner.choices.attention
    reference = curves.pop("fp32")
    return [
        f"{name}: within {_gap(own, reference):.4f} nats of eager fp32 over {STEPS} steps, "
        f"{own[-1]:.4f} and {reference[-1]:.4f} at the last ({kernel})"
        for name, own in curves.items()
    ]


def _gap(own: list[float], reference: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(own, reference, strict=True))


def speed(bench: Bench, size: str, changes: dict[str, Any]) -> list[str]:
    """Return tokens/s, step time, memory."""
    config = bench.config(size, **changes)
    learner = open_learner(config)
    batches = [batch_of(config, index) for index in range(4)]
    for step in range(2 if bench.rehearses else 8):
        train_step(learner, batches[step % 4])
    times, end = [], _now() + bench.seconds
    _synchronize(config)
    while _now() < end or len(times) < 3:
        start = _now()
        for step in range(5):
            train_step(learner, batches[step % 4])
        _synchronize(config)
        times.append((_now() - start) / 5)
    choices = learner.choices
    middle = statistics.median(times)
    memory = torch.cuda.max_memory_reserved() / 2**30 if config.device == "cuda" else 0.0
    state = _gpu_state()
    clock = f", {state.clock_mhz} MHz{state.limits_text}" if state is not None else ""
    tokens = config.tokens_per_step(1)
    return [
        f"{tokens / middle:11,.0f} tokens/s {1e3 * middle:8.2f} ms "
        f"({1e3 * min(times):.2f} to {1e3 * max(times):.2f}) {memory:5.1f} GiB, "
        f"{choices.attention}{', graph' if choices.cuda_graphs else ''}{clock}"
    ]


def _synchronize(config: RunConfig) -> None:
    if config.device == "cuda":
        torch.cuda.synchronize()


def kernels(bench: Bench, size: str) -> list[str]:
    """Return the kernels of a step, those that take longest first."""
    config = bench.config(size)
    learner = open_learner(config)
    tokens = batch_of(config, 0)
    for _ in range(2 if bench.rehearses else 6):
        train_step(learner, tokens)
    _synchronize(config)
    kind = ProfilerActivity.CUDA if config.device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind]) as trace:
        train_step(learner, tokens)
        _synchronize(config)
    times, calls = Counter[str](), Counter[str]()
    for event in trace.events():
        us = event.device_time if config.device == "cuda" else event.self_cpu_time_total
        times[event.name] += us
        calls[event.name] += 1
    rows = [
        f"{sum(times.values()) / 1e3:.2f} ms in {calls.total()} kernels, "
        f"attention {learner.choices.attention}"
    ]
    for name, us in times.most_common(TABLE_LINES):
        rows.append(f"{us / 1e3:8.3f} ms {calls[name]:5} x {name[:90]}")
    return rows


def ddp(bench: Bench) -> list[str]:
    """Compare captured and uncaptured steps under DDP, with one rank, whole and accumulated."""
    backend = "nccl" if device() == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            backend, init_method=f"file://{folder}/meeting", rank=0, world_size=1
        )
        try:
            return [_ddp_line(bench, count) for count in (1, 2)]
        finally:
            torch.distributed.destroy_process_group()


def _ddp_line(bench: Bench, count: int) -> str:
    curves = []
    for graphs in (False, "auto"):
        changes = {"grad_acc_steps": count, "distributed": {"cuda_graphs": graphs}}
        config = bench.config("27.5M", **changes)
        learner = open_learner(config)
        ids = [0] if config.device == "cuda" else None
        learner.trained = torch.nn.parallel.DistributedDataParallel(
            learner.model, device_ids=ids, gradient_as_bucket_view=True
        )
        prepare(learner, config)
        curves.append(loss_curve(learner, config))
    return f"graph, {count} micro-batches: within {_gap(*curves):.4f} nats of launched steps"


def whole_run(bench: Bench, empty_cache: bool = False) -> list[str]:
    """Return the time of a run as a user starts it, with the compile cache of the ones before."""
    steps = 20 if bench.rehearses else 500
    _write_text(bench)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=bench.folder))
    start = _now()
    changes = {"distributed": {"compile_cache": str(folder / "cache")}} if empty_cache else {}
    code = _trainer(bench, folder, steps, changes)
    took = _now() - start
    summary = json.loads((folder / "run/run.json").read_text())
    startup = summary["attempts"][-1]["startup"]
    parts = ", ".join(f"{k.removesuffix('_s')} {v:.1f}" for k, v in startup.items())
    losses = _losses(folder)
    some = ", ".join(f"{losses[s]:.4f} at {s}" for s in (50, 200, 350, 500) if s in losses)
    return [f"exit code {code}, {took:.1f} s; start-up: {parts} s", f"losses {some}"]


def resumed(bench: Bench) -> list[str]:
    """Compare a run that was stopped and resumed with one that was not."""
    steps = 60
    saving = {"checkpoint": {"dump": {"every": steps}}, "logging": {"freq": 1}}
    _write_text(bench)
    whole, parted = (Path(tempfile.mkdtemp(prefix="run-", dir=bench.folder)) for _ in range(2))
    _trainer(bench, whole, steps, saving)
    code = _trainer(bench, parted, steps, saving, stop_at=20)
    _trainer(bench, parted, steps, saving)
    own, reference = _losses(parted), _losses(whole)
    gap = max(abs(own[step] - reference[step]) for step in reference)
    return [f"stopped with code {code}; losses within {gap:.6f} nats of the run that was not"]


def _trainer(
    bench: Bench, folder: Path, steps: int, changes: dict[str, Any], stop_at: int | None = None
) -> int:
    """Run the trainer; at step `stop_at` ask it to stop. Return its exit code."""
    config = bench.config("27.5M", **merge({"optim": {"scheduler": "cosine"}}, changes))
    values = json.loads(config.model_dump_json(exclude_unset=True))
    values |= {"dump_dir": str(folder / "run"), "steps": steps, "seed": 42}
    values["optim"] |= {"warmup": 10}
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "trainer", f"config={folder / 'run.yaml'}"]
    with (folder / "log").open("a") as log:
        # torch sets the cache's variables in this process, and they would override the settings.
        environment = {name: v for name, v in os.environ.items() if name not in CACHE_VARIABLES}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        summary = folder / "run/run.json"
        while process.poll() is None:
            time.sleep(0.1)
            if stop_at is not None and len(_losses(folder)) >= stop_at:
                process.send_signal(signal.SIGTERM)
                stop_at = None
            if summary.exists() and json.loads(summary.read_text())["status"] == "completed":
                break
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # see os._exit above
            process.kill()
            code = 0
    if not summary.exists():
        raise RuntimeError((folder / "log").read_text()[-300:])
    return code


def _write_text(bench: Bench) -> None:
    if not (bench.folder / "data").exists():
        write_text(bench.folder)


def _losses(folder: Path) -> dict[int, float]:
    """Return step -> loss of a run's records."""
    path = folder / "run/metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return {record["global_step"]: record["loss/out"] for record in records}


def module(bench: Bench, name: str, arguments: list[str]) -> list[str]:
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
    sys.exit(main())
