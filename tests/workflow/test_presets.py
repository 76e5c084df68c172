"""The studies in config/studies, reduced, from training to tables, figures and report."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.__main__ import main
from study.analysis.catalogue import ANALYSES
from study.analysis.series import TABLES
from study.measure.losses import VALIDATION
from tests.workflow.checkout import ROOT
from tests.workflow.workspace import snakemake


def reduce(name: str, folder: Path, block: Mapping[str, Any]) -> Path:
    """Write a preset with tiny models, little text and few cells; return its file.

    `block` are changes of the first block of its grid, the only one that stays.
    """
    study = yaml.safe_load((ROOT / "config" / "studies" / f"{name}.yaml").read_text())
    text = (ROOT / "README.md").read_text()
    for source in study["run"]["data"]["sources"]:
        (folder / "data" / source).mkdir(parents=True)
        for part in ("chunk.00", "val"):
            path = folder / "data" / source / f"{source}.{part}.jsonl"
            path.write_text(json.dumps({"text": text if part == "val" else 4 * text}) + "\n")
    study |= {"results_dir": str(folder / "results"), "corpora": []}
    study["models"] = {
        model: {"dim": 16 * size, "n_layers": size, "n_heads": 1, "multiple_of": 16}
        for size, model in enumerate(("femto", "pico", "nano", "micro", "mini"), start=1)
    }
    study["clusters"] = str(ROOT / study["clusters"])
    data = {"root_dir": str(folder / "data"), "batch_size": 2, "seq_len": 64}
    study["run"] |= {"steps": 6, "logging": {"freq": 1}}
    study["run"]["eval"]["validation"]["max_sequences"] = 4
    study["run"]["data"] |= data
    study["run"]["optim"]["warmup"] = 1
    study["grid"] = [{**study["grid"][0], **block}]
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


@pytest.mark.parametrize(
    ("name", "block", "analysis", "rows"),
    [  # the page of the last is made by Snakemake too, those of the others here, which is quicker
        ("isoflop", {"model": ["femto", "pico", "nano"], "flops": 2e8}, "isoflop", 1),
        ("ladder", {"model": "pico", "tokens": ["0.02N", "0.04N"]}, "tokens_per_parameter", 2),
        (
            "lr_sweep",
            {"model": "nano", "tokens": "0.02N", "sweep": {"optim.lr": [1e-3, 4e-3, 1.6e-2]}},
            "learning_rate",
            1,
        ),
        ("data_ablation", {"variant": ["base", "code_alone"], "seed": 42}, "ablations", 2),
    ],
)
def test_a_preset_runs_to_its_results(
    name: str, block: dict[str, Any], analysis: str, rows: int, tmp_path: Path
) -> None:
    file = reduce(name, tmp_path, block)
    results = tmp_path / "results" / name
    target = str(results / "report.html") if name == "data_ablation" else "analyses"
    done = snakemake("--cores", "2", target, "--configfile", str(file))
    assert done.returncode == 0, done.stdout
    with (results / f"{analysis}.csv").open() as table:
        found = list(csv.DictReader(table))
    assert len(found) == rows
    assert {row["loss_kind"] for row in found} == {VALIDATION}
    notes = (results / f"{analysis}.md").read_text()
    assert "runs have a loss" not in notes and "not comparable" not in notes
    written = {path.name for path in [*results.iterdir(), *(results / "figures").iterdir()]}
    assert written >= {f"{analysis}.md", f"{analysis}.svg", f"{analysis}.png"}
    others = {table for other, tables in TABLES.items() if other != analysis for table in tables}
    assert not written & {f"{table}.csv" for table in others}
    page = read_report(results)
    titles = {other: f"<h2>{item.title}</h2>" in page for other, item in ANALYSES.items()}
    assert titles == {other: other == analysis for other in ANALYSES}
    assert f'alt="{ANALYSES[analysis].title}"' in page


def read_report(results: Path) -> str:
    """Return the report, after making it if Snakemake did not."""
    page = results / "report.html"
    if not page.exists():
        study = ["--study", str(results / "study.yaml")]
        tables = ["--throughput", str(results / "throughput.csv")]
        times = str(results / "time_estimates.csv")
        assert main(["estimate", *study, *tables, "--output", times]) == 0
        figures = ["--figures", str(results / "figures"), "--output", str(page)]
        assert main(["report", *study, *tables, "--estimates", times, *figures]) == 0
    return page.read_text()
