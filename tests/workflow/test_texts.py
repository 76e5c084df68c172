"""Texts that Snakemake gives a meaning to, and its profiles."""

from pathlib import Path

import pytest
from snakemake.cli import parse_args

from study.load import load_study_file
from tests.workflow.checkout import ROOT
from tests.workflow.workspace import Workspace

TEXT = "{x} ${HOME} [0-9]{1,2} {{y}} 'q' | %s"


def test_no_text_of_a_study_is_a_pattern(tmp_path: Path) -> None:
    """Braces and dollar signs in names, settings and setup lines arrive unchanged."""
    workspace = Workspace(tmp_path)
    here = workspace.study["clusters"]["here"]
    here |= {"gpu_name": TEXT, "currency": TEXT, "setup": ["export A=${HOME} B='{z}'"]}
    workspace.study["run"]["distributed"]["float8_filter"] = TEXT
    workspace.study["evaluate"] = {"tasks": ["a"]}
    workspace.write()
    folder = workspace.results
    workspace.snakemake("--cores", "1", str(folder / "study.yaml"))
    written = load_study_file(str(folder / "study.yaml"))
    assert written == load_study_file(str(workspace.file))
    plan = workspace.snakemake("-n", "-p")
    assert "export A=${HOME} B='{z}'; export OMP_NUM_THREADS" in plan


def test_our_profile_wins_over_a_users_as_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    mine = ["--profile", str(tmp_path)]
    ours = ["--profile", "profiles/default"]
    apart = ["--workflow-profile", "none"]
    (tmp_path / "profile.yaml").write_text("retries: 7\nshadow-prefix: mine\n")
    assert read(*mine) == (2, "mine", 60)
    assert read(*mine, "--retries", "5") == (5, "mine", 60)
    assert read(*apart, *ours, *mine) == (7, "mine", 60)
    assert read(*apart, *mine) == (7, "mine", 5)
    monkeypatch.setenv("SNAKEMAKE_PROFILE", str(tmp_path))
    assert read() == (2, "mine", 60)


def read(*options: str) -> tuple[int, str, int]:
    _, found = parse_args(["-n", *options])
    return found.retries, str(found.shadow_prefix), found.latency_wait
