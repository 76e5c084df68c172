"""Throughput of tokenization and of the data loader, on one core.

    python -m benchmarks.data_speed

Tokenization: the time for a corpus of this Python's own sources, relative to just parsing its JSON
lines with the same library; the two alternate. Loader: byte tokens per second that one process gets
from BatchLoader, as int64, with three sources mixed. Median, minimum and maximum of `--repeats`.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import command_line
from benchmarks.timing import range_text, seconds
from study.corpus import write_python_stdlib
from trainer.config import DataConfig
from trainer.tokens.data import BatchLoader
from trainer.tokens.packing import Part
from trainer.tokens.shard_folder import Shards
from trainer.tokens.shards import ensure_shards

TOKENS = 60_000_000
BATCHES = ((8, 256), (8, 2048))


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        ratios = [tokenization_ratio(Path(folder), number) for number in range(repeats)]
        print(f"{'tokenization / parsing JSON lines':36}", range_text(ratios, ".3g", " x"))
        shards = make_shards(Path(folder))
        for batch, length in BATCHES:
            rates = [tokens_per_s(shards, batch, length) / 1e6 for _ in range(repeats)]
            name = f"loader, batch {batch} x {length}"
            print(f"{name:36}", range_text(rates, ".3g", " M tokens/s"))


def tokenization_ratio(folder: Path, number: int) -> float:
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
