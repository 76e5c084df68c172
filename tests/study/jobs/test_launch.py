import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study.cluster_config import ClusterConfig
from study.config import EvaluateConfig
from study.estimate.needs import Needs
from study.grid import Grid
from study.jobs.launch import (
    ALONE,
    data_request,
    evaluation_line,
    launch_line,
    one_gpu_line,
    request_line,
    slurm_resources,
    threads,
)
from study.jobs.requests import AutotuneRequest, EvaluationRequest, TrainingRequest
from study.jobs.slurm_request import sbatch_command
from study.jobs.verdict import Shortage
from study.load import load_study_file
from study.trainer_command import start_line
from study.trainers import OURS, TrainerConfig
from trainer.problems import ConfigError
from trainer.settings import validate

LINGUA = Grid(load_study_file("config/studies/lingua.yaml"))
SPHINX, MISO = LINGUA[0].cluster_config, LINGUA[1].cluster_config
LOCAL = SPHINX.model_copy(update={"slurm": None, "setup": (), "scratch": None})

# In every request, but not in the guide's commands: a requeued job appends to its log, and a run is
# signalled a minute before its time limit.
BESIDES = "--open-mode=append --signal=USR1@60"


class Resources(dict[str, Any]):
    """Resources as Snakemake has them: a mapping with attributes."""

    __getattr__ = dict.__getitem__


def with_slurm(cluster: ClusterConfig, **changes: object) -> ClusterConfig:
    values = cluster.model_dump()
    return ClusterConfig.model_validate({**values, "slurm": {**values["slurm"], **changes}})


def test_the_sphinx_request_is_the_guides() -> None:
    assert slurm_resources(SPHINX, 1) == {
        "slurm_account": "nlp",
        "slurm_partition": "sphinx",
        "gres": "gpu:1",
        "mem_mb": 48 * 1024,
        "runtime": 30,
        "cpus_per_task": 8,
        "slurm_extra": BESIDES,
    }
    assert request_line(SPHINX, 1) == (
        f"-A nlp -p sphinx --gres=gpu:1 {BESIDES} --cpus-per-task=8 --time=00:30:00 --mem=48G"
    )


def test_the_request_that_is_shown_has_what_was_predicted() -> None:
    auto = with_slurm(SPHINX, mem_gib="auto", runtime_min="auto", max_mem_gib=64)
    shown = request_line(auto, 1, Needs(mem_gib=100, runtime_min=95))
    assert shown.endswith(" --time=01:35:00 --mem=64G")


def test_the_miso_request_is_the_guides() -> None:
    resources = slurm_resources(MISO, 8)
    assert resources["slurm_extra"] == f"--gpus-per-task=8 {BESIDES}"
    assert resources["mem_mb"] == 204_800
    assert "gres" not in resources
    assert request_line(MISO, 8) == (
        f"-A miso -p miso --gpus-per-task=8 {BESIDES} --ntasks=1 --cpus-per-task=32 "
        "--time=00:30:00 --mem=200G"
    )


@pytest.mark.parametrize(("cluster", "gpus", "cpus"), [(SPHINX, 1, 8), (MISO, 8, 32)])
def test_one_node_is_launched_as_in_the_guide(cluster: ClusterConfig, gpus: int, cpus: int) -> None:
    line = launch_line(cluster, gpus)
    start = f"--nproc_per_node={gpus} --standalone --local-addr=localhost -m trainer"
    assert line.endswith(f" launch python -m trainer.torchrun {start}")
    # Slurm signals the first process of a step.
    assert f"srun --nodes=1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task={cpus} " in line


def test_a_run_on_one_node_starts_where_the_hosts_name_does_not_resolve() -> None:
    line = f"hostname no-such-host.invalid; exec timeout 120 {start_line(OURS, 2)} --help"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--uts", "bash", "-c", line],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.count("usage: ")) == (0, 2), done.stderr


