"""Our estimates beside simple baselines, on published tables with rows left out.

    python -m benchmarks.published_tables [TABLE ...]

For each table and each way of leaving rows out: the median error of the step time, ours and each
baseline's, and the share of rows inside our 80% interval. After all tables, a line for each pair of
torchtitan's runs on fewer and on more GPUs. tests/data has the tables, with their sources.
"""

import csv
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

from benchmarks import ROOT, command_line, run
from study.cluster_config import ClusterConfig
from study.command_line import whole
from study.estimate.calibration import parts_left_out
from study.estimate.intervals import PredictionInterval
from study.estimate.observed import Observed
from study.estimate.performance import Performance
from study.estimate.terms import position
from study.workload import Workload
from trainer.flops import mean_context
from trainer.problems import ConfigError
from trainer.settings import suggest

DATA = ROOT / "tests" / "data"

H100 = ClusterConfig(
    gpu_name="H100", peak_tflops=989.5, memory_tb_s=3.35, link_gb_s=450, network_gb_s=50,
    gpus_per_node=8,
)  # fmt: skip
"""From NVIDIA's data sheet; the network is one 400 Gb/s adapter per GPU."""

MPT_VOCABULARY = 50_368

DRAWS = 20
"""Random draws of kept rows."""

Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """A published table: its cluster and its rows."""

    name: str
    cluster: ClusterConfig
    rows: Sequence[Observed]


