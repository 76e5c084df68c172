"""The batch script of a job, run by a shell."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from study.cluster_config import ClusterConfig
from study.jobs.job_script import ENDED, OUT_OF_SIGHT, read_note, write_script
from study.jobs.launch import launch_line


def test_the_script_notes_its_exit_code_and_checks_what_it_sees(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    (logs / ENDED).mkdir(parents=True)
    (tmp_path / "Snakefile").touch()

    def run(command: str, **more: Any) -> str:
        places = {"workdir": tmp_path, "project": tmp_path, "logs": logs}
        text = write_script("title", command, **places, latency_s=1, **more)
        (tmp_path / "script").write_text(text)
        environment = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "3", "PATH": os.environ["PATH"]}
        done = subprocess.run(
            ["bash", str(tmp_path / "script")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.stdout

    assert run("false | true; echo not here") == ""
    assert read_note(logs, "7") == 1
    said = run("echo $THREADS ${SLURM_NTASKS-unset}; pwd; ls out", environment={"THREADS": "4"},
               folders=["out/in"], outputs=["out/old"])  # fmt: skip
    assert said == f"4 unset\n{tmp_path}\nin\n"
    assert read_note(logs, "7") == 0
    assert run("true", inputs=["nowhere"]) == "missing input: nowhere\n"
    assert read_note(logs, "7") == OUT_OF_SIGHT
    (tmp_path / "Snakefile").unlink()
    assert run("true").endswith(f" does not see {tmp_path}/Snakefile\n")


def test_an_end_is_noted_also_in_a_folder_whose_name_needs_quotes(tmp_path: Path) -> None:
    folder = tmp_path / "it's a study"
    folder.mkdir()
    (folder / "Snakefile").touch()
    text = write_script("title", "exit 3", workdir=folder, project=folder, logs=folder / "logs")
    environment = {"SLURM_JOB_ID": "7", "PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")
    assert read_note(folder / "logs", "7") == 3


def test_a_note_names_the_slurm_cluster_of_a_job_that_was_sent_to_one(tmp_path: Path) -> None:
    """Two clusters give out the same ids."""
    (tmp_path / "Snakefile").touch()
    places = {"workdir": tmp_path, "project": tmp_path, "logs": tmp_path / "logs"}
    for cluster, command in {None: "true", "alpha": "exit 3", "beta": "exit 4"}.items():
        text = write_script("title", command, cluster=cluster, **places)
        environment = {"SLURM_JOB_ID": "7", "PATH": os.environ["PATH"]}
        environment |= {"SLURM_CLUSTER_NAME": cluster or "alpha"}
        subprocess.run(["bash", "-c", text], env=environment)
    found = {path.name: int(path.read_text()) for path in (tmp_path / "logs" / ENDED).iterdir()}
    assert found == {"7": 0, "7@alpha": 3, "7@beta": 4}


def test_the_folder_of_notes_is_made_again_after_a_purge(tmp_path: Path) -> None:
    """If the study's folder is there; otherwise the node does not see its file system."""
    (tmp_path / "Snakefile").touch()
    logs = tmp_path / "study" / "slurm_logs"
    text = write_script("title", "true", workdir=tmp_path, project=tmp_path, logs=logs)

    def run() -> subprocess.CompletedProcess[str]:
        environment = {"SLURM_JOB_ID": "7", "PATH": os.environ["PATH"]}
        return subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True)

    assert run().stderr.endswith(f" does not see {logs.parent}\n")
    assert not logs.exists()
    logs.parent.mkdir()
    assert run().returncode == 0
    assert read_note(logs, "7") == 0


def test_a_step_inherits_no_options_and_a_site_keeps_its_variables(tmp_path: Path) -> None:
    """What srun(1) of Slurm 22.05 lists as its input, and the variables of two ranks' places."""
    (tmp_path / "Snakefile").touch()
    dropped = (
        *("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NNODES", "SLURM_JOB_NUM_NODES", "SLURM_GRES"),
        *("SLURM_CPUS_PER_TASK", "SLURM_CPUS_PER_GPU", "SLURM_CPU_BIND", "SLURM_MEM_PER_NODE"),
        *("SLURM_GPUS", "SLURM_GPUS_PER_NODE", "SLURM_NTASKS_PER_NODE", "SLURM_NTASKS_PER_GPU"),
        *("SLURM_TASKS_PER_NODE", "SLURM_JOB_NODELIST", "SLURM_NODELIST", "SLURM_STEP_ID"),
        *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_HINT", "SLURM_DISTRIBUTION"),
        *("SLURM_EXPORT_ENV", "SLURM_THREADS_PER_CORE", "SLURM_EXACT", "SLURM_OVERLAP"),
        *("SLURM_TIMELIMIT", "SLURM_QOS", "SLURM_PARTITION", "SLURM_ACCOUNT", "SLURM_CONSTRAINT"),
        *("SLURM_TRES_PER_TASK", "SLURM_STDOUTMODE", "SLURM_HOSTFILE", "SLURM_KILL_BAD_EXIT"),
        *("SRUN_CPUS_PER_TASK", "SBATCH_QOS"),
    )
    kept = (
        *("SLURM_CONF", "SLURM_JOB_ID", "SLURM_TMPDIR", "SLURM_LOCAL_SCRATCH", "SLURM_SUBMIT_DIR"),
        *("SLURM_JOB_USER", "SLURM_JOB_PARTITION", "SLURM_RESTART_COUNT"),
        "SLURM_STEPMGR",  # from 24.05 on, the node that srun asks for a step, if sites enable it
    )
    text = write_script("title", "env", workdir=tmp_path, project=tmp_path, logs=tmp_path / "logs")
    environment = dict.fromkeys((*dropped, *kept), "7") | {"PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True)
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert names & set(dropped) == set()
    assert set(kept) <= names


def test_setup_may_use_variables_that_are_not_set(tmp_path: Path) -> None:
    """As Debian's /etc/bash.bashrc does with PS1; and scratch those of the site."""
    (tmp_path / "Snakefile").touch()
    (tmp_path / "bashrc").write_text('[ -z "$PS1" ] && return\n')
    cluster = ClusterConfig.model_validate(
        {
            "gpu_name": "A100",
            "gpus_per_node": 1,
            "setup": [f"source {shlex.quote(str(tmp_path))}/bashrc"],
            "scratch": "$SLURM_TMPDIR",
            "slurm": {"partition": "p", "gpu_request": "gres"},
        }
    )
    command = launch_line(cluster, 1).partition("; srun")[0] + '; echo "$TMPDIR"'
    text = write_script("title", command, workdir=tmp_path, project=tmp_path, logs=tmp_path / "l")
    environment = {"SLURM_JOB_ID": "7", "SLURM_TMPDIR": f"{tmp_path}/local"}
    done = subprocess.run(
        ["bash", "-c", text],
        env=environment | {"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == (f"{tmp_path}/local/tmp\n", "")
