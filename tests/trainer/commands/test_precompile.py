"""What is compiled beforehand is what runs compile."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.conftest import Runs
from trainer.commands.precompile import main


@pytest.mark.parametrize("has_copies", [False, True])
def test_runs_find_all_compiled_code(runs: Runs, has_copies: bool) -> None:
    """A folder of compiled code that a run has written nothing to had all of it.

    With copies of the weights, also that of DDP, which takes gradients elsewhere.
    """
    cache = runs.folder / "compiled"
    settings = [f"config={runs.config}", f"distributed.compile_cache={cache}"]
    settings += ["distributed.model_dtype=bf16"] if has_copies else []
    module = ["tests.trainer.with_copies", "precompile"]
    start = module if has_copies else ["trainer.commands.precompile"]
    command = [sys.executable, "-m", *start, *settings]
    done = subprocess.run(command, env=runs.environment(), capture_output=True, text=True)
    assert "compiled in" in done.stdout, done.stderr
    made = files_below(cache)
    assert any(path.suffix == ".so" for path in made)
    assert not runs.out().exists()
    for processes in (1, 2):
        arguments = ("steps=2", "eval=null", "distributed.compile=true", *settings[1:])
        command = runs.command(
            f"dump_dir={runs.out(str(processes))}", *arguments, processes=processes
        )
        if has_copies:
            command[command.index("trainer")] = "tests.trainer.with_copies"
        subprocess.run(command, env=runs.environment(), check=True)
        assert files_below(cache) == made


def test_sharded_weights_are_rejected(runs: Runs, capsys) -> None:
    assert main([f"config={runs.config}", "distributed.fsdp_type=full_shard"]) == 1
    assert "precompile: 1 problem" in capsys.readouterr().err


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}
