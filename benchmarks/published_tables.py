"""Errors of the performance model on a published table, compared with naive baselines.

    python -m benchmarks.published_tables

The table: 70 training runs of MPT models in bf16 on 8 to 512 H100, from the benchmarking README of
mosaicml/llm-foundry. Sharded over all GPUs; the fp8 rows are left out, as the data sheet's peak is
for bf16. Errors are medians of |predicted / published - 1| of the step time.
"""

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from benchmarks import ROOT, command_line
from study.cluster_config import ClusterConfig
from study.estimate.intervals import PredictionInterval
from study.estimate.observed import Observed
from study.estimate.performance import Performance
from study.workload import Workload

TABLE = ROOT / "tests" / "data" / "mpt_h100.csv"
TITAN = ROOT / "tests" / "data" / "torchtitan.csv"

H100 = ClusterConfig(
    gpu_name="H100", peak_tflops=989.5, memory_tb_s=3.35, link_gb_s=450, network_gb_s=50,
    gpus_per_node=8,
)  # fmt: skip
"""From NVIDIA's data sheet; the network is one 400 Gb/s adapter per GPU."""

VOCABULARY = 50_368

Row = dict[str, str]
Predict = Callable[[int, set[int]], float | None]


def read_csv(path: Path) -> list[Row]:
    """Return the rows of a published table; lines of comments begin with #."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def read_table() -> list[Row]:
    """Return the bf16 rows of the MPT table."""
    return [row for row in read_csv(TABLE) if row["precision"] == "amp_bf16"]


def observe(row: Row) -> Observed:
    """Return a row as a measured configuration."""
    n = {key: int(row[key]) for key in ("params", "dim", "n_layers", "seq_len", "gpus")}
    batch, passes = int(row["micro_batch_size"]), int(row["grad_acc_steps"])
    work = Workload(
        params=n["params"],
        # MPT's output matrix is its embedding; its positions are learned and looked up.
        matmul_params=n["params"] - n["seq_len"] * n["dim"],
        n_layers=n["n_layers"],
        dim=n["dim"],
        attention_dim=n["dim"],
        vocab_size=VOCABULARY,
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


class Comparison:
    """The table's rows, and each method's prediction of a row when others are left out."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.observed = [observe(row) for row in rows]
        self.mfu = [float(row["mfu_percent"]) / 100 for row in rows]
        self._models: dict[frozenset[int], Performance] = {}

    def interval(self, index: int, left_out: set[int]) -> PredictionInterval:
        """Return the model's step time of a row, fitted without `left_out`."""
        key = frozenset(left_out)
        if key not in self._models:
            kept = [item for i, item in enumerate(self.observed) if i not in left_out]
            self._models[key] = Performance(H100, kept)
        return self._models[key].step(self.observed[index].work)

    def model(self, index: int, left_out: set[int]) -> float:
        """Return the model's step time."""
        return self.interval(index, left_out).middle

    def constant(self, index: int, left_out: set[int]) -> float:
        """Return the step time at 40% MFU."""
        return self.observed[index].step_s * self.mfu[index] / 0.4

    def neighbours(self, index: int, left_out: set[int]) -> float | None:
        """Return the step time at an MFU interpolated between the next smaller and larger model.

        Both on the same GPU count and sequence length; linear in the logarithm of the parameters;
        at the edges, the nearest model's MFU. None if no other model was run that way.
        """
        row = self.rows[index]
        alike = [
            i
            for i, other in enumerate(self.rows)
            if i not in left_out and all(other[key] == row[key] for key in ("gpus", "seq_len"))
        ]
        size = math.log(float(row["params"]))
        sizes = {i: math.log(float(self.rows[i]["params"])) for i in alike}
        below = max((i for i in alike if sizes[i] <= size), key=sizes.__getitem__, default=None)
        above = min((i for i in alike if sizes[i] > size), key=sizes.__getitem__, default=None)
        if below is None and above is None:
            return None
        if below is None or above is None:
            nearest = above if below is None else below
            assert nearest is not None
            mfu = self.mfu[nearest]
        else:
            share = (size - sizes[below]) / (sizes[above] - sizes[below])
            mfu = self.mfu[below] * (1 - share) + self.mfu[above] * share
        return self.observed[index].step_s * self.mfu[index] / mfu

    def linear(self, index: int, left_out: set[int]) -> float | None:
        """Return the step time at the MFU of the largest remaining GPU count of the series."""
        row = self.rows[index]
        series = [
            i
            for i, other in enumerate(self.rows)
            if i not in left_out and all(other[key] == row[key] for key in ("model", "seq_len"))
        ]
        if not series:
            return None
        last = max(series, key=lambda i: int(self.rows[i]["gpus"]))
        return self.observed[index].step_s * self.mfu[index] / self.mfu[last]


