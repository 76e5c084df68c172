"""The roofline of a training step: the fastest that one GPU's kernels allow, by kind of work.

    python -m benchmarks.roofline                            # the ladder, on each GPU with rates
    python -m benchmarks.roofline --model 85M --cluster h200 --batch-size 16
    python -m benchmarks.roofline --shape "{dim: 2048, n_layers: 16, n_heads: 32}"
    python -m benchmarks.roofline --measure                  # the rates of this device

The arithmetic is in study/roofline.py, the rates are in the clusters file. --models and --clusters
name other files of models and clusters.
"""

import argparse

from tabulate import tabulate

from benchmarks import ROOT, command_line, run
from study.cluster_config import ClusterConfig, RatesConfig
from study.command_line import whole
from study.roofline import Roofline, step_roofline
from trainer.config import BYTE_VOCABULARY, ModelConfig
from trainer.flops import count_parameters
from trainer.problems import ConfigError
from trainer.settings import SettingsT, suggest, validate
from trainer.yaml_files import load_yaml, parse_yaml

PARTS = ("matmul", "attention", "pointwise", "loss", "optimizer")
HEADINGS = ["Cluster", "GPU", "Model", "Params (M)", "Step (ms)", "Tokens/s"]
NO_RATES = "states no rates; `python -m benchmarks.roofline --measure` there prints them"


def main() -> None:
    """Print the table, or measured rates."""
    options = parse_arguments()
    if options.measure:
        from benchmarks.measure_rates import measure  # imports torch

        print(measure())
    else:
        print(rooflines(options))


def parse_arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    add = parser.add_argument
    add("--measure", action="store_true", help="measure this device, print YAML")
    add("--model", action="append", help="a model of the models file; default: all")
    add("--shape", help="a shape instead, with the keys of a models file: '{dim: 512, ...}'")
    add(
        "--cluster", action="append", help="a cluster of the clusters file; default: all with rates"
    )
    add("--vocab-size", type=whole, default=BYTE_VOCABULARY, help="token ids, default 258")
    add("--batch-size", type=whole, default=8, help="sequences of a micro-batch, default 8")
    add("--seq-len", type=whole, default=2048, help="tokens of a sequence, default 2048")
    add("--passes", type=whole, default=1, help="micro-batches of a step, default 1")
    add("--models", default=str(ROOT / "config/models.yaml"), help="the models file")
    add("--clusters", default=str(ROOT / "config/clusters.yaml"), help="the clusters file")
    return parser.parse_args()


def rooflines(options: argparse.Namespace) -> str:
    """Return the table of the requested shapes and GPUs. Raises ConfigError."""
    if options.shape is not None:
        given = parse_yaml(options.shape, "--shape")
        shapes = {"--shape": validate(ModelConfig, given, "--shape")}
    else:
        shapes = entries(options.models, ModelConfig, options.model)
    places = entries(options.clusters, ClusterConfig, options.cluster)
    rated = {name: cluster for name, cluster in places.items() if cluster.rates is not None}
    without = [name for name in options.cluster or [] if name not in rated]
    if without or not rated:
        names = without or list(places)
        raise ConfigError(options.clusters, [f"{name}: {NO_RATES}" for name in names])
    if options.cluster is None:  # clusters with the same GPU share a roofline
        firsts = {
            (cluster.gpu_name, cluster.rates): name for name, cluster in reversed(rated.items())
        }
        rated = {name: cluster for name, cluster in rated.items() if name in firsts.values()}
    rows = []
    for name, cluster in rated.items():
        for model, shape in shapes.items():
            rows.append([name, cluster.gpu_name, model, *row(shape, cluster.rates, options)])
    batch = f"{options.passes} x " if options.passes > 1 else ""
    head = f"batch {batch}{options.batch_size} x {options.seq_len}, {options.vocab_size} token ids"
    table = tabulate(
        rows, [*HEADINGS, *(f"{part} %" for part in PARTS)], "pipe", disable_numparse=True,
        colalign=["left"] * 3 + ["right"] * (len(PARTS) + 3),
    )  # fmt: skip
    return f"One GPU, {head}\n\n{table}"


def entries(path: str, cls: type[SettingsT], names: list[str] | None) -> dict[str, SettingsT]:
    """Return the named entries of a file, or all. Raises ConfigError."""
    table = load_yaml(path)
    unknown = [name for name in names or [] if name not in table]
    if unknown:
        problems = [f"no entry '{name}'; {suggest(name, list(table))}" for name in unknown]
        raise ConfigError(path, problems)
    chosen = {name: table[name] for name in names or table}
    return {name: validate(cls, value, f"{path}: {name}") for name, value in chosen.items()}


def row(shape: ModelConfig, rates: RatesConfig, options: argparse.Namespace) -> list[str]:
    """Return a shape's parameter count, its roofline, and each part's share of the step."""
    vocab_size = options.vocab_size
    roofline = step_roofline(
        shape, vocab_size, options.batch_size, options.seq_len, rates, options.passes
    )
    params = count_parameters(shape, vocab_size).total
    return [
        f"{params / 1e6:.4g}",
        f"{roofline.step_s * 1e3:.4g}",
        f"{roofline.tokens_per_s:,.0f}",
        *(f"{100 * share(roofline, part):.1f}" for part in PARTS),
    ]


def share(roofline: Roofline, part: str) -> float:
    """Return a part's fraction of the step."""
    return getattr(roofline, f"{part}_s") / roofline.step_s


if __name__ == "__main__":
    run(main)
