"""What is compiled beforehand is what runs compile."""

import subprocess
import sys
from pathlib import Path

from tests.trainer.conftest import Runs
from trainer.commands.precompile import main


def test_runs_find_all_compiled_code(runs: Runs) -> None:
    """A folder of compiled code that a run has written nothing to had all of it."""
    cache = runs.folder / "compiled"
    setting = f"distributed.compile_cache={cache}"
    command = [
        sys.executable,
        "-m",
        "trainer.commands.precompile",
        f"config={runs.config}",
        setting,
    ]
    done = subprocess.run(command, env=runs.environment(), capture_output=True, text=True)
    assert "compiled in" in done.stdout, done.stderr
    made = files_below(cache)
    assert any(path.suffix == ".so" for path in made)
    assert not runs.out().exists()
    for processes in (1, 2):
        arguments = ("steps=2", "eval=null", "distributed.compile=true", setting)
        runs.run(f"dump_dir={runs.out(str(processes))}", *arguments, processes=processes)
        assert files_below(cache) == made


def test_sharded_weights_are_rejected(runs: Runs, capsys) -> None:
    assert main([f"config={runs.config}", "distributed.fsdp_type=full_shard"]) == 1
    assert "precompile: 1 problem" in capsys.readouterr().err


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}