def test_more_gpus_than_a_node_has_take_several_nodes() -> None:
    resources = slurm_resources(MISO, 16)
    assert (resources["nodes"], resources["tasks"]) == (2, 2)
    assert resources["slurm_extra"] == f"--gpus-per-node=8 {BESIDES}"
    line = launch_line(MISO, 16)
    assert "srun --nodes=2 --ntasks=2 --ntasks-per-node=1" in line
    assert "torchrun --nproc_per_node=8 --nnodes=2 --rdzv_backend=c10d" in line


@pytest.mark.parametrize(
    ("cluster", "gpus", "expected"),
    [
        (SPHINX, 9, "found 9 GPUs; a run on cluster 'x' can have at most 8"),
        (MISO, 24, "found 24 GPUs; a run on cluster 'x' can have at most 2 x 8"),
        (MISO, 12, "found 12 GPUs; several nodes of 'x' need a multiple of 8"),
        (MISO, 16, None),
    ],
)
def test_runs_that_are_impossible_on_a_cluster_are_rejected(
    cluster: ClusterConfig, gpus: int, expected: str | None
) -> None:
    assert cluster.why_impossible("x", gpus) == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, [30, 60, 90]), (45, [30, 45, 45]), (20, [30, 30, 30])]
)
def test_after_a_time_out_more_time_is_requested_up_to_the_partitions_limit(
    limit: int | None, expected: list[int]
) -> None:
    limited = with_slurm(SPHINX, max_runtime_min=limit)
    requests = [slurm_resources(limited, 1, Shortage(time=n)) for n in (0, 1, 2)]
    assert [request["runtime"] for request in requests] == expected
    assert {request["mem_mb"] for request in requests} == {48 * 1024}


def test_after_running_out_of_memory_more_is_requested_up_to_a_nodes() -> None:
    limited = with_slurm(SPHINX, max_mem_gib=64)
    requests = [slurm_resources(limited, 1, Shortage(memory=n)) for n in (0, 1)]
    assert [request["mem_mb"] for request in requests] == [48 * 1024, 64 * 1024]
    assert {request["runtime"] for request in requests} == {30}


def test_jobs_without_a_gpu_keep_to_the_clusters_partition() -> None:
    limited = with_slurm(
        SPHINX, max_mem_gib=8, max_runtime_min=60, qos="high", constraint="nvlink",
        reservation="ours", exclude="n1,n2", extra="--comment='a b'",
    )  # fmt: skip
    assert data_request(limited) == {
        "slurm_account": "nlp",
        "slurm_partition": "sphinx",
        "qos": "high",
        "constraint": "nvlink",
        "mem_mb": 8 * 1024,
        "runtime": 60,
        "cpus_per_task": 4,
        "slurm_extra": "--reservation=ours --exclude=n1,n2 --comment='a b' --open-mode=append",
    }


def test_jobs_without_a_gpu_may_have_a_partition_of_their_own() -> None:
    data = {"partition": "cpu", "runtime_min": 20, "mem_gib": 2, "cpus": 1, "qos": "day"}
    own = with_slurm(SPHINX, max_mem_gib=1, qos="high", constraint="nvlink", data=data)
    assert data_request(own) == {
        "slurm_account": "nlp",
        "slurm_partition": "cpu",
        "qos": "day",
        "mem_mb": 2 * 1024,
        "runtime": 20,
        "cpus_per_task": 1,
        "slurm_extra": "--open-mode=append",
    }


def test_a_gpu_type_is_written_as_slurm_shows_it() -> None:
    typed = with_slurm(SPHINX, gpu_type="nvidia_a100-sxm4-80gb")
    assert slurm_resources(typed, 2)["gres"] == "gpu:nvidia_a100-sxm4-80gb:2"


