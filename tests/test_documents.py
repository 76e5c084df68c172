"""The documents: every command in them works, every link leads somewhere, every message exists."""

import argparse
import ast
import re
import runpy
import shlex
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from study import __main__ as study_commands
from study.load import load_study_file
from study.project import PROJECT
from tests.documents import COMMANDS, DOCUMENTS, fenced
from tests.workflow.checkout import ROOT

SHELL = {"source", "export", "cd", "git", "conda", "pip", "sacct", "squeue", "scancel", "lm_eval"}
"""Commands that are not ours; the shell checks their syntax."""

STUDIES = sorted((PROJECT / "config" / "studies").glob("*.yaml"))


def own(program: str) -> list[tuple[str, list[str]]]:
    found = [(file, shlex.split(text)) for file, text in COMMANDS]
    return [(file, words) for file, words in found if " ".join(words).startswith(program)]


def test_every_command_is_of_a_kind_that_is_checked() -> None:
    kinds = ("snakemake", "make", "python -m ", "python -c ", "torchrun")
    for file, text in COMMANDS:
        known = text.startswith(kinds) or text.split()[0] in SHELL or text == ".ci/run"
        assert known, f"{file}: {text}"
        assert subprocess.run(["bash", "-n", "-c", text], check=False).returncode == 0, text
    assert len(COMMANDS) > 40


def test_every_make_target_exists() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    for file, words in own("make "):
        names = [word for word in words[1:] if "=" not in word]
        assert set(names) <= targets, f"{file}: {words}"


@cache
def rules() -> set[str]:
    files = [PROJECT / "Snakefile", *(PROJECT / "workflow" / "rules").glob("*.smk")]
    return {name for file in files for name in re.findall(r"^rule (\w+):", file.read_text(), re.M)}


def is_ours(study: str | Path) -> bool:
    """Return whether a study file is one of ours; the reader writes any other, and `mine.yaml`."""
    return Path(study).parts[:1] == ("config",) and Path(study).name != "mine.yaml"


SNAKEMAKE = own("snakemake ")


@pytest.mark.parametrize(("file", "words"), SNAKEMAKE, ids=[" ".join(w) for _, w in SNAKEMAKE])
def test_every_snakemake_command_is_understood(
    file: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Snakemake's own parser, with our profile; its rules and study files exist."""
    from snakemake.cli import get_argument_parser, parse_config

    monkeypatch.chdir(PROJECT)
    # A plug-in that need not be installed would be a choice of this option.
    written = " ".join(words[1:]).replace("--logger rich ", "").split()
    args = get_argument_parser().parse_args(written)
    for target in args.targets:
        assert target in rules() or "/" in target, f"{file}: no rule {target}"
    for config in args.configfile or []:
        if is_ours(config):
            assert load_study_file(str(config)).grid, config
    assert parse_config(args.config or {}) is not None


def dry_runs() -> dict[tuple[str, ...], set[str]]:
    """Return study file and settings -> the targets that are asked for with them.

    Without the reader's own study files; the test leaves out `evaluate`, which needs lm_eval.
    """
    from snakemake.cli import get_argument_parser

    found: dict[tuple[str, ...], set[str]] = {}
    for _, words in SNAKEMAKE:
        args = get_argument_parser().parse_args(
            " ".join(words[1:]).replace("--logger rich ", "").split()
        )
        files = [str(path) for path in args.configfile or []]
        if not all(map(is_ours, files)):
            continue
        choice = [*(["--configfile", *files] if files else [])]
        choice += ["--config", *args.config] if args.config else []
        found.setdefault(tuple(choice), set()).update(args.targets or {"all"})
    return found


@pytest.mark.parametrize(
    ("choice", "targets"),
    [
        pytest.param(choice, sorted(targets - {"evaluate"}), id=" ".join(choice) or "default")
        for choice, targets in dry_runs().items()
    ],
)
def test_snakemake_plans_every_command(choice: tuple[str, ...], targets: list[str]) -> None:
    """A dry run of each study and its targets together: a process takes seconds to start."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--dry-run",
        "--quiet",
        "all",
        "--cores",
        "1",
        *targets,
        *choice,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


STUDY_COMMANDS = own("python -m study ")


@pytest.mark.parametrize(
    ("file", "words"), STUDY_COMMANDS, ids=[" ".join(w[2:]) for _, w in STUDY_COMMANDS]
)
def test_every_command_of_the_study_is_understood(file: str, words: list[str]) -> None:
    words = words[3:]
    if len(words) == 1:  # the name of a command, in a sentence
        assert words[0] in study_commands.COMMANDS, f"{file}: {words}"
        return
    options = study_commands.PARSER.parse_args(words)
    study = getattr(options, "study", None)
    if study is not None and is_ours(study):
        assert (PROJECT / study).exists(), f"{file}: {study}"


class ParsedError(Exception):
    """A command line was understood."""


MODULE_COMMANDS = [
    (file, words)
    for file, words in own("python -m ")
    if words[2].startswith(("trainer.", "benchmarks.")) and words[3:] and words[3].startswith("-")
]
"""Those with options; settings (key=value) are parsed by the trainer."""


@pytest.mark.parametrize(
    ("file", "words"), MODULE_COMMANDS, ids=[" ".join(w[2:]) for _, w in MODULE_COMMANDS]
)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_every_command_of_a_module_is_understood(
    file: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the module's own parser; it goes no further."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, arguments: Any = None, *rest: Any) -> None:
        parse(parser, arguments, *rest)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", [words[2], *words[3:]])
    with pytest.raises(ParsedError):
        runpy.run_module(words[2].rstrip(",."), run_name="__main__")


def test_every_module_that_is_named_exists() -> None:
    for file, words in own("python -m "):
        name = words[2].rstrip(",.")
        if name.startswith(("study", "trainer", "benchmarks", "tests")) and name.islower():
            assert find_spec(name) is not None, f"{file}: {name}"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_example_study_is_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    assert load_study_file(str(path)).study
    command = f"config/studies/{path.name}"
    assert any(command in text for text in (path.read_text(), (PROJECT / "README.md").read_text()))


def test_every_block_of_yaml_parses() -> None:
    for file, block in fenced("yaml"):
        assert yaml.safe_load(block) is not None, f"{file}: {block}"


def test_every_link_leads_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
            if not target.startswith(("http", "mailto")):
                assert (path.parent / target).exists(), f"{path}: {target}"


def test_every_anchor_is_a_heading() -> None:
    for path in DOCUMENTS:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]*)\)", path.read_text()):
            if target.startswith("http"):
                continue
            text = ((path.parent / target) if target else path).read_text()
            headings = re.findall(r"^#+ (.*)$", text, re.M)
            plain = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in plain, f"{path}: {target}#{anchor}"


@cache
def messages() -> list[str]:
    """Return the texts in our sources; what is filled in is a NUL."""
    found = []
    for package in ("study", "trainer"):
        for path in (PROJECT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = (p.value if isinstance(p, ast.Constant) else "\0" for p in node.values)
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return [re.sub(r"`([^`]*)`", r"\1", text) for text in found]


MESSAGES = re.findall(r"^\| `([^`]+)` \|", (PROJECT / "docs/troubleshooting.md").read_text(), re.M)


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_in_the_documents_is_in_the_sources(message: str) -> None:
    """Each part between the dots, in one text or in those that it is put together from."""
    parts = [part.strip(" ;:,.") for part in re.split(r"\.\.\.|; expected ", message)]
    for part in filter(None, parts):
        assert any(part in text for text in messages()), part


def test_the_ten_commonest_messages_are_explained() -> None:
    assert len(MESSAGES) >= 10
