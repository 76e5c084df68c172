"""How fast text becomes tokens, and tokens batches, on one core.

    python benchmarks/data_speed.py

Tokenising: seconds for a corpus of this Python's own sources, beside those of parsing its JSON
lines alone with the library that is used, in turns. Loader: byte tokens per second that one process
gets from BatchLoader, as int64, three sources mixed. Median, least and most of `--repeats`.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from study.corpus import write_python_stdlib
from trainer.config import DataConfig
from trainer.tokens.data import BatchLoader
from trainer.tokens.packing import Part
from trainer.tokens.shard_folder import Shards
from trainer.tokens.shards import ensure_shards

TOKENS = 60_000_000
BATCHES = ((8, 256), (8, 2048))


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of tokenising and of the loader")
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        ratios = [tokenising_ratio(Path(folder), number) for number in range(repeats)]
        show("tokenising / parsing its JSON lines", ratios, "x")
        shards = make_shards(Path(folder))
        for batch, length in BATCHES:
            rates = [tokens_per_s(shards, batch, length) / 1e6 for _ in range(repeats)]
            show(f"loader, batch {batch} x {length}", rates, "M tokens/s")


def show(name: str, values: list[float], unit: str) -> None:
    spread = f"{min(values):.3g} to {max(values):.3g}"
    print(f"{name:36} {statistics.median(values):6.3g} {unit}  ({spread})")


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def tokenising_ratio(folder: Path, number: int) -> float:
    source = folder / "python"
    if not source.exists():
        write_python_stdlib(source)

    def parse() -> None:
        for path in sorted(source.glob("*.jsonl")):
            with path.open("rb") as file:
                for line in file:
                    json.loads(line)

    parsing = seconds(parse)
    return seconds(lambda: ensure_shards(folder, "python", folder / f"shards{number}")) / parsing


def make_shards(folder: Path) -> dict[str, Shards]:
    ids = np.random.default_rng(0).integers(0, 258, TOKENS).astype("<u2")
    ids.tofile(folder / "train.bin")
    shards = Shards(folder, "key", "<u2", Part(1, TOKENS, TOKENS), Part(0, 0, 0))
    return {f"source{number}": shards for number in range(3)}


def tokens_per_s(shards: dict[str, Shards], batch: int, length: int) -> float:
    data = DataConfig(
        root_dir="unused",
        sources={name: 1.0 + number for number, name in enumerate(shards)},
        batch_size=batch,
        seq_len=length,
    )
    loader = BatchLoader(shards, data, seed=1, stop_step=10**7)
    steps = 20_000_000 // (batch * length)
    try:
        for _ in range(20):
            next(loader)
        taken = seconds(lambda: [next(loader).astype(np.int64) for _ in range(steps)])
    finally:
        loader.close()
    return steps * batch * length / taken


if __name__ == "__main__":
    main()
