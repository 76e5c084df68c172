"""The workflow away from its own folder: by path, with a working directory, and as a module."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.checkout import PROJECT, ROOT
from tests.workflow.workspace import snakemake_in

TINY = PROJECT / ".test" / "config" / "config.yaml"

MODULE = """
configfile: "TINY"


module scaling:
    snakefile:
        "ROOT/Snakefile"
    config:
        {**config, "results_dir": "out"}


use rule * from scaling as scaling_*


onstart:
    print("the hook of the other repository")


rule paper:
    input:
        "out/tiny/report.html",
    output:
        "paper.html",
    shell:
        "cp {input} {output}"
""".replace("TINY", str(TINY)).replace("ROOT", str(ROOT))


def jobs(output: str) -> dict[str, int]:
    """Return rule -> number of jobs in the output of a dry run."""
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)}


def test_a_study_runs_as_a_module_of_another_repository(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(MODULE)
    profile = ("--workflow-profile", f"{ROOT}/profiles/default")
    done = snakemake_in(tmp_path, "--cores", "1", *profile, "paper")
    assert done.returncode == 0, done.stdout
    assert "the hook of the other repository" in done.stdout
    assert "Verified" in (tmp_path / "out/tiny/time_estimates.csv").read_text()
    assert "</html>" in (tmp_path / "paper.html").read_text()
    assert not (ROOT / "out").exists()
    again = snakemake_in(tmp_path, "--cores", "1", *profile, "paper")
    assert "Nothing to be done" in again.stdout
    # Snakemake's own report has the tables and figures, with their captions and categories.
    made = snakemake_in(tmp_path, "--report", "snakemake.html", "scaling_all")
    assert made.returncode == 0, made.stdout
    page = (tmp_path / "snakemake.html").read_text()
    for text in (
        *("Loss against tokens", "Loss against FLOPs", "Time by part", "Time estimates"),
        *("Estimate against measurement", "Dotted: linear scaling"),
    ):
        assert text in page, text


def test_a_module_with_a_prefix_is_refused(tmp_path: Path) -> None:
    text = MODULE.replace("    config:\n", '    prefix:\n        "away"\n    config:\n')
    (tmp_path / "Snakefile").write_text(text)
    done = snakemake_in(tmp_path, "-n")
    assert done.returncode == 1
    assert "module scaling: 1 problem" in done.stdout
    assert "the folder is `results_dir`" in done.stdout


def test_a_workflow_has_one_study(tmp_path: Path) -> None:
    second = MODULE.partition("onstart:")[0].partition("module")[2].replace("scaling", "other")
    second = second.replace('"out"', '"out", "study": "second"')
    (tmp_path / "Snakefile").write_text(MODULE + "\n\nmodule" + second)
    done = snakemake_in(tmp_path, "-n")
    assert done.returncode == 1
    assert "a workflow with two studies, tiny and second" in done.stdout


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_another_working_directory(snakefile: str, tmp_path: Path) -> None:
    """Without a study of its own, a folder has the default one, with its models and clusters."""
    done = snakemake_in(tmp_path, "--snakefile", f"{ROOT}/{snakefile}", "-n")
    assert done.returncode == 0, done.stdout
    assert jobs(done.stdout)["train"] == 8
    assert "results/demo/report.html" in done.stdout
    assert "profiles/default for setting default command line arguments" in done.stdout


def test_the_folders_own_study_is_the_default(tmp_path: Path) -> None:
    """As that of `.test`, which the workflow catalog expects: snakemake --directory .test"""
    (tmp_path / "config").mkdir()
    shutil.copy(TINY, tmp_path / "config")
    done = snakemake_in(ROOT, "--directory", str(tmp_path), "-n")
    assert done.returncode == 0, done.stdout
    assert jobs(done.stdout)["train"] == 1
    assert "results/tiny/report.html" in done.stdout
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "__init__.py").touch()
    refused = snakemake_in(ROOT, "--directory", str(tmp_path), "-n")
    assert refused.returncode == 1
    assert "trainer/__init__.py: 1 problem" in refused.stdout


def test_evidence_that_the_project_comes_with_is_found_from_elsewhere(tmp_path: Path) -> None:
    study = PROJECT / "config" / "studies" / "lingua.yaml"
    command = [sys.executable, "-m", "study", "estimate", "--study", str(study)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run([*command, "--output", "t.csv"], cwd=tmp_path, env=environment, check=True)
    assert "Verified" in (tmp_path / "t.csv").read_text()
