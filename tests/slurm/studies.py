"""Small studies through Snakemake and the trial cluster: written, started, watched, disturbed."""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests import waiting
from tests.slurm.cluster.api import Cluster

ROOT = Path(__file__).parents[2]
FAULTS = ROOT / "tests" / "slurm" / "faults"
STANDIN = ROOT / "tests" / "slurm" / "standin"
STEPS = 24

wait_until = partial(waiting.wait_until, pause_s=0.2)
"""Slower, as many conditions ask Slurm."""


def partition(name: str, fault: str = "", folder: Path | None = None, **slurm: Any) -> dict:
    """Return a cluster of a study file on a partition of the trial cluster, with a fault in it."""
    setup = []
    if fault:
        setup = [f"export PYTHONPATH={FAULTS} FAULT={fault} FAULT_FOLDER={folder}"]
    request = {
        "account": "nlp" if name == "sphinx" else "miso",
        "partition": name,
        "gpu_request": "gres",
        "mem_gib": 4,
        "runtime_min": 10,
        "max_nodes": 2 if name == "miso" else 1,
    }
    # GPUs of a node: a partition whose runs take one on each node says 1 in `slurm`.
    per_node = slurm.pop("gpus_per_node", 8)
    return {
        "device": "cpu",
        "gpu_name": "CPU core",
        "gpus_per_node": per_node,
        "setup": setup,
        "slurm": {**request, **slurm},
    }


def standin(name: str, folder: Path, does: str = "", step_s: float = 0.05, **slurm: Any) -> dict:
    """Return a cluster like `partition`, whose runs are those of standin/torchrun, by way of
    standin/python."""
    cluster = partition(name, **slurm)
    cluster["setup"] = [
        f"export PATH={STANDIN}:$PATH STANDIN={does} STANDIN_FOLDER={folder} "
        f"STANDIN_STEP_S={step_s}"
    ]
    return cluster