def sizes(rows: Sequence[Row]) -> dict[str, set[int]]:
    """Return model -> indices of its rows, by ascending size."""
    ordered = sorted(rows, key=lambda row: int(row["dim"]) ** 2 * int(row["n_layers"]))
    names = dict.fromkeys(row["model"] for row in ordered)
    return {name: {i for i, row in enumerate(rows) if row["model"] == name} for name in names}


def largest_counts(rows: Sequence[Row]) -> list[set[int]]:
    """Return, for each model and sequence length, the rows on the largest GPU count."""
    series: dict[tuple[str, str], list[int]] = {}
    for i, row in enumerate(rows):
        series.setdefault((row["model"], row["seq_len"]), []).append(i)
    found = []
    for indices in series.values():
        counts = {int(rows[i]["gpus"]) for i in indices}
        if len(counts) > 1:
            found.append({i for i in indices if int(rows[i]["gpus"]) == max(counts)})
    return found


def folds(rows: Sequence[Row]) -> dict[str, list[set[int]]]:
    """Return name -> the sets of rows that are left out and predicted together."""
    by_size = list(sizes(rows).values())
    return {
        "one row": [{i} for i in range(len(rows))],
        "one model size, inside the range": by_size[1:-1],
        "one model size, at its edges": [by_size[0], by_size[-1]],
        "largest GPU count of a series": largest_counts(rows),
        "all runs on 512 GPUs": [{i for i, row in enumerate(rows) if row["gpus"] == "512"}],
    }


def median_error(
    comparison: Comparison, parts: Sequence[set[int]], predict: Predict
) -> float | None:
    """Return the median error over all rows of `parts` that the method can predict."""
    errors = []
    for part in parts:
        for index in sorted(part):
            predicted = predict(index, part)
            if predicted is not None:
                errors.append(abs(predicted / comparison.observed[index].step_s - 1))
    return median(errors) if errors else None


def coverage(comparison: Comparison, parts: Sequence[set[int]]) -> float:
    """Return the share of rows of `parts` inside their 80% interval."""
    inside = [
        interval.low <= comparison.observed[index].step_s <= interval.high
        for part in parts
        for index in part
        for interval in [comparison.interval(index, part)]
    ]
    return sum(inside) / len(inside)


def torchtitan_pairs() -> list[tuple[str, float, PredictionInterval]]:
    """Return name, published step time and predicted interval of Llama 3.1 8B on more GPUs.

    Each is predicted from one row on fewer GPUs; some predictions are for 16 times as many GPUs,
    over a network that the row on fewer does not use.
    """
    series: dict[tuple[str, str], list[Row]] = {}
    for row in read_csv(TITAN):
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
    """Print a line for each way of leaving rows out, and one for each pair of torchtitan's."""
    command_line(__doc__).parse_args()
    comparison = Comparison(read_table())
    print(f"{'left out':36}{'rows':>4}{'model':>8}{'in 80%':>10}  40% MFU  neighb.   linear")
    for name, parts in folds(comparison.rows).items():
        methods = (comparison.constant, comparison.neighbours, comparison.linear)
        own = median_error(comparison, parts, comparison.model)
        errors = [median_error(comparison, parts, method) for method in methods]
        texts = ["" if error is None else f"{error:.1%}" for error in (own, *errors)]
        share = f"{coverage(comparison, parts):.0%}"
        rows = sum(len(part) for part in parts)
        print(f"{name:36}{rows:4}{texts[0]:>8}{share:>10}", *(f"{text:>8}" for text in texts[1:]))
    print(f"\n{'torchtitan, Llama 3.1 8B':46}{'published':>10}{'predicted':>11}  80% interval (s)")
    for name, published, step in torchtitan_pairs():
        interval = f"{step.low:.2f} to {step.high:.2f}"
        print(f"{name:46}{published:10.2f}{step.middle:11.2f}  {interval}")


if __name__ == "__main__":
    main()
