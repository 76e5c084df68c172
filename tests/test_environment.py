"""pyproject.toml, requirements.lock and environment.yml name the same packages and Pythons."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import python_versions

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = python_versions.read_tested((ROOT / "pyproject.toml").read_text())


def locked(file: str = "requirements.lock") -> dict[str, Version]:
    lines = (ROOT / file).read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def wanted() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [
        Requirement(line) for line in (*PROJECT["dependencies"], *(e for x in extras for e in x))
    ]


def test_the_lock_holds_what_the_project_asks_for() -> None:
    lock = locked() | locked("requirements-trainers.lock")
    for requirement in wanted():
        version = lock.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not locked; run `make lock`"
        assert version in requirement.specifier, f"{requirement} is locked at {version}"


def test_torch_is_pinned_by_its_public_version() -> None:
    """2.13.0 takes a small build where the index has one; `+cpu` would be found nowhere else."""
    assert str(locked()["torch"]) == "2.13.0"


def test_conda_users_get_the_same_packages() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert pip == (ROOT / "requirements.lock").read_text().splitlines()
    python = next(d for d in environment["dependencies"] if str(d).startswith("python="))
    assert python in [f"python=3.{minor}" for minor in PYTHONS]


def test_each_file_names_the_same_pythons() -> None:
    oldest, newest = PYTHONS[0], PYTHONS[-1]
    assert list(range(oldest, newest + 1)) == PYTHONS
    assert PROJECT["requires-python"] == f">=3.{oldest}"
    readme = (ROOT / "README.md").read_text()
    assert re.findall(r"Python (3\.\d+) to (3\.\d+)", readme) == [(f"3.{oldest}", f"3.{newest}")]


def test_a_version_is_refused_or_told_or_passes() -> None:
    assert [python_versions.check(minor, [11, 12]) for minor in (11, 12)] == ["", ""]
    said = "Python 3.13 has not been tested; 3.11 to 3.12 have"
    assert python_versions.check(13, [11, 12]) == said
    with pytest.raises(SystemExit, match=r"Python 3\.11 or newer is needed, this is 3\.9"):
        python_versions.check(9, [11, 12])


def write_python(path: Path, answer: str) -> Path:
    """Write an interpreter that answers every program alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)
    return path


def test_the_newest_python_is_one_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyenv puts a command on PATH for each version that it has, and most do not start."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert python_versions.find_newest(11, [11, 12, 13, 14]) == ""
    write_python(tmp_path / "bin" / "python3.14", "exit 127")
    write_python(tmp_path / "bin" / "python3.13", "exit 127")
    installed = write_python(tmp_path / "pyenv/versions/3.13.0/bin/python3.13", "echo 13")
    write_python(tmp_path / "bin" / "python3.12", "echo 12")
    assert python_versions.find_newest(11, [11, 12, 13, 14]) == str(installed)
    assert python_versions.find_newest(11, [11, 12]) == str(tmp_path / "bin" / "python3.12")
    assert python_versions.find_newest(13, [11, 12, 13, 14]) == ""


def test_each_dependency_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    entries = re.findall(r'^  "[\w.-]+[><=].*$', text, re.MULTILINE)
    assert len(entries) == len(wanted())
    for entry in entries:
        assert re.search(r'",\s+# \w', entry), entry
