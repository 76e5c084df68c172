"""The batch script of a job, run by a shell."""

import os
import subprocess
from pathlib import Path
from typing import Any

from study.jobs.job_script import ENDED, read_note, write_script


def test_the_script_notes_its_exit_code_and_checks_what_it_sees(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    (logs / ENDED).mkdir(parents=True)
    (tmp_path / "Snakefile").touch()

    def run(command: str, **more: Any) -> str:
        places = {"workdir": tmp_path, "project": tmp_path, "logs": logs}
        text = write_script("title", command, **places, latency_s=1, **more)
        (tmp_path / "script").write_text(text)
        environment = f"SLURM_JOB_ID=7 SLURM_NTASKS=3 PATH={os.environ['PATH']}"
        shown = f"env -i {environment} bash {tmp_path}/script 2>&1"
        return subprocess.run(shown, shell=True, capture_output=True, text=True).stdout

    assert run("false | true; echo not here") == ""
    assert read_note(logs, "7") == 1
    said = run("echo $THREADS ${SLURM_NTASKS-unset}; pwd; ls out", environment={"THREADS": "4"},
               folders=["out/in"], outputs=["out/old"])  # fmt: skip
    assert said == f"4 unset\n{tmp_path}\nin\n"
    assert read_note(logs, "7") == 0
    assert run("true", inputs=["nowhere"]) == "missing input: nowhere\n"
    (tmp_path / "Snakefile").unlink()
    assert "does not see" in run("true")
