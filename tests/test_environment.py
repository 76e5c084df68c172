"""pyproject.toml, requirements.lock and environment.yml name the same packages."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked() -> dict[str, Version]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def wanted() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [
        Requirement(line) for line in (*PROJECT["dependencies"], *(e for x in extras for e in x))
    ]


def test_the_lock_holds_what_the_project_asks_for() -> None:
    lock = locked()
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
    assert pip == ["-r requirements.lock"]
    python = next(d for d in environment["dependencies"] if str(d).startswith("python="))
    assert Version(python.split("=")[1]) in Requirement(f"x{PROJECT['requires-python']}").specifier


def test_each_dependency_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    entries = re.findall(r'^  "[\w.-]+[><=].*$', text, re.MULTILINE)
    assert len(entries) == len(wanted())
    for entry in entries:
        assert re.search(r'",\s+# \w', entry), entry
