"""Our trainer beside transformers' own, whole runs in turns, on whatever device is there.

    make bench      # python benchmarks/side_by_side.py [--shape nano] [--steps 400] [--repeats 3]

Same shape, batch, arithmetic and text; eager and compiled, with an empty cache of compiled code at
first and a filled one after it. Speed is the median step of the run's later nine tenths; time to
the first step counts from the start of the process. MFU = tokens/s x (6 N + 12 L S d) / peak.
Ratios are of runs of one turn. torchtitan and litgpt are said to be absent where they are.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from study.corpus import write_python_stdlib  # noqa: E402
from trainer.config import BYTE_VOCABULARY, ModelConfig, load_yaml  # noqa: E402
from trainer.flops import flops_per_token, utilisation  # noqa: E402
from trainer.shards import ensure_shards  # noqa: E402

HOW = ("eager", "compiled, cold", "compiled, warm")
OTHERS = ("torchtitan", "litgpt")
TRANSFORMERS = ROOT / "benchmarks" / "contenders" / "transformers_trainer.py"


@dataclass(frozen=True)
class Result:
    """What a run was measured at."""

    first_step_s: float
    step_s: float
    peak_memory_gib: float


def main() -> None:
    options = parse_arguments()
    shape = load_yaml(str(ROOT / "config/models.yaml"))[options.shape]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options, shape)
        results: dict[tuple[str, str], list[Result]] = {}
        for turn in range(options.repeats):
            for how in options.only or HOW:
                for name, run in (("ours", bench.ours), ("transformers", bench.transformers)):
                    results.setdefault((name, how), []).append(run(how, turn))
                    print(f"turn {turn + 1}: {name}, {how}", file=sys.stderr, flush=True)
    show(options, shape, results)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trainers side by side")
    parser.add_argument("--shape", default="nano", help="a name of config/models.yaml")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--only", choices=HOW, nargs="+", help="less than all of these")
    parser.add_argument("--peak-tflops", type=float, help="of one device, for the MFU")
    return parser.parse_args()


class Bench:
    """Starts the contenders on one text, each with caches of compiled code of its own."""

    def __init__(self, folder: Path, options: argparse.Namespace, shape: dict[str, Any]) -> None:
        self.folder, self.options, self.shape = folder, options, shape
        write_python_stdlib(folder / "data" / "python")
        self.shards = ensure_shards(folder / "data", "python", folder / "shards")

    def environment(self, name: str, how: str, turn: int) -> dict[str, str]:
        cache = self.folder / f"cache-{name}-{turn}"
        variables = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TRITON_CACHE_DIR": f"{cache}/triton"}
        return {**os.environ, **variables, "PYTHONPATH": str(ROOT)}

    def ours(self, how: str, turn: int) -> Result:
        options, out = self.options, self.folder / f"ours-{how}-{turn}"
        values = {
            "dump_dir": str(out),
            "steps": options.steps,
            "optim": {"lr": 1e-3, "scheduler": "linear", "lr_min_ratio": 0.0},
            "distributed": {"model_dtype": options.dtype, "compile": how != "eager"},
            "model": self.shape,
            "data": {
                "root_dir": str(self.folder / "data"),
                "sources": {"python": 1.0},
                "shards_dir": str(self.folder / "shards"),
                "batch_size": options.batch_size,
                "seq_len": options.seq_len,
            },
            "checkpoint": None,
        }
        config = self.folder / "ours.yaml"
        config.write_text(yaml.safe_dump(values))
        self._run("ours", how, turn, ["-m", "trainer", f"config={config}"])
        facts = json.loads((out / "run.json").read_text())
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        steps = [
            record["time/step_s"]
            for record in records
            if record["global_step"] > options.steps // 10
        ]
        startup = facts["attempts"][0]["startup"]["total_s"]
        return Result(startup, statistics.median(steps), facts["peak_memory_gib"])

    def transformers(self, how: str, turn: int) -> Result:
        options, model = self.options, ModelConfig.model_validate(self.shape)
        settings = {
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
        file = self.folder / "transformers.json"
        file.write_text(json.dumps(settings))
        printed = self._run("transformers", how, turn, [str(TRANSFORMERS), str(file)])
        return Result(**json.loads(printed.splitlines()[-1]))

    def _run(self, name: str, how: str, turn: int, command: list[str]) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            env=self.environment(name, how, turn),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stdout}{done.stderr}")
        return done.stdout


def show(
    options: argparse.Namespace,
    shape: dict[str, Any],
    results: dict[tuple[str, str], list[Result]],
) -> None:
    model = ModelConfig.model_validate(shape)
    tokens = options.batch_size * options.seq_len
    flops = flops_per_token(model, BYTE_VOCABULARY, options.seq_len)
    print(
        f"{options.shape}, {options.batch_size} x {options.seq_len} tokens, {options.dtype}, "
        f"{options.steps} steps, {options.repeats} turns; ratios are ours to theirs"
    )
    print(
        f"{'':14}{'':16}{'tokens/s':>10}{'MFU':>7}{'GiB':>7}{'first step s':>14}"
        f"{'speed':>22}{'first step':>22}"
    )
    for (name, how), runs in results.items():
        speed = tokens / statistics.median(run.step_s for run in runs)
        mfu = utilisation(speed, flops, options.peak_tflops)
        line = (
            f"{name:14}{how:16}{speed:10,.0f}{'' if mfu is None else f'{mfu:.1%}':>7}"
            f"{statistics.median(run.peak_memory_gib for run in runs):7.2f}"
            f"{statistics.median(run.first_step_s for run in runs):14.2f}"
        )
        if name != "ours":
            own = results[("ours", how)]
            line += spread([b.step_s / a.step_s for a, b in zip(own, runs, strict=True)])
            line += spread(
                [a.first_step_s / b.first_step_s for a, b in zip(own, runs, strict=True)]
            )
        print(line)
    for name in OTHERS:
        if importlib.util.find_spec(name) is None:
            print(f"{name}: not installed")


def spread(ratios: list[float]) -> str:
    text = f"x{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"{text:>22}"


if __name__ == "__main__":
    main()
