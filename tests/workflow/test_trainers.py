"""Other trainers through Snakemake itself, from the grid to the report: stand-ins for the programs,
with the descriptions that are shipped."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from study.csv_tables import read_csv
from study.measure.throughput_row import read_rows
from tests.study.trainers.mixed_study import MIXED_STUDY, STANDINS
from tests.workflow.checkout import PROJECT, ROOT
from tests.workflow.workspace import snakemake_in
from trainer.layers import merge
from trainer.yaml_files import dump_yaml, load_yaml

PROGRAM = PROJECT / "tests" / "study" / "trainers" / "standin.py"


def write_study(folder: Path) -> Path:
    """Write a study of all stand-ins. Of the shipped descriptions, workdir and launcher differ."""
    text = folder / "data" / "text"
    text.mkdir(parents=True)
    for part in ("chunk.00", "val"):
        document = json.dumps({"text": f"{part} of a short text"})
        (text / f"text.{part}.jsonl").write_text(f"{document}\n" * 50)
    shutil.copytree(PROJECT / "config" / "trainers", folder / "trainers")
    clones = folder / "clones"
    clones.mkdir()
    here = {"workdir": str(clones), "launcher": shlex.join([sys.executable, str(PROGRAM)])}
    described = load_yaml(PROJECT / "config" / "trainers.yaml")
    trainers = {name: {**described[name], **here} for name in STANDINS}
    (folder / "trainers.yaml").write_text(dump_yaml(trainers))
    changes = {
        "trainers": str(folder / "trainers.yaml"),
        "results_dir": str(folder / "results"),
        "corpora": [],
        "run": {"data": {"root_dir": str(folder / "data"), "sources": {"text": 1.0}}},
        "grid": [{"cluster": "here", "model": "tiny", "gpus": 2, "trainer": list(STANDINS)}],
    }
    study = merge(MIXED_STUDY, changes)
    del study["run"]["data"]["sources"]["python_stdlib"]
    (folder / "study.yaml").write_text(dump_yaml(study))
    return folder / "study.yaml"


def test_stand_ins_run_from_the_grid_to_the_report(tmp_path: Path) -> None:
    """A step of 2048 tokens takes 5 ms on both GPUs together."""
    study = write_study(tmp_path)
    arguments = ("report", "--snakefile", f"{ROOT}/Snakefile", "--configfile", str(study))
    done = snakemake_in(tmp_path, *arguments, "--cores", "2")
    assert done.returncode == 0, done.stdout
    results = tmp_path / "results" / "mixed"
    rows = {row.trainer: row for row in read_rows(results / "throughput.csv")}
    assert tuple(rows) == STANDINS
    for name, row in rows.items():
        assert (row.status, row.steps, row.plain_variant) == ("completed", 40, "base"), name
        assert row.step_ms_p50 == pytest.approx(5, rel=1e-3), name
        assert row.tokens_per_s == pytest.approx(409_600, rel=1e-3), name
    table = read_csv(results / "time_estimates.csv").rows
    assert [(row.cells["trainer"], row.cells["basis"]) for row in table] == [
        (name, "Verified") for name in STANDINS
    ]
    assert "| Trainer " in (results / "throughput.md").read_text()
    assert "| Trainer " in (results / "time_estimates.md").read_text()
    page = (results / "report.html").read_text()
    assert "by 4 trainers (lingua, torchtitan, nanogpt and nanochat)" in page
    # The page escapes the quotes around paths that have spaces.
    launch = r"standin\.py\S* --nproc_per_node=2 --standalone --local-addr=localhost"
    launch += r" -m apps\.main\.train \S*config="
    assert re.search(launch, page)
    again = snakemake_in(tmp_path, *arguments, "-n")
    assert "Nothing to be done" in again.stdout, again.stdout