def read_csv(name: str) -> list[Row]:
    """Return the rows of a published table; lines of comments begin with #."""
    with (DATA / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def read_rows(name: str) -> Table:
    """Return a table with a data sheet in its columns."""
    rows = read_csv(name)
    first = rows[0]
    cluster = ClusterConfig(
        gpu_name=name,
        peak_tflops=float(first["peak"]),
        memory_tb_s=float(first["mem_tb"]),
        link_gb_s=float(first["link"]),
        network_gb_s=float(first["net"]),
        gpus_per_node=int(first["gpn"]),
    )
    return Table(name, cluster, [_observe(row) for row in rows])


def _observe(row: Row) -> Observed:
    work = Workload(
        params=int(row["params"]),
        matmul_params=int(row["matmul_params"]),
        n_layers=int(row["n_layers"]),
        dim=int(row["dim"]),
        attention_dim=int(row["attention_dim"]),
        vocab_size=int(row["vocab"]),
        seq_len=int(row["seq"]),
        batch_size=int(row["mbs"]),
        grad_acc_steps=int(row["accum"]),
        gpus=int(row["gpus"]),
        gpus_per_node=int(row["gpn"]),
        shard=int(row["shard"]),
        recompute="full" if row["recompute"] == "full" else "none",
    )
    return Observed(work, float(row["step_s"]), None, None)


def read_mpt() -> list[Observed]:
    """Return the bf16 runs of MPT on H100; the data sheet's peak is not that of the fp8 ones."""
    rows = read_csv("mpt_h100")
    return [_observe_mpt(row) for row in rows if row["precision"] == "amp_bf16"]


def _observe_mpt(row: Row) -> Observed:
    n = {key: int(row[key]) for key in ("params", "dim", "n_layers", "seq_len", "gpus")}
    batch, passes = int(row["micro_batch_size"]), int(row["grad_acc_steps"])
    work = Workload(
        params=n["params"],
        # MPT's output matrix is its embedding; its positions are learned and looked up.
        matmul_params=n["params"] - n["seq_len"] * n["dim"],
        n_layers=n["n_layers"],
        dim=n["dim"],
        attention_dim=n["dim"],
        vocab_size=MPT_VOCABULARY,
        seq_len=n["seq_len"],
        batch_size=batch,
        grad_acc_steps=passes,
        gpus=n["gpus"],
        gpus_per_node=8,
        shard=n["gpus"],
        recompute="full" if row["activation_checkpointing"] == "True" else "none",
    )
    step_s = batch * passes * n["seq_len"] / float(row["tokens_per_s_per_gpu"])
    return Observed(work, step_s, None, None)


def read_tables() -> dict[str, Table]:
    """Return all tables by name."""
    names = ("leonardo_a100", "frontier_mi250x", "mpt_a100_40gb")
    tables = [*map(read_rows, names), Table("mpt_h100", H100, read_mpt())]
    return {table.name: table for table in tables}


def splits(rows: Sequence[Observed]) -> dict[str, list[set[int]]]:
    """Return name -> the sets of rows that are left out and predicted together."""
    everything = set(range(len(rows)))
    works = [row.work for row in rows]
    one, size, largest = parts_left_out(rows).values()
    most = max(work.gpus for work in works)
    drawn = random.Random(0)
    third = [set(drawn.sample(sorted(everything), len(rows) // 3)) for _ in range(5)]
    kept = {
        count: [everything - set(drawn.sample(sorted(everything), count)) for _ in range(DRAWS)]
        for count in (2, 3)
    }
    by_size = sorted(everything, key=lambda i: (works[i].params, works[i].gpus, works[i].tokens))
    return {
        "one out": one,
        "a size out": size,
        "largest GPU count out": largest or [{i for i in everything if works[i].gpus == most}],
        "random third out": third,
        "keep 2": kept[2],
        "keep 3": kept[3],
        "three smallest kept": [everything - set(by_size[:3])],
    }


Baseline = Callable[[Workload, Sequence[Observed], ClusterConfig], float]
"""From a row, the kept rows and the cluster to an MFU."""


def _flops(work: Workload) -> float:
    """Return the FLOPs of a step of one GPU that its MFU counts: 6N + 12*L*S*d per token."""
    context = mean_context(work.seq_len, work.sliding_window)
    each = 6 * work.params + 24 * work.n_layers * work.attention_dim * context
    return each * work.tokens * work.grad_acc_steps / work.tensor_parallel


def _mfu(row: Observed, cluster: ClusterConfig) -> float:
    assert cluster.peak_tflops is not None
    return _flops(row.work) / row.step_s / (cluster.peak_tflops * 1e12)


def _constant(work: Workload, kept: Sequence[Observed], cluster: ClusterConfig) -> float:
    return 0.4


def _median(work: Workload, kept: Sequence[Observed], cluster: ClusterConfig) -> float:
    return median(_mfu(row, cluster) for row in kept)


def _nearest(work: Workload, kept: Sequence[Observed], cluster: ClusterConfig) -> float:
    here = position(work)
    return _mfu(min(kept, key=lambda row: math.dist(here, position(row.work))), cluster)


def _interpolated(
    work: Workload, kept: Sequence[Observed], cluster: ClusterConfig, over: Sequence[str]
) -> float:
    """Interpolate over the logarithm of the first of some attributes that has like rows.

    Among rows that differ in nothing else; beyond the last, its MFU.
    """
    for attribute in over:
        values: dict[float, list[float]] = {}
        for row in kept:
            if _alike(row.work, work, attribute):
                at = math.log(getattr(row.work, attribute))
                values.setdefault(at, []).append(_mfu(row, cluster))
        if values:
            at = sorted(values)
            here = math.log(getattr(work, attribute))
            return float(np.interp(here, at, [median(values[x]) for x in at]))
    return _nearest(work, kept, cluster)


def _alike(one: Workload, other: Workload, attribute: str) -> bool:
    """Return whether two rows have equal sharding, sequences, batches, and size or GPUs."""
    names = {"gpus", "shape", "seq_len"} - {attribute, "shape" if attribute == "params" else ""}
    batch = attribute == "params" or one.batch_size == other.batch_size
    sharded = one.shard == other.shard or (one.shard == one.gpus and other.shard == other.gpus)
    return batch and sharded and all(getattr(one, name) == getattr(other, name) for name in names)


def _linear(work: Workload, kept: Sequence[Observed], cluster: ClusterConfig) -> float:
    """Take the largest kept GPU count of the same size: no loss by scaling; else the nearest."""
    alike = [row for row in kept if row.work.shape == work.shape]
    alike = [row for row in alike if row.work.tokens == work.tokens] or alike
    if not alike:
        return _nearest(work, kept, cluster)
    return _mfu(max(alike, key=lambda row: row.work.gpus), cluster)


BASELINES: dict[str, Baseline] = {
    "40% MFU": _constant,
    "median": _median,
    "nearest": _nearest,
    "GPUs": partial(_interpolated, over=("gpus", "params")),
    "sizes": partial(_interpolated, over=("params", "gpus")),
    "linear": _linear,
}


@dataclass(frozen=True)
class Score:
    """How well one split of one table is predicted."""

    split: str
    rows: int
    ours: float
    """Median error."""
    covered: float
    """Share of the published step times inside the 80% interval."""
    baselines: dict[str, float]
    """Baseline -> median error."""


def scores(table: Table, most: int | None = None, only: str = "") -> Iterator[Score]:
    """Yield the score of each split, or of at most `most` evenly spaced parts of each."""
    for name, parts in splits(table.rows).items():
        if only and only not in name:
            continue
        step = 1 if most is None else max(1, len(parts) // most)
        ours, inside = [], []
        others: dict[str, list[float]] = {name: [] for name in BASELINES}
        for part in parts[::step]:
            kept = [row for index, row in enumerate(table.rows) if index not in part]
            model = Performance(table.cluster, kept)
            for index in sorted(part):
                row = table.rows[index]
                predicted = model.step(row.work)
                ours.append(abs(predicted.middle / row.step_s - 1))
                inside.append(predicted.low <= row.step_s <= predicted.high)
                mfu = _mfu(row, table.cluster)
                for baseline, predict in BASELINES.items():
                    error = abs(mfu / predict(row.work, kept, table.cluster) - 1)
                    others[baseline].append(error)
        errors = {baseline: median(values) for baseline, values in others.items()}
        yield Score(name, len(ours), median(ours), sum(inside) / len(inside), errors)


def torchtitan_pairs() -> list[tuple[str, float, PredictionInterval]]:
    """Return name, published step time and predicted interval of Llama 3.1 8B on more GPUs.

    Each is predicted from one row on fewer GPUs; some predictions are for 16 times as many GPUs,
    over a network that the row on fewer does not use.
    """
    series: dict[tuple[str, str], list[Row]] = {}
    for row in read_csv("torchtitan"):
        if row["model"] == "Llama3.1-8B" and row["seq_len"] == "8192" and row["local_bs"] == "2":
            series.setdefault((row["gpu"].split("-")[0], row["technique"]), []).append(row)
    pairs = []
    for (gpu, technique), found in series.items():
        if len(found) > 1:
            fewer, more = sorted(found, key=lambda row: int(row["gpus"]))[:2]
            observed = [observe_llama(row) for row in (fewer, more)]
            step = Performance(H100, observed[:1]).step(observed[1].work)
            name = f"{gpu} {technique}, {fewer['gpus']} to {more['gpus']} GPUs"
            pairs.append((name, observed[1].step_s, step))
    return pairs


def observe_llama(row: Row) -> Observed:
    """Return a row of Llama 3.1 8B as a measured configuration."""
    work = Workload(
        params=8_030_261_248,
        matmul_params=8_030_261_248 - 128_256 * 4096,
        n_layers=32,
        dim=4096,
        attention_dim=4096,
        vocab_size=128_256,
        seq_len=8192,
        batch_size=2,
        grad_acc_steps=1,
        gpus=int(row["gpus"]),
        gpus_per_node=8,
        shard=int(row["gpus"]),
        recompute="selective",
        compiled="compile" in row["technique"],
    )
    return Observed(work, 2 * 8192 / float(row["tps_per_gpu"]), None, None)


def main() -> None:
    """Print a line for each table and split, and one for each pair of torchtitan's."""
    parser = command_line(__doc__)
    tables = read_tables()
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(tables)}")
    parser.add_argument("--parts", type=whole, help="at most so many parts of each split")
    options = parser.parse_args()
    for name in options.tables:
        if name not in tables:
            raise ConfigError("command line", [f"TABLE: '{name}'; {suggest(name, [*tables])}"])
    print(f"{'table':16}{'left out':24}{'rows':>5}{'ours':>8}{'in 80%':>8}", end="")
    print(*(f"{name:>9}" for name in BASELINES))
    for name in options.tables or tables:
        for score in scores(tables[name], options.parts):
            print(f"{name:16}{score.split:24}{score.rows:5}{score.ours:8.1%}", end="")
            print(f"{score.covered:8.0%}", *(f"{x:9.1%}" for x in score.baselines.values()))
    if options.tables:
        return
    print(f"\n{'torchtitan, Llama 3.1 8B':46}{'published':>10}{'predicted':>11}  80% interval (s)")
    for name, published, step in torchtitan_pairs():
        interval = f"{step.low:.2f} to {step.high:.2f}"
        print(f"{name:46}{published:10.2f}{step.middle:11.2f}  {interval}")


if __name__ == "__main__":
    run(main)
