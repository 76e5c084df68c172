"""A stand-in for lingua, torchtitan, nanoGPT and nanochat: takes the config that each reads, and
writes the log that each writes, with its oddities. A step takes 5 ms.

    torchrun --nproc_per_node=N --standalone --local-addr=localhost (-m MODULE | SCRIPT) ARGUMENTS
"""

import importlib
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

STEP_S = 0.005


def loss(step: int) -> float:
    """A loss that falls."""
    return 2.0 + math.exp(-step / 10)


def lingua(config: dict[str, Any], gpus: int) -> None:
    """A record every `freq` steps, with the speed of one GPU."""
    folder = Path(config["dump_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    data, freq = config["data"], config["logging"]["freq"]
    tokens = data["batch_size"] * data["seq_len"] * config["grad_acc_steps"]
    with (folder / "metrics.jsonl").open("a") as log:
        for step in range(freq, config["steps"] + 1, freq):
            record = {
                "global_step": step,
                "acc_step": 0,
                "speed/wps": tokens / STEP_S,
                "optim/grad_norm": 1.0,
                "optim/lr": config["optim"]["lr"],
                "optim/total_tokens": step * tokens * gpus,
                "memory/max_reserved_gib": 3.5,
                "loss/out": loss(step),
                "created_at": "2026-01-01T00:00:00",
            }
            time.sleep(freq * STEP_S)
            print(json.dumps(record), file=log, flush=True)


def torchtitan(config: Any, gpus: int) -> None:
    """Step 1 and every `log_freq` steps, by every rank, in colours, with a save in between."""
    training = config.training
    tps = training.global_batch_size * training.seq_len / gpus / STEP_S
    info = "[titan] 2026-02-24 19:46:17,508 - root - INFO -"
    print(f"{info} Training starts at step 1")
    steps = [1, *range(config.metrics.log_freq, training.steps + 1, config.metrics.log_freq)]
    for step in steps:
        time.sleep(STEP_S if step == 1 else STEP_S * (config.metrics.log_freq - (step == 5)))
        speed = tps / 50 if step == 1 else tps
        for rank in range(gpus):
            print(
                f"[rank{rank}]:{info} \x1b[31mstep: {step:2}  \x1b[32mloss: {loss(step):8.5f}  "
                f"\x1b[33mgrad_norm: 1.0000  \x1b[34mmemory:  3.50GiB(4.40%)  \x1b[35mtps: "
                f"{round(speed):,}  \x1b[36mtflops: 1.00  \x1b[35mmfu: 0.10%\x1b[0m",
                flush=True,
            )
        if step % config.checkpoint.interval == 0:
            print(f"{info} Saving the checkpoint (or staging if async is enabled).")


def nanogpt(config: dict[str, Any], gpus: int) -> None:
    """Steps count from 0; an evaluation and a save come before the step of their number."""
    tokens = config["gradient_accumulation_steps"] * config["batch_size"] * config["block_size"]
    print(f"tokens per iteration will be: {tokens:,}")
    for step in range(config["max_iters"] + 1):
        pause_s = 0.0
        if step % config["eval_interval"] == 0:
            print(f"step {step}: train loss {loss(step):.4f}, val loss {loss(step) + 0.1:.4f}")
            print(f"saving checkpoint to {config['out_dir']}")
            pause_s = 0.05
        time.sleep(STEP_S + pause_s)
        if step % config["log_interval"] == 0:
            ms = 1e3 * (STEP_S + pause_s)
            print(
                f"iter {step}: loss {loss(step + 1):.4f}, time {ms:.2f}ms, mfu -100.00%", flush=True
            )


def nanochat(options: dict[str, str], gpus: int) -> None:
    """Every step, from 0; the validation in bits per byte."""
    steps, tokens = int(options["num-iterations"]), int(options["total-batch-size"])
    print(f"Tokens / micro-batch / rank: {options['device-batch-size']} x ...")
    for step in range(steps + 1):
        if step % int(options["eval-every"]) == 0 or step == steps:
            print(f"Step {step:05d} | Validation bpb: {loss(step) / 3:.6f}")
        if step == steps:
            break
        time.sleep(STEP_S)
        print(
            f"step {step:05d}/{steps:05d} ({100 * step / steps:.2f}%) | "
            f"loss: {loss(step + 1):.6f} | lrm: 1.00 | "
            f"dt: {1e3 * STEP_S:.2f}ms | tok/sec: {round(tokens / STEP_S):,} | "
            f"mfu: 0.10 | total time: 0.00m",
            flush=True,
        )


def main(words: list[str]) -> None:
    """Run as the trainer that the command names."""
    (count, *words) = words
    gpus = int(count.removeprefix("--nproc_per_node="))
    assert [words.pop(0), words.pop(0)] == ["--standalone", "--local-addr=localhost"]
    program, *arguments = words[1:] if words[0] == "-m" else words
    time.sleep(0.2)
    if program == "apps.main.train":
        import yaml

        (argument,) = arguments
        lingua(yaml.safe_load(Path(argument.removeprefix("config=")).read_text()), gpus)
    elif program == "torchtitan.train":
        names = ("models", "models.common", "models.llama3", "models.llama3.config_registry")
        names += ("components", "components.optimizer")
        names += ("distributed", "distributed.activation_checkpoint")
        for name in ("torchtitan", *(f"torchtitan.{name}" for name in names)):
            sys.modules[name] = MagicMock()
        sys.path.insert(0, os.environ["PYTHONPATH"])
        assert arguments == ["--module=config", "--config=cell"]
        torchtitan(importlib.import_module("config").cell(), gpus)
    elif program == "train.py":
        config: dict[str, Any] = {}
        exec(Path(arguments[0]).read_text(), config)
        nanogpt(config, gpus)
    else:
        assert program == "scripts.base_train"
        nanochat(dict(word.removeprefix("--").split("=", 1) for word in arguments), gpus)


if __name__ == "__main__":
    main(sys.argv[1:])
