import subprocess

import pytest

from study.config import ClusterConfig, load_study_file
from study.grid import Grid
from study.launch import launch_line, refusal, request_line, slurm_resources, threads

LINGUA = Grid(load_study_file("config/studies/lingua.yaml"))
SPHINX, MISO = LINGUA[0].place, LINGUA[1].place


def test_the_sphinx_request_is_the_guides() -> None:
    assert slurm_resources(SPHINX, 1) == {
        "slurm_account": "nlp",
        "slurm_partition": "sphinx",
        "gres": "gpu:1",
        "mem_mb": 48 * 1024,
        "runtime": 30,
        "cpus_per_task": 8,
    }
    line = request_line(SPHINX, 1)
    assert line == "-A nlp -p sphinx --gres=gpu:1 --cpus-per-task=8 --time=00:30:00 --mem=48G"


def test_the_miso_request_is_the_guides() -> None:
    resources = slurm_resources(MISO, 8)
    assert resources["slurm_extra"] == "--gpus-per-task=8"
    assert resources["mem_mb"] == 204_800
    assert "gres" not in resources
    assert request_line(MISO, 8) == (
        "-A miso -p miso --gpus-per-task=8 --ntasks=1 --cpus-per-task=32 --time=00:30:00 --mem=200G"
    )


@pytest.mark.parametrize(("cluster", "gpus"), [(SPHINX, 1), (MISO, 8)])
def test_one_node_is_launched_as_in_the_guide(cluster: ClusterConfig, gpus: int) -> None:
    line = launch_line(cluster, gpus)
    assert line.endswith(f"torchrun --nproc_per_node={gpus} --standalone -m trainer")


def test_more_gpus_than_a_nodes_are_several_nodes() -> None:
    resources = slurm_resources(MISO, 16)
    assert (resources["nodes"], resources["tasks"], resources["mpi"]) == (2, 2, "srun")
    assert resources["slurm_extra"] == "--gpus-per-node=8"
    line = launch_line(MISO, 16)
    assert "srun --nodes=2 --ntasks=2 --ntasks-per-node=1" in line
    assert "torchrun --nproc_per_node=8 --nnodes=2 --rdzv_backend=c10d" in line


@pytest.mark.parametrize(
    ("cluster", "gpus", "expected"),
    [
        (SPHINX, 9, "9 GPUs are more than cluster 'x' gives one run (8)"),
        (MISO, 24, "24 GPUs are more than cluster 'x' gives one run (2 x 8)"),
        (MISO, 12, "12 GPUs do not fill nodes of 8 on cluster 'x'"),
        (MISO, 16, None),
    ],
)
def test_what_a_cluster_cannot_hold_is_refused(
    cluster: ClusterConfig, gpus: int, expected: str | None
) -> None:
    assert refusal("x", cluster, gpus) == expected


def test_a_run_on_this_machine_takes_all_of_it() -> None:
    here = ClusterConfig(gpu_name="CPU core", gpus_per_node=2)
    assert threads(here, 1) > 1024
    assert slurm_resources(here, 1) == {}
    assert request_line(here, 1) == ""


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
