"""Fixtures for complete runs: a corpus of random sentences, and a run.yaml for it."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.waiting import PATIENCE_S, wait_until
from trainer.config import load_run_config
from trainer.loop.run import run
from trainer.records import Record
from trainer.signals import STOP_SIGNALS
from trainer.startup import Startup

ROOT = Path(__file__).parents[2]

OF_TORCH = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""What torch itself puts into the environment of a process that compiles."""

long = pytest.mark.long
"""Marks a test that takes longer than CI can wait: `make test-long`."""


WORDS = (
    "a an and as at batch block but by clip cold data decay deep each fast flat for from gate head "
    "if in is it large layer less loss mean more no node norm not of on or over rank rate seed "
    "slow small split step sum that the then to token two under up was wave we wide with zero"
)


def write_document(number: int) -> str:
    """Return about 6 KB of sentences, the same ones for a number for ever."""
    draw, words = random.Random(number), WORDS.split()
    sentences = (" ".join(draw.choices(words, k=draw.randint(3, 12))) for _ in range(180))
    return ".\n".join(sentence.capitalize() for sentence in sentences)


@contextlib.contextmanager
def kept_handlers() -> Iterator[None]:
    """Restore the signal handlers that a run in this process replaces."""
    handlers = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, signal.SIGCONT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Runs:
    """Runs the trainer's command on a small corpus in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "run.yaml"
        source = folder / "data" / "text"
        source.mkdir(parents=True)
        documents = [write_document(number) for number in range(40)]
        for name, chosen in (("chunk.00", documents[1:]), ("val", documents[:1] + documents[-3:])):
            lines = [json.dumps({"text": text}) + "\n" for text in chosen]
            (source / f"text.{name}.jsonl").write_text("".join(lines))
        values = {
            "dump_dir": str(folder / "out"),
            "device": "cpu",
            "steps": 20,
            "optim": {"lr": 3e-3, "warmup": 2},
            "distributed": {"model_dtype": "fp32", "threads": 1},
            "model": {"dim": 32, "n_layers": 2, "n_heads": 2, "multiple_of": 32},
            "data": {
                "root_dir": str(folder / "data"),
                "sources": {"text": 1.0},
                "shards_dir": str(folder / "shards"),
                "batch_size": 4,
                "seq_len": 64,
            },
            "logging": {"freq": 2},
            "checkpoint": {"dump": {"every": 5}, "eval": {"every": 10}},
            "eval": {"validation": {"max_sequences": 8}},
        }
        self.config.write_text(yaml.safe_dump(values))

    def command(self, *arguments: str, processes: int = 1) -> list[str]:
        """Return the command line of a run; several processes go through torchrun."""
        start = [sys.executable, "-m", "trainer"]
        if processes > 1:
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            start = [*torchrun, f"--nproc_per_node={processes}", "-m", "trainer"]
        return [*start, f"config={self.config}", *arguments]

    def environment(self, **extra: str) -> dict[str, str]:
        """Return the environment of a run."""
        inherited = {name: value for name, value in os.environ.items() if name not in OF_TORCH}
        return {**inherited, "PYTHONPATH": str(ROOT), **extra}

    def start(self, *arguments: str, processes: int = 1, **extra: str) -> subprocess.Popen[str]:
        """Start a run, with more of an environment, and return at once."""
        return subprocess.Popen(
            self.command(*arguments, processes=processes),
            env=self.environment(**extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *arguments: str, processes: int = 1, check: bool = True, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        done = subprocess.run(
            self.command(*arguments, processes=processes),
            env=self.environment(**extra),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def run_several(self, command_lines: Sequence[Sequence[str]], processes: int = 1) -> None:
        """Run one after the other in one set of processes; see several_runs.py."""
        file = self.folder / f"runs-{processes}.json"
        file.write_text(json.dumps(command_lines))
        done = subprocess.run(
            [sys.executable, "-m", "tests.trainer.several_runs", str(processes), str(file)],
            cwd=ROOT,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def here(self, *arguments: str) -> int:
        """Run in this process, which saves the import of torch; return the exit code."""
        threads = torch.get_num_threads()
        kept = "distributed={freeze_gc: false, keep_memory: false, model_dtype: fp32, threads: 1}"
        try:
            with kept_handlers():
                return run(load_run_config([f"config={self.config}", kept, *arguments]), Startup())
        finally:
            torch.set_num_threads(threads)

    def out(self, name: str = "out") -> Path:
        """Return a run's folder."""
        return self.folder / name


def read_records(folder: Path, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Return the records of a run."""
    return [json.loads(line) for line in (folder / file).read_text().splitlines()]


def losses(folder: Path) -> list[tuple[int, float]]:
    """Return (step, loss of that step alone) of every record."""
    return [(record["global_step"], record["loss/step"]) for record in read_records(folder)]


def account(folder: Path) -> dict[str, Any]:
    """Return what run.json says of a run."""
    return json.loads((folder / "run.json").read_text())


def wait_for_step(folder: Path, step: int) -> None:
    """Wait until a run has recorded a step."""
    wait_until(lambda: any(done >= step for done, _ in losses_so_far(folder)), f"step {step}")


def losses_so_far(folder: Path) -> list[tuple[int, float]]:
    try:
        return losses(folder)
    except (FileNotFoundError, ValueError):  # ValueError: a line that is being written
        return []


def digest_of(folder: Path) -> dict[str, str]:
    """Return file -> checksum of its content."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def make_record(step: int, **changes: Any) -> Record:
    """Return a record of one step."""
    values = {"loss": 1.0, "tokens": 8 * step, "elapsed_s": 1.0, "step_s": 1.0, "attempt": 1}
    return Record(step=step, interval_steps=1, **(values | changes))


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)
