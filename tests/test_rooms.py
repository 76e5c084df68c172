"""The doors between the rooms: who may import whom, and what planning may load.

Imports inside functions and for types count like any other.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = {
    "trainer": [["tokens", "model"], ["execution", "folder"], ["loop"], ["commands"]],
    "study": [["measure"], ["estimate"], ["analysis"], ["jobs"], ["show"], ["law"]],
}
"""The wings of each package, above its ground floor. A wing may know itself and all below it."""

STUDY_MAY_IMPORT = {
    f"trainer.{name}"
    for name in (
        *("config", "files", "flops", "layers", "problems", "records", "settings", "yaml_files"),
        *("environment", "git", "json_files", "kinds", "other_names", "parent", "paths"),
        *("execution.choices", "model.optimizers", "tokens.text_files"),
        *("gpu_state", "host", "signals", "startup", "folder.record_file", "folder.run_file"),
    )
}
"""What of the trainer needs no torch, and the study may know."""


MAY_DECODE_JSON = {
    "trainer.json_files",
    "trainer.tokens.documents",  # each line of the text, with its own messages
    "trainer.tokens.pieces",  # what its own processes tell one another
    "study.measure.lingua_log",  # a NaN in a log is named as what was found
    "study.measure.trainer_state",  # the same, and a NaN is a loss that is not finite
    "study.measure.described_logs",  # a NaN is a loss that is not finite, null is no loss
}


def modules(package: str) -> dict[str, Path]:
    """Return name -> file of all modules of a package."""
    paths = sorted((ROOT / package).rglob("*.py"))
    names = (str(path.relative_to(ROOT).with_suffix("")).replace("/", ".") for path in paths)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


MODULES = modules("trainer") | modules("study")


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, anywhere in it: ours by their whole names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= members & MODULES.keys() or {node.module}
    return found


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def reached(name: str) -> Iterator[str]:
    """Yield what a module of ours loads by way of others, not by itself."""
    waiting, seen = [name], {name}
    while waiting:
        for other in IMPORTS.get(waiting.pop(), set()) - seen:
            seen.add(other)
            waiting.append(other)
            yield other


def floor(name: str) -> tuple[int, str]:
    """Return a module's floor, 0 for the ground, and its wing."""
    package, _, rest = name.partition(".")
    wing = rest.partition(".")[0]
    for level, wings in enumerate(FLOORS[package], start=1):
        if wing in wings:
            return level, wing
    return 0, ""


@pytest.mark.parametrize("package", ["trainer", "study"])
def test_no_imports_go_round_in_a_circle(package: str) -> None:
    graph = {name: found for name, found in IMPORTS.items() if name.startswith(package)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("name", [n for n in MODULES if not n.endswith("__main__")])
def test_a_wing_knows_those_below_it(name: str) -> None:
    level, wing = floor(name)
    for other in IMPORTS[name] & MODULES.keys():
        if other.partition(".")[0] == name.partition(".")[0]:
            below, its = floor(other)
            assert below < level or its == wing, f"{name} imports {other}"


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("trainer")])
def test_the_trainer_knows_no_grids_and_no_clusters(name: str) -> None:
    tops = {module.partition(".")[0] for module in IMPORTS[name]}
    assert not tops & {"study", "snakemake"}
    assert "multiprocessing" not in tops, "no start method, no manager process"
    # The docstring of ranks.py names them to say why they are not read.
    code = ast.unparse(ast.parse(MODULES[name].read_text()).body[1:])  # type: ignore[arg-type]
    assert "SLURM" not in code or name == "trainer.launcher", "it refuses srun without torchrun"
    assert "set_start_method" not in code


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("study")])
def test_the_study_knows_little_of_the_trainer(name: str) -> None:
    of_trainer = {module for module in IMPORTS[name] if module.partition(".")[0] == "trainer"}
    assert of_trainer <= STUDY_MAY_IMPORT
    assert "torch" not in {module.partition(".")[0] for module in IMPORTS[name]}


@pytest.mark.parametrize("name", sorted(STUDY_MAY_IMPORT | {"trainer.tokens.shards"}))
def test_what_works_without_torch_reaches_none(name: str) -> None:
    """Token shards too: the jobs that tokenise load no torch."""
    loaded = {module.partition(".")[0] for module in (name, *reached(name)) if module in IMPORTS}
    torch = [m for m in (name, *reached(name)) if m.partition(".")[0] in ("torch", "torchao")]
    assert loaded == {"trainer"}
    assert not torch


@pytest.mark.parametrize("name", MODULES)
def test_the_json_of_files_is_read_in_one_place(name: str) -> None:
    """json.loads alone raises RecursionError for what is nested deeply, and reads NaN."""
    if name not in MAY_DECODE_JSON:
        assert not re.search(r"\bjson\.loads?\b", MODULES[name].read_text()), "use parse_json"


def test_what_tests_share_is_in_no_module_of_tests() -> None:
    """Who changes one file of tests need not read the others."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        found = re.search(r"^\s*(?:from|import) tests\b.*\btest_\w+", path.read_text(), re.M)
        assert not found, f"{path.relative_to(ROOT)}: {found[0]}"


def test_planning_loads_neither_torch_nor_matplotlib_nor_pandas() -> None:
    program = (
        "import sys; from study.jobs.workflow import load_config; load_config([], []); "
        "print([m for m in ('torch', 'matplotlib', 'pandas', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
