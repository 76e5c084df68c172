"""The tables after a failure; tests/workflow runs one."""

import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study.jobs.after_failure import make_tables
from study.jobs.interruption import note_ctrl_c
from study.load import load_study_file
from study.project import SNAKEFILE
from tests.study.conftest import MakeGrid


def job(*output: str) -> Any:
    return SimpleNamespace(output=output, is_group=lambda: False)


def workflow_of(*unfinished: Any) -> Any:
    scheduler = SimpleNamespace(_user_kill=None, _executor_error=None)
    dag = SimpleNamespace(needrun_jobs=lambda: unfinished, finished=lambda job: False)
    return SimpleNamespace(scheduler=scheduler, dag=dag)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    commands: list[list[str]] = []

    def run(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_what_was_asked_for_is_made_by_our_snakefile(
    make_grid: MakeGrid, started: list[list[str]]
) -> None:
    """Whatever the rules and the main Snakefile are called: the study may be a module."""
    grid = make_grid()
    folder = grid.study.folder
    training, table = job(f"{grid[0].folder}/completed"), job(f"{folder}/throughput.csv")
    make_tables(workflow_of(training, table, job("paper.pdf")), grid)
    (command,) = started
    assert command[command.index("--snakefile") + 1] == str(SNAKEFILE)
    assert command[-4:] == ["--config", "partial=true", "--", f"{folder}/throughput.csv"]
    file = command[command.index("--configfile") + 1]
    assert load_study_file(file).to_yaml() == grid.study.to_yaml()


def test_nothing_is_made_if_no_run_failed_or_no_table_was_asked_for(
    make_grid: MakeGrid, started: list[list[str]]
) -> None:
    grid = make_grid()
    table, training = job(f"{grid.study.folder}/report.html"), job(f"{grid[0].folder}/completed")
    make_tables(workflow_of(table), grid)
    make_tables(workflow_of(training), grid)
    stopped = workflow_of(table, training)
    stopped.scheduler._user_kill = "graceful"  # as Snakemake's scheduler has it after SIGTERM
    make_tables(stopped, grid)
    assert not started
    assert not Path(grid.study.folder, "study.yaml").exists()


def test_a_study_that_cannot_be_written_is_told_in_one_line(
    make_grid: MakeGrid, started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside the failure of a run for want of disk space, Snakemake showed a traceback."""
    grid = make_grid()
    folder = Path(grid.study.folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.touch()  # no folder, so nothing can be written there, not even by root
    make_tables(workflow_of(job(f"{grid[0].folder}/completed"), job(f"{folder}/report.html")), grid)
    assert not started
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"They could not be made: {folder}: a file; expected a folder"


def test_ctrl_c_is_noted_and_passed_on(
    make_grid: MakeGrid, started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Snakemake itself notes SIGTERM only; tests/workflow sends a SIGINT to a real one."""
    grid = make_grid()
    stopped = workflow_of(
        job(f"{grid.study.folder}/report.html"), job(f"{grid[0].folder}/completed")
    )
    before = signal.getsignal(signal.SIGINT)
    try:
        note_ctrl_c(stopped.scheduler)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        note_ctrl_c(stopped.scheduler)  # in a background job of a script
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    make_tables(stopped, grid)
    assert not started
    assert capsys.readouterr().err == "Stopped by Ctrl-C. Run the same command again to continue.\n"
