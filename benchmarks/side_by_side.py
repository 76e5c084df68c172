"""Our trainer compared with others: alternating whole runs, on a GPU if there is one.

    make bench      # python -m benchmarks.side_by_side [--shape nano] [--steps 1000] [--repeats 5]

The others: transformers' Llama with its own Trainer and, if they are installed, litgpt's
pretraining and, on a GPU, torchtitan's Trainer. Same shape, batch, dtype and corpus; eager,
compiled with an empty compile cache, and compiled with a filled one. Speed is from the median step
after the first tenth; times count from the start of the process. MFU = tokens/s x
(6 N + 12 L S d) / peak. Ratios compare runs of the same turn.

--also adds any trainer whose log study/measure/foreign_logs.py reads, as a command that trains the
same shape and batch: --also lingua 'COMMAND' LOG.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks import add_other_trainers, command_line, run
from benchmarks.timing import range_text, ratios
from benchmarks.trainer_runs import (
    SOURCE,
    run_module,
    settings,
    shape_names,
    shape_of,
    train,
    write_text,
)
from study.command_line import whole
from study.measure.foreign_logs import read_steady_steps
from trainer.config import BYTE_VOCABULARY, ModelConfig
from trainer.flops import flops_per_token, utilisation
from trainer.tokens.shards import ensure_shards

HOW = ("eager", "compiled, cold", "compiled, warm")
CONTENDERS = {
    "transformers": "benchmarks.contenders.transformers_trainer",
    "litgpt": "benchmarks.contenders.litgpt_pretrain",
    "torchtitan": "benchmarks.contenders.torchtitan_trainer",
}
"""Package -> the module that trains with it."""
GPU_ONLY = ("torchtitan",)
REFERENCE = "transformers"


@dataclass(frozen=True)
class Result:
    """Measurements of a run; None if its log does not have them."""

    step_s: float | None
    first_step_s: float | None = None
    last_step_s: float | None = None
    peak_memory_gib: float | None = None


Results = dict[tuple[str, str], list[Result]]


def main() -> None:
    options = parse_arguments()
    shape = shape_of(options.shape)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options, shape)
        results: Results = {}
        for turn in range(options.repeats):
            for how in options.only or HOW:
                for name, run in bench.contenders(how).items():
                    results.setdefault((name, how), []).append(run(how, turn))
                    print(f"turn {turn + 1}: {name}, {how}", file=sys.stderr, flush=True)
    show(options, shape, results)


def parse_arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument(
        "--shape", default="nano", choices=shape_names(), help="a model of config/models.yaml"
    )
    parser.add_argument("--batch-size", type=whole, default=8)
    parser.add_argument("--seq-len", type=whole, default=256)
    parser.add_argument("--steps", type=whole, default=1000)
    parser.add_argument("--repeats", type=whole, default=5)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--only", choices=HOW, nargs="+", help="default: all of them")
    parser.add_argument("--peak-tflops", type=float, help="peak of one device, for MFU")
    add_other_trainers(parser)
    return parser.parse_args()


class Bench:
    """Starts the contenders on the same corpus, each with a compile cache of its own."""

    def __init__(self, folder: Path, options: argparse.Namespace, shape: dict[str, Any]) -> None:
        self.folder, self.options, self.shape = folder, options, shape
        write_text(folder)
        self.shards = ensure_shards(folder / "data", SOURCE, folder / "shards")

    def environment(self, name: str, turn: int) -> dict[str, str]:
        cache = self.folder / f"cache-{name}-{turn}"
        variables = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TRITON_CACHE_DIR": f"{cache}/triton"}
        return {**os.environ, **variables}

    def contenders(self, how: str) -> dict[str, Callable[[str, int], Result]]:
        """Return the contenders of a turn, in order."""
        found: dict[str, Callable[[str, int], Result]] = {
            "ours": partial(self.ours, how != "eager")
        }
        for name in CONTENDERS:
            if missing(name) is None:
                found[name] = partial(self.module, name)
        for kind, command, log in self.options.also:
            found[kind] = partial(self.command, kind, command, Path(log))
        return found

    def ours(self, compiled: bool, _: str, turn: int) -> Result:
        options = self.options
        values = settings(
            self.folder,
            self.shape,
            (options.batch_size, options.seq_len),
            options.steps,
            optim={"scheduler": "linear", "lr_min_ratio": 0.0},
            distributed={"model_dtype": options.dtype, "compile": compiled},
        )
        facts, records = train(values, self.environment("ours", turn))
        begin = options.steps // 10
        steps = [record["time/step_s"] for record in records if record["global_step"] > begin]
        return Result(
            statistics.median(steps),
            facts["attempts"][0]["startup"]["total_s"],
            records[-1]["time/elapsed_s"],
            facts["peak_memory_gib"],
        )

    def module(self, name: str, how: str, turn: int) -> Result:
        options, model = self.options, ModelConfig.model_validate(self.shape)
        given = {
            "shape": self.shape,
            "ffn_hidden": model.ffn_hidden,
            "vocab_size": BYTE_VOCABULARY,
            "batch_size": options.batch_size,
            "seq_len": options.seq_len,
            "steps": options.steps,
            "lr": 1e-3,
            "dtype": options.dtype,
            "compile": how != "eager",
            "tokens": str(self.shards.folder / "train.bin"),
            "tokens_dtype": self.shards.dtype,
        }
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(given))
        environment = self.environment(name, turn)
        if how == "eager":  # litgpt has no setting for it
            environment["TORCH_COMPILE_DISABLE"] = "1"
        printed = run_module(CONTENDERS[name], [str(file)], environment)
        return Result(**json.loads(printed.splitlines()[-1]))

    def command(self, kind: str, command: str, log: Path, how: str, turn: int) -> Result:
        """Run another trainer's command, which decides itself whether to compile."""
        log.unlink(missing_ok=True)
        subprocess.run(["bash", "-c", command], check=True, stdout=sys.stderr)
        tokens = self.options.batch_size * self.options.seq_len
        run: Any = SimpleNamespace(
            tokens_per_step=tokens,
            gpus=1,
            model=self.options.shape,
            run=SimpleNamespace(checkpoint=None),
        )
        return Result(statistics.median(read_steady_steps(kind, log, run).times_s))


