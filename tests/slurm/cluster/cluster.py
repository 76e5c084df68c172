"""A real Slurm cluster on one machine, for tests: six nodes, two partitions, accounting, fake GPUs.

    python tests/slurm/cluster/cluster.py up
    python tests/slurm/cluster/cluster.py node kill sphinx1
    python tests/slurm/cluster/cluster.py service stop slurmctld
    python tests/slurm/cluster/cluster.py down

Needs Linux, root and the packages that install.sh installs; nothing of Python's beyond the standard
library. All it writes is below /tmp/slurm-trial, or below TRIAL_CLUSTER_DIR if that is set.
"""

import argparse
import os
import shutil
import stat
import sys
from pathlib import Path

import nodes
import services
from config_files import write_config_files
from layout import NODE_BY_NAME, NODES, RunDirectory
from processes import ClusterError, run, wait_until

INSTALL_SCRIPT = Path(__file__).with_name("install.sh")
NEEDED_PROGRAMS = (
    *("slurmctld", "slurmd", "slurmdbd", "sacctmgr", "munged"),
    *("mariadbd", "mariadb", "mariadb-install-db"),
    *("ip", "nsenter", "unshare"),
)

# "For local or experimental use" in the kernel's list of devices: no driver answers, also on a
# machine that has real GPUs.
FAKE_GPU_MAJOR = 240

SMALL_DISK_MIB = 4


def main() -> int:
    arguments = parse_arguments()
    directory = RunDirectory.from_environment()
    os.environ["SLURM_CONF"] = str(directory.slurm_conf)
    try:
        check_machine()
        return dispatch(arguments, directory)
    except ClusterError as error:
        print(f"cluster.py: {error}", file=sys.stderr)
        return 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start what is not running and wait until all nodes are usable")
    commands.add_parser("down", help="stop everything and delete the run directory")
    commands.add_parser("status", help="show daemons and nodes; exit 1 if any is off")

    node = commands.add_parser("node", help="faults of one node, and a look inside")
    node.add_argument("action", choices=("start", "kill", "stop-slurmd", "start-slurmd", "exec"))
    node.add_argument("name", choices=NODE_BY_NAME)
    node.add_argument("words", nargs=argparse.REMAINDER, help="for exec: the command")

    service = commands.add_parser("service", help="faults of the controller's daemons")
    service.add_argument("action", choices=("start", "stop", "kill"))
    service.add_argument("name", choices=services.SLURM_SERVICES)
    return parser.parse_args()


def dispatch(arguments: argparse.Namespace, directory: RunDirectory) -> int:
    match arguments.command:
        case "up":
            up(directory)
        case "down":
            down(directory)
        case "status":
            return status(directory)
        case "node":
            return act_on_node(arguments, directory)
        case "service":
            act_on_service(arguments, directory)
    return 0


def check_machine() -> None:
    """Say in one line what is missing before anything is half done."""
    if os.geteuid() != 0:
        raise ClusterError("must run as root: it makes network namespaces, mounts and device files")
    missing = [program for program in NEEDED_PROGRAMS if shutil.which(program) is None]
    if missing:
        raise ClusterError(f"not installed: {', '.join(missing)}; run first: bash {INSTALL_SCRIPT}")


def up(directory: RunDirectory) -> None:
    """Start the cluster, or whatever of it is not running, and wait until every node is usable."""
    is_new = not was_built(directory)
    if is_new:
        down(directory)
        build(directory)
    for name in reversed(services.ALL_SERVICES):
        services.start_service(name, directory)
    for node in NODES:
        nodes.start_node(node, directory)
    logs = f"logs in {directory.logs}"
    wait_until(lambda: all_nodes_usable(directory), f"all nodes are usable ({logs})", timeout=60)
    if is_new:
        services.forbid_jobs_without_gpus()
    print(f"export SLURM_CONF={directory.slurm_conf}")
    print(node_listing(), end="")