def seconds_of_planning(*arguments: str) -> float:
    """Return what a dry run takes now, s: a measure of time that a busy machine stretches too."""
    began = time.monotonic()
    command = [sys.executable, "-m", "snakemake", "--dry-run", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.monotonic() - began


class SlurmStudy:
    """A study of runs that take seconds, and the Snakemake that carries it out."""

    def __init__(self, cluster: Cluster, folder: Path, name: str) -> None:
        self.cluster = cluster
        self.folder = folder
        self.name = name
        self.file = folder / "study.yaml"
        self.results = folder / "results" / name
        self.log = folder / "snakemake.log"
        self.process: subprocess.Popen[bytes] | None = None
        text = folder / "data" / "text"
        text.mkdir(parents=True)
        documents = [path.read_text() for path in sorted((ROOT / "study").glob("*.py"))]
        for part, chosen in (("chunk.00", documents[2:]), ("val", documents[:2])):
            lines = [json.dumps({"text": document}) + "\n" for document in chosen]
            (text / f"text.{part}.jsonl").write_text("".join(lines))
        self.study: dict[str, Any] = {
            "study": name,
            "results_dir": str(folder / "results"),
            "models": {"one": {"dim": 32, "n_layers": 1, "n_heads": 2, "multiple_of": 32}},
            "clusters": {},
            "run": {
                "steps": STEPS,
                "optim": {"lr": 3e-3},
                "distributed": {"model_dtype": "fp32", "timeout_s": 20},
                "data": {
                    "root_dir": str(folder / "data"),
                    "sources": {"text": 1.0},
                    "shards_dir": str(folder / "shards"),
                    "batch_size": 2,
                    "seq_len": 64,
                },
                "logging": {"freq": 2},
                "checkpoint": {"dump": {"every": 4}},
            },
            "grid": [],
        }

    def add(self, name: str, cluster: dict, gpus: int = 1) -> None:
        """Add a cluster with one cell on it."""
        self.study["clusters"][name] = cluster
        self.study["grid"].append({"cluster": name, "model": "one", "gpus": gpus})

    def add_standin(self, name: str, does: str = "", step_s: float = 0.05, **slurm: Any) -> None:
        """Add a cell of the stand-in on `sphinx`; `hold...`: it waits for `release_standin`."""
        folder = self.folder / name
        folder.mkdir()
        (folder / ("hold" if does.startswith("hold") else "once")).touch()
        self.add(name, standin("sphinx", folder, does, step_s, **slurm))

    def release_standin(self, name: str) -> None:
        """Have a cell with `hold` or `hold-each` go on."""
        (self.folder / name / "hold").unlink()

    def run_folder(self, name: str) -> Path:
        entry = next(entry for entry in self.study["grid"] if entry["cluster"] == name)
        return self._folders(entry)[0]

    def _folders(self, entry: dict[str, Any]) -> list[Path]:
        """Return the folders of an entry's runs, one for each seed."""
        above = self.results / "runs" / entry["cluster"] / "one" / f"gpus-{entry['gpus']}" / "base"
        return [above / f"seed-{seed}" for seed in entry.get("seed", [42])]

    def write(self, *arguments: str) -> list[str]:
        """Write the study and return the command that runs it."""
        self.file.write_text(yaml.safe_dump(self.study))
        return [
            *(sys.executable, "-m", "snakemake"),
            *("--executor", "slurm", "--configfile", str(self.file)),
            *("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5", *arguments),
        ]

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `snakemake --executor slurm`; what it prints is appended to `log`."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.write(*arguments),
                cwd=ROOT,
                env={**self.cluster.environment(), **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.process

    def unlock(self) -> None:
        """Remove the lock that a killed Snakemake has left."""
        command = [sys.executable, "-m", "snakemake", "--configfile", str(self.file), "--unlock"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    def kill(self) -> None:
        """End the Snakemake that was started last."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def run(self, *arguments: str, timeout: float = 300, **environment: str) -> str:
        """Run to the end and return what was printed, whatever the exit code."""
        process = self.start(*arguments, **environment)
        try:
            self.returncode = process.wait(timeout)
        finally:
            process.kill()
        return self.log.read_text()

    def flags(self) -> list[Path]:
        """Return the files that say that a cell's run is complete, without any table."""
        return [
            folder / "completed" for entry in self.study["grid"] for folder in self._folders(entry)
        ]

    def records(self, name: str) -> list[dict[str, Any]]:
        """Return the whole lines of a cell's metrics.jsonl."""
        return self.records_of(self.run_folder(name))

    def records_of(self, folder: Path) -> list[dict[str, Any]]:
        path = folder / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]

    def losses(self, name: str) -> list[tuple[int, float]]:
        return self.losses_of(self.run_folder(name))

    def losses_of(self, folder: Path) -> list[tuple[int, float]]:
        return [(record["global_step"], record["loss/out"]) for record in self.records_of(folder)]

    def summary(self, name: str) -> dict[str, Any]:
        return self.summary_of(self.run_folder(name))

    def summary_of(self, folder: Path) -> dict[str, Any]:
        return json.loads((folder / "run.json").read_text())

    def jobs(self, name: str) -> list[int]:
        """Return the ids of a cell's jobs, first to last, from the links to their logs."""
        folder = self.run_folder(name) / "slurm_logs"
        return sorted(int(path.stem) for path in folder.glob("*.log"))

    def slurm_log(self, name: str) -> str:
        """Return what a cell's jobs printed, one after the other."""
        folder = self.run_folder(name) / "slurm_logs"
        return "".join((folder / f"{job}.log").read_text() for job in self.jobs(name))

    def wait_for_step(self, name: str, step: int, timeout: float = 240) -> int:
        """Wait until a cell has recorded a step; return the id of its job."""

        def reached() -> bool:
            records = self.records(name)
            return bool(records) and records[-1]["global_step"] >= step

        wait_until(reached, f"{name} reaches step {step}", timeout)
        return self.jobs(name)[-1]

    def hold(self, fault: str) -> None:
        """Have the cells with `fault` stay in the middle of their run, until `release`."""
        (self.folder / f"{fault}-hold").touch()

    def release(self, fault: str) -> None:
        (self.folder / f"{fault}-hold").unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
