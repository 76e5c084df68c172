"""What the trial cluster consists of: nodes, partitions, addresses, ports and paths.

It mirrors the two partitions of the real cluster: A100 nodes in `sphinx` for account `nlp`, H200
nodes in `miso` for account `miso`.
"""

import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from processes import ClusterError

CLUSTER_NAME = "trial"

# The subnet is the bridge's own and the ports are not Slurm's and MySQL's usual ones: a Slurm or
# MariaDB that already runs on the machine is left alone.
SUBNET = "10.231.0"
CONTROLLER_ADDRESS = f"{SUBNET}.1"
BRIDGE = "slurmtrial0"
SLURMCTLD_PORT = 26817
SLURMD_PORT = 26818
SLURMDBD_PORT = 26819
DATABASE_PORT = 33069

# Declared, not real: slurmd is told to believe it (SlurmdParameters=config_overrides).
CPUS_PER_NODE = 64
MEMORY_PER_NODE_MB = 1_000_000

# The QOS of ordinary jobs, and the one that may preempt it.
NORMAL_QOS = "normal"
HIGH_QOS = "high"

# What sites set: a name of sacctmgr -> its settings.
SITE_QOS = {
    "cheap": "PreemptMode=cancel",
    "graceful": "GraceTime=30",
    "few": "MaxSubmitJobsPerUser=2",
    "brief": "MaxWall=00:02:00",
    "gpus-only": "Flags=DenyOnLimit",
}
# Known to the accounting once slurmctld has told it of its GPUs.
GPUS_ONLY = "qos gpus-only set MinTRESPerJob=gres/gpu=1"
PREEMPTED_QOS = (NORMAL_QOS, "cheap", "graceful")

CGROUPS = Path("/sys/fs/cgroup")
# Of cgroup v1: `memory` limits a job's memory, `freezer` finds all of its processes when it ends.
CGROUP_CONTROLLERS = ("memory", "freezer")


@dataclass(frozen=True, kw_only=True)
class Node:
    """One compute node: one slurmd in namespaces of its own."""

    name: str
    partition: str
    host_number: int
    """Last number of the node's address on the bridge."""
    gpu_model: str
    gpu_count: int

    @property
    def address(self) -> str:
        return f"{SUBNET}.{self.host_number}"

    @property
    def network_namespace(self) -> str:
        return f"slurmtrial-{self.name}"

    @property
    def host_interface(self) -> str:
        """The bridge's end of the node's cable; Linux allows at most 15 characters."""
        return f"st-{self.name}"

    @property
    def cgroups(self) -> tuple[Path, ...]:
        """The node's own part of each hierarchy; two nodes would otherwise share `job_N/step_0`."""
        return tuple(CGROUPS / name / self.network_namespace for name in CGROUP_CONTROLLERS)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A partition and the only account that may use it."""

    name: str
    account: str
    max_time: str
    nodes: str = ""
    """Names of its nodes, if they belong to another partition too."""
    more: str = ""
    """More of its line in slurm.conf."""


NODES = (
    Node(name="sphinx1", partition="sphinx", host_number=11, gpu_model="a100", gpu_count=8),
    Node(name="sphinx2", partition="sphinx", host_number=12, gpu_model="a100", gpu_count=8),
    Node(name="sphinx3", partition="sphinx", host_number=13, gpu_model="a100", gpu_count=4),
    Node(
        name="sphinx4",
        partition="sphinx",
        host_number=14,
        gpu_model="nvidia_a100-sxm4-80gb",
        gpu_count=1,
    ),
    Node(name="miso1", partition="miso", host_number=21, gpu_model="h200", gpu_count=8),
    Node(name="miso2", partition="miso", host_number=22, gpu_model="h200", gpu_count=8),
)

NODE_BY_NAME = {node.name: node for node in NODES}

PARTITIONS = (
    Partition(name="sphinx", account="nlp", max_time="21-00:00:00"),
    Partition(name="miso", account="miso", max_time="7-00:00:00"),
    Partition(
        name="gpus-only",
        account="nlp",
        max_time="00:30:00",
        nodes="sphinx3",
        more="AllowQos=normal,few QOS=gpus-only",
    ),
)


@dataclass(frozen=True)
class RunDirectory:
    """Where everything that the cluster writes lives; `down` deletes it as a whole."""

    root: Path

    @classmethod
    def from_environment(cls) -> "RunDirectory":
        """The place named by TRIAL_CLUSTER_DIR, or /tmp/slurm-trial."""
        return cls(Path(os.environ.get("TRIAL_CLUSTER_DIR", "/tmp/slurm-trial")).absolute())

    @property
    def config(self) -> Path:
        """Becomes /etc/slurm inside the nodes."""
        return self.root / "etc"

    @property
    def slurm_conf(self) -> Path:
        return self.config / "slurm.conf"

    @property
    def logs(self) -> Path:
        return self.root / "log"

    @property
    def pids(self) -> Path:
        return self.root / "pid"

    @property
    def state(self) -> Path:
        """Slurmctld's memory of jobs; it survives a restart of slurmctld."""
        return self.root / "state"

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def devices(self) -> Path:
        return self.root / "dev"

    @property
    def small_disk(self) -> Path:
        """A file system of a few MiB, the same on all nodes, for tests to fill."""
        return self.root / "small-disk"

    @property
    def munge(self) -> Path:
        return self.root / "munge"

    @property
    def munge_socket(self) -> Path:
        return self.munge / "munge.sock"

    @property
    def database(self) -> Path:
        return self.root / "mariadb"

    @property
    def database_socket(self) -> Path:
        return self.root / "mariadb.sock"

    @property
    def built(self) -> Path:
        """A mark: configuration, database and accounts were made completely."""
        return self.root / "built"

    def make(self) -> None:
        """Make the empty folders, and a mark that they are ours to delete."""
        if self.root.exists() and any(self.root.iterdir()):
            raise ClusterError(
                f"{self.root} holds files that are not a trial cluster's; "
                "empty it or name another folder in TRIAL_CLUSTER_DIR"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        self._mark.touch()
        for folder in (
            self.config,
            self.logs,
            self.pids,
            self.state,
            self.spool,
            self.devices,
            self.small_disk,
            self.munge,
            self.database,
        ):
            folder.mkdir()

    def delete(self) -> None:
        """Delete everything; a folder that make() did not fill is left alone."""
        if self._mark.exists():
            shutil.rmtree(self.root)

    @property
    def _mark(self) -> Path:
        return self.root / "this-is-a-trial-cluster"


def nodes_of(partition: str) -> tuple[Node, ...]:
    return tuple(node for node in NODES if node.partition == partition)


def controller_hostname() -> str:
    """Slurmctld refuses to start unless SlurmctldHost names the machine that it runs on."""
    return socket.gethostname().split(".")[0]


def has_cgroups() -> bool:
    """Whether this machine lets us use cgroup v1; a container or a host with only v2 does not."""
    return all(
        (CGROUPS / name / "release_agent").exists() and os.access(CGROUPS / name, os.W_OK)
        for name in CGROUP_CONTROLLERS
    )
