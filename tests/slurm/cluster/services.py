"""The daemons on the controller's side: munge, MariaDB, slurmdbd and slurmctld."""

import os
import signal
import socket

from config_files import DATABASE_NAME, DATABASE_PASSWORD, DATABASE_USER
from layout import (
    CLUSTER_NAME,
    CONTROLLER_ADDRESS,
    DATABASE_PORT,
    GPUS_ONLY,
    HIGH_QOS,
    NORMAL_QOS,
    PARTITIONS,
    PREEMPTED_QOS,
    SITE_QOS,
    SLURMDBD_PORT,
    RunDirectory,
)
from processes import ClusterError, Process, run, wait_until

# The ones whose absence is a fault that a test may want.
SLURM_SERVICES = ("slurmctld", "slurmdbd")
# Each needs the ones after it.
ALL_SERVICES = ("slurmctld", "slurmdbd", "mariadbd", "munged")


def service_process(name: str, directory: RunDirectory) -> Process:
    return Process(name=name, pid_file=directory.pids / name, log=directory.logs / f"{name}.out")


def _start_munge(directory: RunDirectory) -> None:
    """Authentication: every Slurm message is signed with a key that only this cluster has."""
    key = directory.munge / "munge.key"
    if not key.exists():
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
    service_process("munged", directory).start(
        [
            *("munged", "--foreground"),
            # munged objects to running as root and to folders below a world-writable one.
            "--force",
            f"--key-file={key}",
            f"--socket={directory.munge_socket}",
            f"--pid-file={directory.munge}/munged.pid",
            f"--seed-file={directory.munge}/seed",
            f"--log-file={directory.logs}/munged.log",
        ]
    )
    wait_until(directory.munge_socket.exists, "munged has made its socket", timeout=10)


def make_database(directory: RunDirectory) -> None:
    """MariaDB's system tables, with a root user who needs no password."""
    run(
        *("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={directory.database}"),
        *("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"),
        # Go on where the machine's own name does not resolve, which is of no concern here.
        "--force",
    )


def _start_database(directory: RunDirectory) -> None:
    """A MariaDB of the cluster's own. Durable writes would only cost time, so it makes none."""
    service_process("mariadbd", directory).start(
        [
            *("mariadbd", "--no-defaults", "--user=root"),
            f"--datadir={directory.database}",
            f"--socket={directory.database_socket}",
            f"--pid-file={directory.pids}/mariadbd.own-pid",
            f"--log-error={directory.logs}/mariadbd.log",
            *("--bind-address=127.0.0.1", f"--port={DATABASE_PORT}", "--skip-name-resolve"),
            *("--skip-log-bin", "--performance-schema=OFF"),
            *("--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync"),
            # slurmdbd asks for long waits, since an archive run may lock its tables.
            "--innodb-lock-wait-timeout=900",
        ]
    )
    wait_until(lambda: _database_answers(directory), "MariaDB answers", timeout=30)


def _database_answers(directory: RunDirectory) -> bool:
    try:
        _query(directory, "SELECT 1")
    except ClusterError:
        return False
    return True


def _query(directory: RunDirectory, statement: str) -> None:
    client = ("mariadb", "--no-defaults", "--user=root", f"--socket={directory.database_socket}")
    run(*client, "--execute", statement)


def grant_database(directory: RunDirectory) -> None:
    """The database and the user that slurmdbd.conf names."""
    user = f"{DATABASE_USER}@'127.0.0.1'"
    _query(
        directory,
        f"CREATE DATABASE {DATABASE_NAME}; "
        f"CREATE USER {user} IDENTIFIED BY '{DATABASE_PASSWORD}'; "
        f"GRANT ALL ON {DATABASE_NAME}.* TO {user};",
    )


def _start_slurmdbd(directory: RunDirectory) -> None:
    service_process("slurmdbd", directory).start(["slurmdbd", "-D"])
    wait_until(_slurmdbd_listens, "slurmdbd listens", timeout=30)


def _slurmdbd_listens() -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((CONTROLLER_ADDRESS, SLURMDBD_PORT)) == 0


def add_accounts() -> None:
    """The two accounts, a QOS that preempts, and root as a user of both accounts and QOS levels."""
    names = dict.fromkeys(partition.account for partition in PARTITIONS)
    accounts = ",".join(names)
    qos = ",".join([NORMAL_QOS, HIGH_QOS, *SITE_QOS])
    statements = [
        f"add cluster {CLUSTER_NAME}",
        *(f"add qos {name} {settings}" for name, settings in SITE_QOS.items()),
        f"add qos {HIGH_QOS} priority=1000 preempt={','.join(PREEMPTED_QOS)}",
        *(f"add account {name}" for name in names),
        f"add user root account={accounts} qos={qos} defaultqos={NORMAL_QOS}",
    ]
    for statement in statements:
        run("sacctmgr", "--immediate", *statement.split())


def forbid_jobs_without_gpus() -> None:
    """Set what only a running slurmctld makes possible."""
    wait_until(_jobs_without_gpus_are_forbidden, "the QOS asks for a GPU", timeout=20)


def _jobs_without_gpus_are_forbidden() -> bool:
    try:
        run("sacctmgr", "--immediate", "modify", *GPUS_ONLY.split())
        name = GPUS_ONLY.split()[1]
        shown = run("scontrol", "show", "assoc_mgr", f"qos={name}", "flags=qos")
    except ClusterError:
        return False
    return "MinTRESPJ=gres/gpu=1" in shown


def _start_slurmctld(directory: RunDirectory) -> None:
    service_process("slurmctld", directory).start(["slurmctld", "-D"])
    wait_until(_slurmctld_answers, "slurmctld answers", timeout=30)


def _slurmctld_answers() -> bool:
    try:
        run("scontrol", "ping")
    except ClusterError:
        return False
    return True


_START = {
    "munged": _start_munge,
    "mariadbd": _start_database,
    "slurmdbd": _start_slurmdbd,
    "slurmctld": _start_slurmctld,
}


def start_service(name: str, directory: RunDirectory) -> None:
    """Start it unless it runs already, and wait until it answers."""
    _START[name](directory)


def stop_service(name: str, directory: RunDirectory) -> None:
    """An orderly stop: slurmctld saves its state first."""
    service_process(name, directory).stop(signal.SIGTERM)


def kill_service(name: str, directory: RunDirectory) -> None:
    """A crash. Slurmctld saves its state every few seconds; one that is killed just after a job
    started believes that the job still waits, and drains the job's node."""
    service_process(name, directory).stop(signal.SIGKILL)
