"""A small study in a folder of a test, and Snakemake in a copy of the project."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.waiting import PATIENCE_S
from tests.workflow.checkout import ROOT


class Workspace:
    """A small study in a separate folder, run from a copy of the project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "study.yaml"
        self.results = folder / "results" / "small"
        text = folder / "the data" / "text"
        text.mkdir(parents=True)
        documents = [path.read_text() for path in sorted((ROOT / "study").glob("*.py"))]
        for name, chosen in (("chunk.00", documents[2:]), ("val", documents[:2])):
            lines = [json.dumps({"text": document}) + "\n" for document in chosen]
            (text / f"text.{name}.jsonl").write_text("".join(lines))
        self.study: dict[str, Any] = {
            "study": "small",
            "results_dir": str(folder / "results"),
            "models": {
                "one": {"dim": 32, "n_layers": 1, "n_heads": 2, "multiple_of": 32},
                "two": {"dim": 32, "n_layers": 2, "n_heads": 2, "multiple_of": 32},
                "big": {"dim": 64, "n_layers": 4, "n_heads": 2, "multiple_of": 32},
            },
            "clusters": {"here": {"device": "cpu", "gpu_name": "CPU core", "gpus_per_node": 2}},
            "run": {
                "steps": 12,
                "optim": {"lr": 3e-3},
                "distributed": {"model_dtype": "fp32"},
                "data": {
                    "root_dir": str(folder / "the data"),
                    "sources": {"text": 1.0},
                    "batch_size": 2,
                    "seq_len": 64,
                },
                "logging": {"freq": 2},
                "checkpoint": {"dump": {"every": 4}},
                "eval": {"validation": {"max_sequences": 4}},
            },
            "grid": [
                {"cluster": "here", "model": ["one", "two"], "gpus": 1},
                {"cluster": "here", "model": "big", "gpus": 2, "measure": False},
            ],
        }
        self.write()

    def write(self) -> None:
        self.file.write_text(yaml.safe_dump(self.study))

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        done = snakemake(*arguments, "--configfile", str(self.file))
        assert not check or done.returncode == 0, done.stdout
        return done.stdout

    def planned(self, *arguments: str) -> dict[str, int]:
        """Return rule -> number of jobs in a dry run."""
        table = re.findall(r"^(\w+) +(\d+)$", self.snakemake("-n", *arguments), re.MULTILINE)
        return {rule: int(count) for rule, count in table if rule != "total"}

    def run_folder(self, model: str) -> Path:
        return self.results / "runs" / "here" / model / "gpus-1" / "base" / "seed-42"


def environment() -> dict[str, str]:
    """Return this moment's environment, as tests change it, with the commands of this Python."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def start_snakemake(*arguments: str) -> subprocess.Popen[str]:
    """Start Snakemake in the copy of the project, and return at once."""
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def snakemake(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in the copy of the project."""
    return _run(ROOT, environment(), *arguments)


def snakemake_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a folder, in an environment that knows nothing of the project's folder."""
    outside = {key: value for key, value in environment().items() if key != "PYTHONPATH"}
    return _run(folder, outside, *arguments)


def _run(
    folder: Path, environment: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
