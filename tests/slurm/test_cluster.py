"""The trial cluster behaves as the real one would: requests, refusals, all the ways to lose a job.

Tests of the workflow on Slurm build on what is proven here. The states are those of squeue(1).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster.api import Cluster, CommandError
from tests.slurm.studies import wait_until

pytestmark = pytest.mark.slurm

ALL_NODES = {"sphinx1", "sphinx2", "sphinx3", "sphinx4", "miso1", "miso2"}

# The two requests as the users of the real cluster write them.
SPHINX_REQUEST = ("-A", "nlp", "-p", "sphinx", "--gres=gpu:1", "--time=00:30:00", "--mem=48G")
MISO_REQUEST = (
    *("-A", "miso", "-p", "miso", "--gpus-per-task=8", "--ntasks=1"),
    *("--time=00:30:00", "--mem=200G"),
)

# Small jobs for the tests that are about what happens to a job.
ON_SPHINX = ("-A", "nlp", "-p", "sphinx", "--mem=100M", "--time=5")
ON_MISO = ("-A", "miso", "-p", "miso", "--mem=100M", "--time=5")

# Fills sphinx4, which has one GPU: a second job with this request has to wait or to preempt.
THE_GPU_OF_SPHINX4 = (*ON_SPHINX, "--nodelist=sphinx4", "--gres=gpu:1")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where the jobs of a test print to."""
    return tmp_path / "output.txt"


@pytest.fixture(autouse=True)
def leave_no_jobs(cluster: Cluster) -> Iterator[None]:
    """A test that fails must not leave a job that fills a node for the next test."""
    yield
    cluster.run("scancel", "--user=root")


def finished_output(cluster: Cluster, job_id: int, output: Path) -> str:
    """What a job printed, once it has completed."""
    assert cluster.wait_for_state(job_id) == "COMPLETED"
    return output.read_text()


def test_all_nodes_become_idle(cluster: Cluster):
    """A node that has just registered can be shown as `mixed` though no job is on it."""
    idle = dict.fromkeys(ALL_NODES, "idle")
    wait_until(lambda: cluster.nodes() == idle, f"{cluster.run('squeue')}all nodes are idle", 30)


def test_nodes_are_machines_of_their_own(cluster: Cluster):
    assert cluster.on_node("miso2", "hostname").strip() == "miso2"
    assert cluster.on_node("miso2", "hostname", "-I").split() == ["10.231.0.22"]
    assert "slurmctld" not in cluster.on_node("miso2", "ps", "-e", "-o", "comm")


def test_sphinx_request_gets_one_gpu(cluster: Cluster, output: Path):
    job = cluster.sbatch(
        *SPHINX_REQUEST, f"--output={output}", command="echo $CUDA_VISIBLE_DEVICES"
    )
    assert finished_output(cluster, job, output) == "0\n"
    record = cluster.sacct(job, "Partition", "Account", "TimelimitRaw", "AllocTRES")
    assert record["Partition"] == "sphinx"
    assert record["Account"] == "nlp"
    assert record["TimelimitRaw"] == "30"
    assert {"gres/gpu=1", "mem=48G", "node=1"} <= set(record["AllocTRES"].split(","))


def test_miso_request_gets_eight_gpus(cluster: Cluster, output: Path):
    job = cluster.sbatch(*MISO_REQUEST, f"--output={output}", command="echo $CUDA_VISIBLE_DEVICES")
    assert finished_output(cluster, job, output) == "0,1,2,3,4,5,6,7\n"
    record = cluster.sacct(job, "Partition", "Account", "TimelimitRaw", "AllocTRES")
    assert record["Partition"] == "miso"
    assert record["Account"] == "miso"
    assert record["TimelimitRaw"] == "30"
    assert {"gres/gpu=8", "mem=200G", "node=1"} <= set(record["AllocTRES"].split(","))


@pytest.mark.parametrize(
    ("account", "partition"), [("miso", "sphinx"), ("nlp", "miso"), ("other", "sphinx")]
)
def test_wrong_account_is_refused(cluster: Cluster, account: str, partition: str):
    with pytest.raises(CommandError, match="Invalid account or account/partition combination"):
        cluster.sbatch("-A", account, "-p", partition, command="true")


def test_more_gpus_than_a_node_has_are_refused(cluster: Cluster):
    with pytest.raises(CommandError, match="Requested node configuration is not available"):
        cluster.sbatch(*ON_MISO, "--nodes=1", "--gpus-per-node=9", command="true")


def test_srun_runs_on_two_nodes_with_their_own_addresses(cluster: Cluster, output: Path):
    job = cluster.sbatch(
        *(*ON_MISO, "--nodes=2", "--ntasks-per-node=1", f"--output={output}"),
        command="srun sh -c 'echo $(hostname) $(hostname -I)'",
    )
    lines = finished_output(cluster, job, output).splitlines()
    assert sorted(lines) == ["miso1 10.231.0.21", "miso2 10.231.0.22"]


def test_nodes_reach_each_other_by_name(cluster: Cluster, output: Path):
    listen = "python3 -m http.server 8000 --bind miso1"
    fetch = "curl --silent --retry 20 --retry-connrefused --retry-delay 1 http://miso1:8000/"
    job = cluster.sbatch(
        *(*ON_MISO, "--nodes=2", "--ntasks-per-node=1", f"--output={output}"),
        command=f"srun --overlap --nodelist=miso1 -N1 -n1 {listen} & "
        f"srun --overlap --nodelist=miso2 -N1 -n1 {fetch}",
    )
    assert "Directory listing" in finished_output(cluster, job, output)


def test_preempted_job_that_must_not_be_requeued_ends(cluster: Cluster):
    normal = cluster.sbatch(*THE_GPU_OF_SPHINX4, "--no-requeue", command="sleep 60")
    cluster.wait_for_state(normal, "RUNNING")
    high = cluster.sbatch(*THE_GPU_OF_SPHINX4, "--qos=high", command="true")
    assert cluster.wait_for_state(high) == "COMPLETED"
    assert cluster.wait_for_state(normal) == "PREEMPTED"


def test_job_outlives_a_restart_of_slurmd(cluster: Cluster):
    job = cluster.sbatch(*ON_SPHINX, "--nodelist=sphinx3", command="sleep 4")
    cluster.wait_for_state(job, "RUNNING")
    cluster.stop_slurmd("sphinx3")
    cluster.start_slurmd("sphinx3")
    assert cluster.wait_for_state(job) == "COMPLETED"


def test_cancelled_job_is_cancelled(cluster: Cluster):
    job = cluster.sbatch(*ON_SPHINX, command="sleep 60")
    cluster.wait_for_state(job, "RUNNING")
    cluster.cancel(job)
    assert cluster.wait_for_state(job) == "CANCELLED"


def test_too_much_memory_kills_the_job(cluster: Cluster):
    """OUT_OF_MEMORY where cgroups limit memory; FAILED where Slurm samples it and kills."""
    command = "python3 -c 'import time; held = bytearray(500 << 20); time.sleep(30)'"
    job = cluster.sbatch(*ON_SPHINX, command=command)
    assert cluster.wait_for_state(job) in ("OUT_OF_MEMORY", "FAILED")


def test_accounting_catches_up_after_an_outage(cluster: Cluster):
    cluster.stop_service("slurmdbd")
    job = cluster.sbatch(*ON_SPHINX, command="true")
    with pytest.raises(CommandError):
        cluster.sacct(job, "State")
    cluster.start_service("slurmdbd")
    assert cluster.wait_for_state(job) == "COMPLETED"
    assert cluster.sacct(job, "Account", "Elapsed")["Account"] == "nlp"
