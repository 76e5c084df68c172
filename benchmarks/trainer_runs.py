"""Runs of the trainer for benchmarks: settings, start, results."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import ROOT
from study.corpus import write_python_stdlib
from trainer import host
from trainer.layers import merge
from trainer.yaml_files import load_yaml

SOURCE = "python"
TINY = {"dim": 16, "n_layers": 8, "n_heads": 1, "multiple_of": 16}
"""A shape with next to no arithmetic: its step is CPU overhead."""


def shape_names() -> list[str]:
    """Return the models of config/models.yaml, and `tiny`."""
    return list(_shapes())


def shape_of(name: str) -> dict[str, Any]:
    """Return a model of config/models.yaml, or `tiny`."""
    return dict(_shapes()[name])


def _shapes() -> dict[str, Any]:
    return {"tiny": TINY, **load_yaml(str(ROOT / "config/models.yaml"))}


def device() -> str:
    """Return the device that benchmarks run on: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def machine_text(device: str = "cpu") -> str:
    """Return the processor, the GPU if that is what is used, and the version of torch."""
    gpu = f"{torch.cuda.get_device_name()}, " if device == "cuda" else ""
    return f"{gpu}{host.processor_name()}, torch {torch.__version__}"


def write_text(folder: Path) -> None:
    """Write the corpus that `settings` reads."""
    write_python_stdlib(folder / "data" / SOURCE)


def settings(
    folder: Path, shape: dict[str, Any], batch: tuple[int, int], steps: int, **changes: Any
) -> dict[str, Any]:
    """Return a run's settings: on the corpus in a folder, `batch` = (sequences, tokens of each).

    Float32, eager, without checkpoints and evaluation; `changes` are merged in.
    """
    values = {
        "dump_dir": str(folder / "out"),
        "device": device(),
        "steps": steps,
        "optim": {"lr": 1e-3},
        "model": shape,
        "distributed": {"model_dtype": "fp32", "compile": False},
        "data": {
            "root_dir": str(folder / "data"),
            "shards_dir": str(folder / "shards"),
            "sources": {SOURCE: 1.0},
            "batch_size": batch[0],
            "seq_len": batch[1],
        },
        "checkpoint": None,
        "eval": None,
    }
    return merge(values, changes)


def train(
    values: dict[str, Any], environment: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run the trainer in a new folder; return its run.json and its records."""
    out = Path(tempfile.mkdtemp(prefix="run-", dir=Path(values["dump_dir"]).parent))
    config = out / "settings.yaml"
    config.write_text(yaml.safe_dump({**values, "dump_dir": str(out)}))
    run_module("trainer", [f"config={config}"], environment)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return json.loads((out / "run.json").read_text()), [json.loads(line) for line in lines]


def run_module(name: str, arguments: list[str], environment: Mapping[str, str] | None) -> str:
    """Run `python -m name` in the repository's root; return its output. Exit if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", name, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
