"""Logs of other trainers, as they look in the wild."""

import json
from typing import Any


def titan(step: int, tps: int) -> str:
    return (
        f"[titan] 2026-02-24 19:46:17,508 - root - INFO - step: {step:2}  loss:  7.62585  "
        f"grad_norm: 26.6250  memory: 66.91GiB(37.51%)  tps: {tps:,}  tflops: 314.71  mfu: 13.99%\n"
    )


def titan_validation(step: int, tps: int) -> str:
    return (
        "[titan] 2026-02-24 19:46:18,508 - root - INFO - "
        f"validate step: {step:2}  loss:  7.1  memory: 66.91GiB(37.51%)  tps: {tps:,}\n"
    )


def nano(step: int, ms: float) -> str:
    return f"iter {step}: loss 3.1415, time {ms:.2f}ms, mfu 30.12%\n"


def chat(step: int, ms: float, tokens: int = 1024, mfu: str = "bf16_mfu") -> str:
    return (
        f"step {step:05d}/21400 (0.02%) | loss: 8.893647 | lrm: 1.00 | dt: {ms:.2f}ms | "
        f"tok/sec: {int(1e3 * tokens / ms):,} | {mfu}: 74.13 | epoch: 1 pq: 0 rg: 9 | "
        "total time: 0.00m\n"
    )


def lingua(step: int, wps: float, **more: Any) -> str:
    return json.dumps({"global_step": step, "speed/wps": wps, "loss/out": 3.0, **more}) + "\n"


LITGPT = "epoch,iter,iter_time,learning_rate,loss,remaining_time,step,tokens,total_tokens"

STATE = {"epoch": 1.0, "train_runtime": 120.3, "train_samples_per_second": 33.2,
         "train_steps_per_second": 4.15, "step": 500}  # fmt: skip


def trainer_state(*entries: dict[str, Any]) -> str:
    return json.dumps({"global_step": 500, "log_history": list(entries)}, indent=2)


GOOD = {
    "lingua": "".join(lingua(step, 512) for step in (10, 20, 30)),
    "torchtitan": "".join(titan(step, 512) for step in (1, 10, 20)),
    "nanogpt": "".join(nano(step, 1000) for step in (0, 10, 20)),
    "nanochat": "".join(chat(step, 1000) for step in range(3)),
    "litgpt": f"{LITGPT}\n0,1,9,4e-05,9.1,100,1,512,1024\n0,2,1,4e-05,9.0,100,2,1024,2048\n"
    "0,3,1,4e-05,9.0,100,3,1536,3072\n",
    "trainer_state": trainer_state(
        {"loss": 5.2, "step": 10}, {**STATE, "train_runtime": 500.0, "train_steps_per_second": 1.0}
    ),
    "wandb": '"Step","run - speed/wps","run - speed/wps__MIN"\n"10","9","9"\n"20","512","512"\n',
}
"""Format -> a log whose steady steps take a second for 1,024 tokens on 2 GPUs."""
