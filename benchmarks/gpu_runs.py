"""Whole runs on a GPU, as a user starts them: their time, and losses after a stop."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks import ROOT
from benchmarks.gpu_bench import Bench
from benchmarks.trainer_runs import write_text
from trainer.execution.compiling import VARIABLES as CACHE_VARIABLES
from trainer.layers import merge

_now = time.monotonic


def whole_run(bench: Bench, empty_cache: bool = False, compiled: bool | None = None) -> list[str]:
    """Return the time of a run as a user starts it, with the compile cache of the ones before.

    `compiled`: None for the default. Python's bytecode of all modules is there.
    """
    steps = 20 if bench.rehearses else 500
    _write_text(bench)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=bench.folder))
    cache = bench.folder / "compile_cache"
    if empty_cache:
        shutil.rmtree(cache, ignore_errors=True)
    settings: dict[str, Any] = {"compile_cache": str(cache)}
    if compiled is not None:
        settings["compile"] = compiled
    _keep_bytecode(bench)
    start = _now()
    ended = _trainer(bench, folder, steps, {"distributed": settings})
    took = _now() - start
    summary = json.loads((folder / "run/run.json").read_text())
    startup = summary["attempts"][-1]["startup"]
    parts = ", ".join(f"{k.removesuffix('_s')} {v:.1f}" for k, v in startup.items())
    losses = _losses(folder)
    some = ", ".join(f"{losses[s]:.4f} at {s}" for s in (50, 200, 350, 500) if s in losses)
    return [f"{ended}, {took:.1f} s; start-up: {parts} s", f"losses {some}"]


MODULES = "trainer.loop.run, torch._dynamo.convert_frame, torch._inductor.compile_fx"
"""What a run imports, directly or not."""


def _keep_bytecode(bench: Bench) -> None:
    """Compile the modules of a run to bytecode, as an installation has done for most users.

    Images of containers often set PYTHONDONTWRITEBYTECODE: there every start compiles them.
    """
    subprocess.run(
        [sys.executable, "-c", f"import {MODULES}"], cwd=ROOT, env=_environment(bench), check=True
    )


def _environment(bench: Bench) -> dict[str, str]:
    # torch sets the cache's variables in this process, and they would override the settings.
    left_out = {*CACHE_VARIABLES, "PYTHONDONTWRITEBYTECODE"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {"PYTHONPYCACHEPREFIX": str(bench.folder / "bytecode")}


def resumed(bench: Bench) -> list[str]:
    """Compare a run that was stopped and resumed with one that was not."""
    steps = 60
    saving = {"checkpoint": {"dump": {"every": steps}}, "logging": {"freq": 1}}
    _write_text(bench)
    whole, parted = (Path(tempfile.mkdtemp(prefix="run-", dir=bench.folder)) for _ in range(2))
    _trainer(bench, whole, steps, saving)
    ended = _trainer(bench, parted, steps, saving, stop_at=20)
    _trainer(bench, parted, steps, saving)
    own, reference = _losses(parted), _losses(whole)
    gap = max(abs(own[step] - reference[step]) for step in reference)
    return [f"stopped: {ended}; losses within {gap:.6f} nats of the run that was not"]


def _trainer(
    bench: Bench, folder: Path, steps: int, changes: dict[str, Any], stop_at: int | None = None
) -> str:
    """Run the trainer; at step `stop_at` ask it to stop. Return how it ended."""
    config = bench.config("27.5M", **merge({"optim": {"scheduler": "cosine"}}, changes))
    values = json.loads(config.model_dump_json(exclude_unset=True))
    values |= {"dump_dir": str(folder / "run"), "steps": steps, "seed": 42}
    values["optim"] |= {"warmup": 10}
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "trainer", f"config={folder / 'run.yaml'}"]
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_environment(bench), stdout=log, stderr=subprocess.STDOUT
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
            ended = f"exit code {process.wait(timeout=5)}"
        except subprocess.TimeoutExpired:  # compile workers of torch 2.11 may hold it up
            process.kill()
            ended = "killed 5 s after its last step"
    if not summary.exists():
        raise RuntimeError((folder / "log").read_text()[-300:])
    return ended


def _write_text(bench: Bench) -> None:
    if not (bench.folder / "data").exists():
        write_text(bench.folder)


def _losses(folder: Path) -> dict[int, float]:
    """Return step -> loss of a run's records."""
    path = folder / "run/metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return {record["global_step"]: record["loss/out"] for record in records}
