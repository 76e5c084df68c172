"""The cluster's configuration files, as functions from the layout to text.

Every setting is explained in the manual page of its file: slurm.conf(5), slurmdbd.conf(5),
gres.conf(5), cgroup.conf(5). The comments here say why the value differs from the default.
"""

from layout import (
    CGROUPS,
    CLUSTER_NAME,
    CONTROLLER_ADDRESS,
    CPUS_PER_NODE,
    DATABASE_PORT,
    MEMORY_PER_NODE_MB,
    NODES,
    PARTITIONS,
    SLURMCTLD_PORT,
    SLURMD_PORT,
    SLURMDBD_PORT,
    Node,
    Partition,
    RunDirectory,
    controller_hostname,
    has_cgroups,
    nodes_of,
)
from processes import run as run_command

DATABASE_NAME = "slurm_acct"
DATABASE_USER = "slurm"
DATABASE_PASSWORD = "slurm"


def write_config_files(run: RunDirectory) -> None:
    """Write all of them where the host (SLURM_CONF) and the nodes (/etc/slurm) read them."""
    texts = {
        "slurm.conf": slurm_conf(run),
        "slurmdbd.conf": slurmdbd_conf(run),
        "gres.conf": gres_conf(run),
        "cgroup.conf": cgroup_conf(),
        "hosts": hosts(),
    }
    for name, text in texts.items():
        (run.config / name).write_text(text)
    # slurmdbd refuses a file with the database password that others may read.
    (run.config / "slurmdbd.conf").chmod(0o600)


def slurm_conf(run: RunDirectory) -> str:
    """The file that every daemon and every command reads."""
    sections = (
        _identity(run),
        _nodes_and_resources(),
        _processes(),
        _speed(),
        _policy(),
        _accounting(run),
        "\n".join(_node_line(node) for node in NODES),
        "\n".join(_partition_line(partition) for partition in PARTITIONS),
    )
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _identity(run: RunDirectory) -> str:
    # Two nodes share one file system: what a slurmd writes carries its node's name (%n).
    # cred_expire is also how long a requeued job waits before it may start again (default 120 s).
    return f"""
ClusterName={CLUSTER_NAME}
SlurmctldHost={controller_hostname()}({CONTROLLER_ADDRESS})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={run.munge_socket},cred_expire=5
SlurmctldPort={SLURMCTLD_PORT}
SlurmdPort={SLURMD_PORT}
SlurmctldPidFile={run.pids}/slurmctld.own-pid
SlurmdPidFile={run.pids}/slurmd-%n.own-pid
SlurmdSpoolDir={run.spool}/%n
StateSaveLocation={run.state}
SlurmctldLogFile={run.logs}/slurmctld.log
SlurmdLogFile={run.logs}/slurmd-%n.log
"""


def _nodes_and_resources() -> str:
    # Without DefMemPerCPU a job that asks for no memory is given all of the node's.
    # No plugin may pin CPUs, since most of the declared ones do not exist.
    return """
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
GresTypes=gpu
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
"""


def _processes() -> str:
    # Without cgroups Slurm samples a job's memory once a second and kills a job that has too much,
    # and it follows a job's processes from parent to child: one whose parent died escapes the end
    # of the job. With cgroups neither a limit nor an end can be escaped, as on a real cluster.
    common = "JobAcctGatherType=jobacct_gather/linux\nJobAcctGatherFrequency=task=1\n"
    if has_cgroups():
        return common + "ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup"
    return (
        common + "ProctrackType=proctrack/linuxproc\n"
        "TaskPlugin=task/none\n"
        "JobAcctGatherParams=OverMemoryKill"
    )


def _speed() -> str:
    # A test cannot wait for the defaults: a dead node is noticed after 10 s instead of 300 s, the
    # scheduler looks at the queue at once, a process that ignores SIGTERM is killed after 5 s.
    # A finished job is forgotten within 70 s, as on clusters whose controllers are short of memory.
    return """
SlurmdTimeout=10
SlurmctldTimeout=30
KillWait=5
TCPTimeout=2
MessageTimeout=10
MinJobAge=10
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=5,bf_interval=2
"""