def test_other_styles_of_a_request() -> None:
    typed = with_slurm(
        SPHINX, gpu_type="a100", qos="high", constraint="nvlink", extra="--exclusive"
    )
    assert request_line(typed, 2) == (
        "-A nlp -p sphinx --qos=high --constraint=nvlink --gres=gpu:a100:2 --exclusive "
        f"{BESIDES} --cpus-per-task=16 --time=00:30:00 --mem=48G"
    )
    per_node = with_slurm(MISO, gpu_request="gpus-per-node", account=None, warn_s=0)
    assert request_line(per_node, 4) == (
        "-p miso --gpus-per-node=4 --open-mode=append --ntasks=1 --cpus-per-task=16 "
        "--time=00:30:00 --mem=200G"
    )


def test_a_partition_without_gpus_to_request() -> None:
    """One of CPUs, or of nodes that are allocated whole, as at sites without GRES."""
    plain = with_slurm(MISO, gpu_request="none", account=None, max_nodes=2)
    assert request_line(plain, 4) == (
        f"-p miso {BESIDES} --ntasks=1 --cpus-per-task=16 --time=00:30:00 --mem=200G"
    )
    assert request_line(plain, 16) == (
        f"-p miso --nodes=2 {BESIDES} --ntasks=2 --cpus-per-task=32 --time=00:30:00 --mem=200G"
    )
    for gpus in (4, 16):
        line = launch_line(plain, gpus)
        assert "--gpus" not in line
        assert f"--nproc_per_node={min(gpus, 8)}" in line


def test_a_request_can_be_copied_to_a_shell() -> None:
    line = request_line(with_slurm(SPHINX, constraint="a100&(nvlink|pcie)"), 1)
    assert "--constraint=a100&(nvlink|pcie)" in shlex.split(line)
    subprocess.run(["bash", "-c", f": {line}"], check=True)


LONG = {"-A": "account", "-p": "partition", "-t": "time", "-C": "constraint", "-M": "clusters"}


def flags_of(line: str) -> dict[str, str]:
    """Return name -> value of the flags of a request, in minutes and MiB."""
    words, flags = shlex.split(line), {}
    while words:
        name, sign, value = words.pop(0).partition("=")
        if not sign and words and not words[0].startswith("-"):
            value = words.pop(0)
        flags[LONG.get(name, name.removeprefix("--"))] = value
    if ":" in flags["time"]:
        hours, minutes, _ = map(int, flags["time"].split(":"))
        flags["time"] = str(60 * hours + minutes)
    if flags["mem"].endswith("G"):
        flags["mem"] = str(1024 * int(flags["mem"].removesuffix("G")))
    return flags


@pytest.mark.parametrize(
    ("cluster", "gpus"),
    [
        (with_slurm(SPHINX, gpu_type="a100", qos="high", constraint="nvlink|pcie", warn_s=90), 2),
        (with_slurm(MISO, reservation="mine", exclude="n[1-2]", extra="--exclusive"), 8),
        (with_slurm(MISO, gpu_request="gpus-per-node", account=None, clusters="big"), 16),
        (with_slurm(MISO, gpu_request="none"), 2),
        (with_slurm(MISO, gpu_request="none"), 16),
    ],
)
def test_plan_shows_the_request_that_is_submitted(cluster: ClusterConfig, gpus: int) -> None:
    """As Snakemake's plugin makes it of the resources; it adds flags that are no request."""
    asked = slurm_resources(cluster, gpus)
    job = SimpleNamespace(
        resources=Resources({key: value for key, value in asked.items() if value is not None}),
        threads=1,
        is_group=lambda: False,
        is_grouped=False,
    )
    parameters = {
        "run_uuid": "study/small/2",
        "slurm_logfile": "log",
        "comment_str": "train",
        "partition": f"-p {asked['slurm_partition']}",
        "workdir": "here",
    }
    settings = SimpleNamespace(requeue=True, no_requeue=False, qos=None, reservation=None)
    command = sbatch_command(job, parameters, cluster.slurm, settings)
    submitted, shown = flags_of(shlex.join(command[1:])), flags_of(request_line(cluster, gpus))
    added = {"parsable", "job-name", "output", "export", "comment", "requeue", "-D"}
    assert {name: value for name, value in submitted.items() if name not in added} == shown
    assert cluster.slurm is not None
    apart = cluster.slurm.model_copy(update={"error": "50%/%j.err"})
    errors = f"--error={Path('50%').absolute()}%/%j.err"
    assert sbatch_command(job, parameters, apart, settings) == [*command, errors]