def was_built(directory: RunDirectory) -> bool:
    """Whether the run directory is complete and its network there, which a reboot removes."""
    return directory.built.exists() and nodes.BRIDGE_FOLDER.exists()


def build(directory: RunDirectory) -> None:
    """Make everything that a running cluster keeps: configuration, network, database, accounts."""
    directory.make()
    write_config_files(directory)
    make_fake_gpus(directory)
    # Mounted before the nodes are made, which see the mounts of that time.
    size = f"size={SMALL_DISK_MIB}M"
    run("mount", "-t", "tmpfs", "-o", size, "tmpfs", directory.small_disk)
    nodes.make_network(directory)
    services.make_database(directory)
    services.start_service("mariadbd", directory)
    services.grant_database(directory)
    services.start_service("munged", directory)
    services.start_service("slurmdbd", directory)
    services.add_accounts()
    directory.built.touch()


def make_fake_gpus(directory: RunDirectory) -> None:
    """Character devices for gres.conf; nodes with fewer GPUs use the first of them."""
    for number in range(max(node.gpu_count for node in NODES)):
        device = os.makedev(FAKE_GPU_MAJOR, number)
        os.mknod(directory.devices / f"nvidia{number}", stat.S_IFCHR | 0o666, device)


def down(directory: RunDirectory) -> None:
    """Stop everything and delete it. Nothing is to survive, so nothing is asked to save itself."""
    nodes.check_bridge_is_ours(directory)
    # First, so that an interrupted `down` is not taken for a cluster that can be started again.
    directory.built.unlink(missing_ok=True)
    for node in NODES:
        nodes.kill_node(node, directory)
    for service in services.ALL_SERVICES:
        services.kill_service(service, directory)
    nodes.remove_network()
    nodes.remove_cgroups()
    if directory.small_disk.is_mount():
        run("umount", "--lazy", directory.small_disk)
    directory.delete()


def status(directory: RunDirectory) -> int:
    """Print the daemons and the nodes; 0 if all run."""
    processes = [services.service_process(name, directory) for name in services.ALL_SERVICES]
    processes += [nodes.node_process(node, directory) for node in NODES]
    for process in processes:
        print(f"{process.name:14} {'running' if process.is_running() else 'off'}")
    if not all(process.is_running() for process in processes):
        return 1
    print(node_listing(), end="")
    return 0


def act_on_node(arguments: argparse.Namespace, directory: RunDirectory) -> int:
    require_built(directory)
    node = NODE_BY_NAME[arguments.name]
    match arguments.action:
        case "start":
            nodes.start_node(node, directory)
        case "kill":
            nodes.kill_node(node, directory)
        case "stop-slurmd":
            nodes.stop_slurmd(node, directory)
        case "start-slurmd":
            nodes.start_slurmd(node, directory)
        case "exec":
            return nodes.execute(node, directory, arguments.words or ["bash"])
    return 0


def act_on_service(arguments: argparse.Namespace, directory: RunDirectory) -> None:
    require_built(directory)
    match arguments.action:
        case "start":
            services.start_service(arguments.name, directory)
        case "stop":
            services.stop_service(arguments.name, directory)
        case "kill":
            services.kill_service(arguments.name, directory)


def require_built(directory: RunDirectory) -> None:
    if not was_built(directory):
        raise ClusterError(f"the cluster is not up; run first: python {Path(__file__)} up")


def all_nodes_usable(directory: RunDirectory) -> bool:
    """Whether every node is idle or works on jobs, and none is down or drained."""
    for node in NODES:
        process = nodes.node_process(node, directory)
        if not process.is_running():
            raise ClusterError(f"{process.name} ended by itself; see {process.log}")
    usable = {"idle", "mixed", "allocated"}
    shown = run("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()
    states = dict(line.split() for line in shown)  # a node in two partitions is listed twice
    return len(states) == len(NODES) and set(states.values()) <= usable


def node_listing() -> str:
    return run("sinfo", "--Node", "--format=%8N %10P %8T %4c %8m %G")


if __name__ == "__main__":
    sys.exit(main())
