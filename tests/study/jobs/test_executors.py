"""The window of versions in which Snakemake's executors are extended."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from study.jobs import executors
from study.jobs.executors import TESTED, check_versions


def test_another_version_than_tested_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_versions()
    monkeypatch.setattr(executors, "version", lambda package: "9.28.0")
    with pytest.raises(SystemExit, match=r"snakemake 9\.28\.0: .* was tested with 9\.27 only"):
        check_versions()


def test_the_version_window_is_what_was_tested() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    wanted = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    for package, tested in TESTED.items():
        major, minor = map(int, tested.split("."))
        for patch in (0, 99):
            assert Version(f"{tested}.{patch}") in wanted[package]
        for other in (f"{major}.{minor - 1}.99", f"{major}.{minor + 1}.0", f"{major + 1}.0.0"):
            assert Version(other) not in wanted[package]
