"""Invocations that share a working directory."""

import os
import signal
from pathlib import Path

from tests.waiting import PATIENCE_S, wait_until
from tests.workflow.workspace import Workspace, start_snakemake


def test_a_running_study_stays_locked_when_another_invocation_ends(tmp_path: Path) -> None:
    """Snakemake deletes the locks of all, and the study could then be started twice."""
    workspace = Workspace(tmp_path)
    workspace.study["run"] |= {"steps": 5000, "checkpoint": {"dump": {"every": 20}}}
    workspace.write()
    with start_snakemake("--cores", "1", "--configfile", str(workspace.file)) as process:
        try:
            began = workspace.run_folder("one") / "metrics.jsonl"
            wait_until(began.exists, "the run has begun")
            workspace.snakemake("--cores", "1", "plan")
            again = workspace.snakemake("--cores", "1", "throughput", check=False)
            assert "Directory cannot be locked" in again
            assert process.poll() is None
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=PATIENCE_S)
    # Its lock ends with it.
    workspace.study["run"] |= {"steps": 2}
    workspace.write()
    assert "Directory cannot be locked" not in workspace.snakemake("--cores", "1", "throughput")
