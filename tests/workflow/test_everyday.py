"""The commands of the documents, run as they stand there after a small study named demo."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.documents import COMMANDS
from tests.waiting import PATIENCE_S
from tests.workflow.checkout import PROJECT, ROOT

ELSEWHERE = {
    r"^(make|git|source|conda|pip|cd|export|\.ci/run)\b": "what CI and the reader's shell do",
    r"^(sacct|squeue|scancel|lm_eval|torchrun)\b": "not ours",
    r"--executor slurm|slurm-trial": "tests/slurm",
    r"studies/(h200|switches)|h200-rows": "needs a GPU",
    r"benchmarks\.|tests\.fuzz|collect_env|^python -c": "tests/test_benchmarks.py, tests/fuzz",
    r"autotune": "tests/workflow/test_autotune.py",
    r"--logger rich| evaluate$": "needs what is not installed",
    r"--profile|--directory|--snakefile|/scaling-study": "test_elsewhere.py, test_texts.py",
    r"mine\.yaml|foreign_run": "tests/study/trainers",
    r"--source mine": "tests/trainer/tokens",
    r"\b(FILE|STUDY|RUN)\b|study (watch|plan)$": "the reader fills in a name",
    r"--configfile config/studies/lingua\.yaml$": "trains for hours; with -n below",
    r"--lint": "make lint",
    r"partial=true": "test_unfinished_study.py",
}
"""Commands that are not run here -> why, or where they are."""

RUN = sorted({text for _, text in COMMANDS if not any(re.search(p, text) for p in ELSEWHERE)})


pytestmark = [pytest.mark.long, pytest.mark.xdist_group("everyday")]  # minutes; one process


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the demo, made smaller, is finished."""
    folder = tmp_path_factory.mktemp("everyday")
    project = folder / "project"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".snakemake"))
    study = yaml.safe_load((PROJECT / ".test/config/config.yaml").read_text())
    (project / "config/config.yaml").write_text(yaml.safe_dump({**study, "study": "demo"}))
    run(project, "snakemake --cores all")
    shutil.copytree(project / "results/demo", folder / "old/results/demo")
    settings = yaml.safe_load((next((project / "results/demo").rglob("run.yaml"))).read_text())
    (project / "run.yaml").write_text(yaml.safe_dump({**settings, "dump_dir": "elsewhere"}))
    markers = "<!-- time table demo: begin -->\n<!-- time table demo: end -->\n"
    (project / "GUIDE.md").write_text(f"# Guide\n\n{markers}")
    return project


def run(project: Path, command: str) -> str:
    """Run a line of a document in a shell; return what it printed."""
    bin_folder = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=project,
        env={**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


@pytest.mark.parametrize("command", RUN)
def test_it_runs(command: str, project: Path) -> None:
    # A study that nobody trains would be watched forever.
    run(project, re.sub(r"( watch .*lingua\.yaml)$", r"\1 --once", command))


def test_what_they_leave(project: Path) -> None:
    """After the commands above."""
    assert "Verified" in (project / "GUIDE.md").read_text()
    assert (project / "model/config.json").exists()
    assert (project / "results/by-hand/run.json").exists()
    assert "Nothing to be done" in run(project, "snakemake --cores all")
    assert len(RUN) > 12
