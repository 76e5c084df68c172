"""Steps on a GPU: their losses, time, kernels, and CUDA graphs under DDP."""

import statistics
import tempfile
import time
from collections import Counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_bench import Bench, batch_of, open_learner, prepare, read_gpu_state
from benchmarks.timing import synchronize
from benchmarks.trainer_runs import device
from trainer.config import RunConfig
from trainer.layers import merge
from trainer.loop.learner import Learner
from trainer.loop.step import train_step

STEPS = 30
"""Steps whose losses are compared."""
FP32 = {"compile": False, "model_dtype": "fp32", "cuda_graphs": False, "fused_pointwise": False}
TABLE_LINES = 40

_now = time.monotonic


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


def speed(bench: Bench, size: str, changes: dict[str, Any], **chosen: Any) -> list[str]:
    """Return tokens/s, step time, memory; `chosen`: choices to replace."""
    config = bench.config(size, **changes)
    learner = open_learner(config, **chosen)
    batches = [batch_of(config, index) for index in range(4)]
    for step in range(2 if bench.rehearses else 8):
        train_step(learner, batches[step % 4])
    times, end = [], _now() + bench.seconds
    synchronize()
    while _now() < end or len(times) < 3:
        start = _now()
        for step in range(5):
            train_step(learner, batches[step % 4])
        synchronize()
        times.append((_now() - start) / 5)
    choices = learner.choices
    middle = statistics.median(times)
    memory = torch.cuda.max_memory_reserved() / 2**30 if config.device == "cuda" else 0.0
    state = read_gpu_state()
    clock = f", {state.clock_mhz} MHz{state.limits_text}" if state is not None else ""
    tokens = config.tokens_per_step(1)
    return [
        f"{tokens / middle:11,.0f} tokens/s {1e3 * middle:8.2f} ms "
        f"({1e3 * min(times):.2f} to {1e3 * max(times):.2f}) {memory:5.1f} GiB, "
        f"{choices.attention}{', graph' if choices.cuda_graphs else ''}{clock}"
    ]


def kernels(bench: Bench, size: str, changes: dict[str, Any]) -> list[str]:
    """Return the kernels of a step, those that take longest first."""
    config = bench.config(size, **changes)
    learner = open_learner(config)
    tokens = batch_of(config, 0)
    for _ in range(2 if bench.rehearses else 6):
        train_step(learner, tokens)
    synchronize()
    kind = ProfilerActivity.CUDA if config.device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind]) as trace:
        train_step(learner, tokens)
        synchronize()
    times, calls = Counter[str](), Counter[str]()
    for event in trace.events():
        us = event.device_time if config.device == "cuda" else event.self_cpu_time_total
        times[event.name] += us
        calls[event.name] += 1
    ranges = [event.time_range for event in trace.events()]
    span_us = max(part.end for part in ranges) - min(part.start for part in ranges)
    rows = [
        f"{sum(times.values()) / 1e3:.2f} ms in {calls.total()} kernels, {span_us / 1e3:.2f} ms "
        f"from the first to the last, attention {learner.choices.attention}"
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
        learner.graph = None  # the process group ends only without it
    return f"graph, {count} micro-batches: within {_gap(*curves):.4f} nats of launched steps"