def _policy() -> str:
    # ReturnToService=2: a node that comes back is used again without an administrator.
    # EnforcePartLimits=ALL: sbatch refuses an account that the partition does not allow; otherwise
    # the job is accepted and pends for ever.
    # preempt_send_user_signal: a job's own --signal is also sent when it is preempted.
    return """
JobRequeue=1
ReturnToService=2
EnforcePartLimits=ALL
PriorityType=priority/multifactor
PreemptType=preempt/qos
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
"""


def _accounting(run: RunDirectory) -> str:
    # AccountingStoragePass is, for munge, the path of its socket; AuthInfo does not cover the
    # connection to slurmdbd, and without it sacct tries munge's usual socket for 20 s.
    return f"""
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={CONTROLLER_ADDRESS}
AccountingStoragePort={SLURMDBD_PORT}
AccountingStoragePass={run.munge_socket}
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
"""


def _node_line(node: Node) -> str:
    return (
        f"NodeName={node.name} NodeAddr={node.address} "
        f"CPUs={CPUS_PER_NODE} Boards=1 SocketsPerBoard=2 CoresPerSocket={CPUS_PER_NODE // 2} "
        f"ThreadsPerCore=1 RealMemory={MEMORY_PER_NODE_MB} "
        f"Gres=gpu:{node.gpu_model}:{node.gpu_count} State=UNKNOWN"
    )


def _partition_line(partition: Partition) -> str:
    names = partition.nodes or ",".join(node.name for node in nodes_of(partition.name))
    is_default = "YES" if partition == PARTITIONS[0] else "NO"
    return (
        f"PartitionName={partition.name} Nodes={names} AllowAccounts={partition.account} "
        f"Default={is_default} DefaultTime=01:00:00 MaxTime={partition.max_time} State=UP "
        f"{partition.more}"
    )


def gres_conf(run: RunDirectory) -> str:
    """Each GPU is a device file: with a mere count the node is invalid, and with a regular file
    CUDA_VISIBLE_DEVICES stays empty."""
    lines = (
        f"NodeName={node.name} Name=gpu Type={node.gpu_model} "
        f"File={run.devices}/nvidia[0-{node.gpu_count - 1}]"
        for node in NODES
    )
    return "\n".join(lines) + "\n"


def cgroup_conf() -> str:
    """Memory is the only thing that cgroups limit here."""
    if not has_cgroups():
        # No plugin asks for cgroups, yet slurmd looks for them and gives up without systemd.
        # "disabled" is known since 23.02; before, the plugin for v1 does nothing unless asked.
        plugin = "disabled" if slurm_version() >= (23, 2) else "cgroup/v1"
        return f"CgroupPlugin={plugin}\n"
    return f"""\
CgroupPlugin=cgroup/v1
CgroupMountpoint={CGROUPS}
ConstrainRAMSpace=yes
ConstrainSwapSpace=no
ConstrainCores=no
ConstrainDevices=no
"""


def slurm_version() -> tuple[int, int]:
    """Year and month of the installed Slurm's version, from `slurm 22.05.8`."""
    year, month, *_ = run_command("slurmd", "-V").split()[-1].split(".")
    return int(year), int(month)


def slurmdbd_conf(run: RunDirectory) -> str:
    """The accounting daemon, in front of the cluster's own MariaDB."""
    return f"""\
AuthType=auth/munge
AuthInfo=socket={run.munge_socket}
DbdHost={controller_hostname()}
DbdAddr={CONTROLLER_ADDRESS}
DbdPort={SLURMDBD_PORT}
SlurmUser=root
LogFile={run.logs}/slurmdbd.log
PidFile={run.pids}/slurmdbd.own-pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={DATABASE_PORT}
StorageUser={DATABASE_USER}
StoragePass={DATABASE_PASSWORD}
StorageLoc={DATABASE_NAME}
"""


def hosts() -> str:
    """The nodes' /etc/hosts. torch finds its network interface by looking up its own host name, so
    that name must lead to the address on the bridge."""
    lines = ["127.0.0.1 localhost", f"{CONTROLLER_ADDRESS} {controller_hostname()}"]
    lines += [f"{node.address} {node.name}" for node in NODES]
    return "\n".join(lines) + "\n"