def show(options: argparse.Namespace, shape: dict[str, Any], results: Results) -> None:
    model = ModelConfig.model_validate(shape)
    tokens = options.batch_size * options.seq_len
    flops = flops_per_token(model, BYTE_VOCABULARY, options.seq_len)
    print(
        f"{options.shape}, {options.batch_size} x {options.seq_len} tokens, {options.dtype}, "
        f"{options.steps} steps, {options.repeats} turns; ratios are to {REFERENCE}"
    )
    print(
        f"{'':14}{'':16}{'tokens/s':>10}{'MFU':>7}{'GiB':>7}{'first step s':>14}{'all s':>8}"
        f"{'speed':>25}{'first step':>25}{'all':>25}"
    )
    for (name, how), runs in results.items():
        step_s = middle(runs, "step_s")
        speed = None if step_s is None else tokens / step_s
        mfu = None if speed is None else utilisation(speed, flops, options.peak_tflops)
        line = (
            f"{name:14}{how:16}{'' if speed is None else f'{speed:,.0f}':>10}"
            f"{'' if mfu is None else f'{mfu:.1%}':>7}"
        )
        for field, width in (("peak_memory_gib", 7), ("first_step_s", 14), ("last_step_s", 8)):
            value = middle(runs, field)
            line += f"{'' if value is None else f'{value:.2f}':>{width}}"
        others = results.get((REFERENCE, how), [])
        if name != REFERENCE and others:
            line += spread(others, runs, "step_s")  # speed is the inverse of time
            line += spread(runs, others, "first_step_s") + spread(runs, others, "last_step_s")
        print(line.rstrip())
    for name in CONTENDERS:
        if (reason := missing(name)) is not None:
            print(f"{name}: {reason}")


def missing(name: str) -> str | None:
    """Return why a trainer cannot run here; None if it can."""
    if importlib.util.find_spec(name) is None:
        return "not installed"
    if name in GPU_ONLY and not torch.cuda.is_available():
        return "needs a GPU"
    return None


def middle(runs: list[Result], field: str) -> float | None:
    values = [getattr(run, field) for run in runs if getattr(run, field) is not None]
    return statistics.median(values) if values else None


def spread(above: list[Result], below: list[Result], field: str) -> str:
    """Return the ratios of two contenders' turns: median, minimum and maximum."""
    values = [[getattr(run, field) for run in runs] for runs in (above, below)]
    known = None not in (*values[0], *values[1])
    return f"{'x' + range_text(ratios(*values), '.2f') if known else '':>25}"


if __name__ == "__main__":
    run(main)