def test_scratch_takes_temporary_files_and_caches(tmp_path: Path) -> None:
    place = SPHINX.model_copy(update={"scratch": f"{tmp_path}/$USER"})
    lines = launch_line(place, 1).partition("; srun")[0]
    done = subprocess.run(
        ["bash", "-c", f'{lines}; echo "$TMPDIR $HF_HOME"'],
        env={"SLURM_JOB_ID": "7", "USER": "ada", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{tmp_path}/ada/tmp {tmp_path}/ada/huggingface\n"
    assert (tmp_path / "ada" / "tmp").is_dir()
    assert "INDUCTOR" not in lines  # runs on all nodes share compiled code


def test_each_node_of_a_run_has_its_own_scratch(tmp_path: Path) -> None:
    """With an srun that starts the command on two nodes, which differ in a variable."""
    commands = {
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; NODE=a "$@"; NODE=b "$@"',
        "python": 'echo "$TMPDIR"; test -d "$TMPDIR"',
    }
    for name, script in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh -e\n{script}\n")
        (tmp_path / name).chmod(0o755)
    cluster = with_slurm(MISO, max_nodes=2).model_copy(
        update={"scratch": f"{tmp_path}/ada's/$NODE", "setup": ()}
    )
    environment = {"SLURM_JOB_ID": "7", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-ec", launch_line(cluster, 16)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{tmp_path}/ada's/{node}/tmp" for node in "ab"]


@pytest.mark.parametrize(
    "setup", [["export A=7  # the site's"], ["export A=6\nexport A=7\n"], ["", "export A=7"]]
)
def test_lines_of_setup_may_have_comments_and_line_breaks(tmp_path: Path, setup: list[str]) -> None:
    """A comment would hide the rest of the command, and the job do nothing, with code 0."""
    place = LOCAL.model_copy(update={"setup": tuple(setup)})
    line = one_gpu_line(place, "env").replace(ALONE, "")
    done = subprocess.run(["bash", "-euc", line], capture_output=True, text=True)
    assert "A=7" in done.stdout.splitlines(), done.stderr
    trainer = OURS.model_copy(update={"setup": tuple(setup), "launcher": "none"})
    line = launch_line(LOCAL, 1, trainer).replace(ALONE, "").partition("-m trainer")[0]
    shown = f"{line} -c 'import os; print(os.environ.get(\"A\"))'"
    done = subprocess.run(["bash", "-euc", shown], capture_output=True, text=True)
    assert done.stdout == "7\n", done.stderr


CONTAINER = """run-in -b "$DATA:/my data" -b ~/x:/x 'torch `1`.sif'"""

IN_CONTAINER = ["run-in", "-b", "/data:/my data", "-b", "/home/ada/x:/x", "torch `1`.sif"]


def echoed(tmp_path: Path, line: str, *commands: str) -> list[str]:
    """Return the words of the first command that a launch starts of those given."""
    for name in commands:
        (tmp_path / name).write_text('#!/bin/bash\nprintf "%s\\n" "${0##*/}" "$@"\n')
        (tmp_path / name).chmod(0o755)
    variables = {"DATA": "/data", "HOME": "/home/ada", "SLURM_JOB_ID": "7"}
    done = subprocess.run(
        ["bash", "-ec", line],
        env={**variables, "PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("gpus", [1, 16])
def test_each_nodes_torchrun_runs_in_the_container(tmp_path: Path, gpus: int) -> None:
    boxed = with_slurm(MISO, max_nodes=2).model_copy(update={"container": CONTAINER, "setup": ()})
    words = echoed(tmp_path, launch_line(boxed, gpus), "srun")
    start = words.index("launch") + 1
    assert words[start - 4 : start - 2] == ["bash", "-c"]
    assert words[start : start + len(IN_CONTAINER)] == IN_CONTAINER
    command = words[start + len(IN_CONTAINER) :]
    assert command[:3] == ["python", "-m", "trainer.torchrun"]
    assert ("--rdzv_id=7" in command) == (gpus > 1)


def test_what_runs_in_the_container_and_what_outside(tmp_path: Path) -> None:
    """On this machine the lock is outside; of another trainer its own `setup` and command are
    inside, and what reads its log is not."""
    here = LOCAL.model_copy(update={"container": CONTAINER})
    words = echoed(tmp_path, launch_line(here, 1), "python")
    assert words[:3] == ["python", "-m", "study.jobs.machine_lock"]
    assert words[3 : 3 + len(IN_CONTAINER)] == IN_CONTAINER
    theirs = TrainerConfig.model_validate(
        {
            **{"script": "train.py", "setup": ["source env"], "version": "git"},
            "log": {"format": "litgpt", "file": "log"},
        }
    )
    words = echoed(tmp_path, launch_line(here, 1, theirs, "cell"), "python")
    inside = words.index("run-in")
    assert words[:inside] == [
        *("python", "-m", "study.jobs.machine_lock"),
        *("python", "-m", "study.jobs.foreign_run", "cell", "--"),
    ]
    assert words[inside:][: len(IN_CONTAINER) + 2] == [*IN_CONTAINER, "bash", "-c"]
    line = evaluation_line(here, EvaluateConfig(tasks=("a",)))
    assert echoed(tmp_path, line.replace(ALONE, ""), "run-in") == [
        *IN_CONTAINER,
        *("lm_eval", "--model", "hf", "--tasks", "a"),
    ]


def test_two_jobs_on_a_node_use_different_ports() -> None:
    line = launch_line(MISO, 16)
    assert "--rdzv_endpoint=$RENDEZVOUS" in line
    (setting,) = (part for part in line.split("; ") if part.startswith("export RENDEZVOUS"))
    ports = set()
    for job in ("4711", "4712"):
        done = subprocess.run(
            ["bash", "-c", f"{setting}; echo $RENDEZVOUS"],
            env={"SLURM_JOB_ID": job, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        ports.add(done.stdout.strip().rpartition(":")[2])
    assert ports == {"24711", "24712"}


def test_a_run_on_this_machine_takes_all_cores() -> None:
    here = ClusterConfig(device="cpu", gpu_name="CPU core", gpus_per_node=2)
    assert threads(here, 1) > 1024
    assert slurm_resources(here, 1) == {}
    assert request_line(here, 1) == ""
    for line in (launch_line(here, 1), one_gpu_line(here, "autotune")):
        assert line.rpartition("; ")[2].startswith("python -m study.jobs.machine_lock ")
    for line in (launch_line(MISO, 8), launch_line(MISO, 16), one_gpu_line(MISO, "autotune")):
        assert "machine_lock" not in line  # Slurm gives each job separate GPUs and cores


def test_a_partitions_run_does_not_start_outside_slurm() -> None:
    line = launch_line(SPHINX, 1).partition("; export")[0]
    outside = subprocess.run(
        ["bash", "-c", f"{line}; echo on"], env={}, capture_output=True, text=True
    )
    assert outside.returncode != 0
    assert "add --executor slurm" in outside.stderr
    assert "on" not in outside.stdout.split()
    inside = subprocess.run(
        ["bash", "-c", f"{line}; echo on"],
        env={"SLURM_JOB_ID": "7"},
        capture_output=True,
        text=True,
    )
    assert inside.stdout == "on\n"


def slurm_extra(request: TrainingRequest, wildcards: SimpleNamespace) -> object:
    """Return the resource of a job: a value, or a function if it varies between jobs."""
    given = request.resources()["slurm_extra"]
    return given(wildcards, 1) if callable(given) else given


def test_what_no_job_requests_is_left_to_default_resources() -> None:
    """Snakemake's --default-resources apply to what a rule does not define, not to None."""
    given = TrainingRequest(LINGUA).resources()
    assert {"slurm_account", "slurm_partition", "gres", "runtime", "slurm_extra"} <= given.keys()
    assert not {"qos", "constraint", "clusters"} & given.keys()


def test_autotune_requests_one_gpu() -> None:
    grid = Grid(load_study_file("config/studies/lingua.yaml"))
    request = AutotuneRequest(grid)
    wildcards = SimpleNamespace(**{key: str(value) for key, value in grid[1].labels.items()})
    assert slurm_extra(request, wildcards) == f"--gpus-per-task=1 {BESIDES}"
    line = request.launch(wildcards)
    assert line.endswith("; python -m trainer.commands.autotune")
    assert "SLURM_JOB_ID:?" in line


def test_an_evaluation_requests_one_gpu_and_names_its_tasks() -> None:
    grid = Grid(load_study_file("config/studies/lingua.yaml"))
    request = EvaluationRequest(grid)
    wildcards = SimpleNamespace(**{key: str(value) for key, value in grid[1].labels.items()})
    assert grid[1].gpus == 8
    assert slurm_extra(request, wildcards) == f"--gpus-per-task=1 {BESIDES}"
    line = evaluation_line(MISO, EvaluateConfig(tasks=("a", "b"), limit=0.5))
    assert line.endswith("; lm_eval --model hf --tasks a,b --limit 0.5")
    all_digits = evaluation_line(MISO, EvaluateConfig(tasks=("a",), limit=1234567))
    assert all_digits.endswith(" --limit 1234567")
    assert "SLURM_JOB_ID:?" in line
    assert request.starts_with_bos(wildcards)


def test_tasks_are_grouped_by_their_number_of_examples(tmp_path: Path) -> None:
    """The line is run by bash, with the arguments that the rule appends."""
    tasks = ["a", {"task": "b", "num_fewshot": 5}, "c", {"task": "d"}]
    tasks += [{"task": "e", "num_fewshot": 0}, {"task": "f", "num_fewshot": 5}]
    evaluate = EvaluateConfig.model_validate({"tasks": tasks, "limit": 10})
    line = evaluation_line(LOCAL, evaluate).replace(ALONE, "")
    program = tmp_path / "lm_eval"
    program.write_text('#!/bin/sh\nprintf "%s|" "$@"\necho\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", f"{line} --output_path 'my folder'"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "--model|hf|--tasks|a,c,d|--limit|10|--output_path|my folder|",
        "--model|hf|--tasks|b,f|--num_fewshot|5|--limit|10|--output_path|my folder|",
        "--model|hf|--tasks|e|--num_fewshot|0|--limit|10|--output_path|my folder|",
    ]
    alone = EvaluateConfig.model_validate({"tasks": [{"task": "b", "num_fewshot": 5}]})
    assert evaluation_line(MISO, alone).endswith("--tasks b --num_fewshot 5")


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({"task": "b", "num_fewshot": -1}, "evaluate.tasks[1].num_fewshot: found -1; "),
        ({"task": "b", "num_fewshots": 1}, "evaluate.tasks[1].num_fewshots: unknown key; did you"),
        ({"num_fewshot": 1}, "evaluate.tasks[1].task: missing; this key is required"),
        ({"task": "b", "dataset_kwargs": {}}, "evaluate.tasks[1].dataset_kwargs: lm_eval knows"),
        ("a b", "evaluate.tasks[1]: found 'a b'; "),
        (7, "evaluate.tasks[1]: found 7; "),
    ],
)
def test_a_wrong_task_is_named(task: object, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(EvaluateConfig, {"tasks": ["a", task]}, "study.yaml")
    (problem,) = caught.value.problems
    assert f"evaluate.{problem}".startswith(told)
