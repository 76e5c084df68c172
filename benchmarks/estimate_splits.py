"""Our estimates beside simple baselines, on published tables with rows left out.

    python -m benchmarks.estimate_splits [TABLE ...]

For each table and each way of leaving rows out: the median error of the step time, ours and each
baseline's, and the share of rows inside our 80% interval.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import ROOT, command_line
from benchmarks.published_tables import H100, observe, read_csv, read_table
from study.cluster_config import ClusterConfig
from study.estimate.observed import Observed
from study.estimate.performance import Performance
from study.estimate.terms import position
from study.workload import Workload
from trainer.flops import mean_context

DATA = ROOT / "tests" / "data"

DRAWS = 20
"""Random draws of kept rows."""


@dataclass(frozen=True)
class Table:
    """A published table: its cluster and its rows."""

    name: str
    cluster: ClusterConfig
    rows: Sequence[Observed]


def read_rows(path: Path) -> Table:
    """Return a table with a data sheet in its columns."""
    rows = read_csv(path)
    first = rows[0]
    cluster = ClusterConfig(
        gpu_name=path.stem,
        peak_tflops=float(first["peak"]),
        memory_tb_s=float(first["mem_tb"]),
        link_gb_s=float(first["link"]),
        network_gb_s=float(first["net"]),
        gpus_per_node=int(first["gpn"]),
    )
    return Table(path.stem, cluster, [_observe(row) for row in rows])


def _observe(row: dict[str, str]) -> Observed:
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


def read_tables() -> list[Table]:
    """Return all tables."""
    names = ("leonardo_a100", "frontier_mi250x", "mpt_a100_40gb")
    tables = [read_rows(DATA / f"{name}.csv") for name in names]
    return [*tables, Table("mpt_h100", H100, [observe(row) for row in read_table()])]


def splits(rows: Sequence[Observed]) -> dict[str, list[set[int]]]:
    """Return name -> the sets of rows that are left out and predicted together."""
    everything = set(range(len(rows)))
    works = [row.work for row in rows]
    sizes: dict[tuple[int, int], set[int]] = {}
    for index, work in enumerate(works):
        sizes.setdefault(work.shape, set()).add(index)
    largest = [
        {index for index in part if works[index].gpus == max(works[i].gpus for i in part)}
        for part in sizes.values()
        if len({works[index].gpus for index in part}) > 1
    ]
    most = max(work.gpus for work in works)
    drawn = random.Random(0)
    third = [set(drawn.sample(sorted(everything), len(rows) // 3)) for _ in range(5)]
    kept = {
        count: [everything - set(drawn.sample(sorted(everything), count)) for _ in range(DRAWS)]
        for count in (2, 3)
    }
    by_size = sorted(everything, key=lambda i: (works[i].params, works[i].gpus, works[i].tokens))
    return {
        "one out": [{index} for index in sorted(everything)],
        "a size out": list(sizes.values()),
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


def _interpolated(work: Workload, kept: Sequence[Observed], cluster: ClusterConfig) -> float:
    """Interpolate over the logarithm of the GPU count, or else of the size, between like rows.

    Among rows that differ in nothing else; beyond the last, its MFU.
    """
    for attribute in ("gpus", "params"):
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
    "log-int.": _interpolated,
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


def main() -> None:
    """Print a line for each table and split."""
    parser = command_line(__doc__)
    tables = {table.name: table for table in read_tables()}
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(tables)}")
    parser.add_argument("--parts", type=int, help="at most so many parts of each split")
    options = parser.parse_args()
    print(f"{'table':16}{'left out':24}{'rows':>5}{'ours':>8}{'in 80%':>8}", end="")
    print(*(f"{name:>9}" for name in BASELINES))
    for name in options.tables or tables:
        for score in scores(tables[name], options.parts):
            print(f"{name:16}{score.split:24}{score.rows:5}{score.ours:8.1%}", end="")
            print(f"{score.covered:8.0%}", *(f"{x:9.1%}" for x in score.baselines.values()))


if __name__ == "__main__":
    main()
