"""The nodes: a bridge, and for each node one slurmd in namespaces of its own.

A namespace gives a node its own network address, host name, processes, /run and /dev/shm, so that
jobs on two nodes really talk over a network and a node can lose its power. Files are shared, as on
a cluster with a network file system.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

from layout import BRIDGE, CONTROLLER_ADDRESS, NODES, Node, RunDirectory, has_cgroups
from processes import ClusterError, Process, run, wait_until

NODE_INIT = Path(__file__).with_name("node_init.sh")
BRIDGE_FOLDER = Path("/sys/class/net") / BRIDGE

# Slurm's default place for slurm.conf; a mount inside a node needs the folder to exist outside.
DEFAULT_CONFIG_FOLDER = Path("/etc/slurm")


def check_bridge_is_ours(directory: RunDirectory) -> None:
    """Refuse to touch the network of a trial cluster that runs from another folder."""
    owner = (BRIDGE_FOLDER / "ifalias").read_text().strip() if BRIDGE_FOLDER.exists() else ""
    if owner not in ("", str(directory.root)) and Path(owner).exists():
        raise ClusterError(
            f"a trial cluster runs from {owner}; stop it first: "
            f"TRIAL_CLUSTER_DIR={owner} python {Path(__file__).with_name('cluster.py')} down"
        )


def make_network(directory: RunDirectory) -> None:
    """A bridge that carries the controller's address, and a cable from it to every node."""
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "link", "set", BRIDGE, "alias", directory.root, "up")
    run("ip", "address", "add", f"{CONTROLLER_ADDRESS}/24", "dev", BRIDGE)
    for node in NODES:
        namespace, cable = node.network_namespace, node.host_interface
        run("ip", "netns", "add", namespace)
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        run("ip", "link", "set", cable, "master", BRIDGE, "up")
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        run("ip", "-n", namespace, "address", "add", f"{node.address}/24", "dev", "eth0")
        run("ip", "-n", namespace, "link", "set", "eth0", "up")


def remove_network() -> None:
    """Remove whatever make_network made, also if it only got halfway."""
    for node in NODES:
        if (BRIDGE_FOLDER.parent / node.host_interface).exists():
            run("ip", "link", "delete", node.host_interface)
        if Path("/run/netns", node.network_namespace).exists():
            run("ip", "netns", "delete", node.network_namespace)
    if BRIDGE_FOLDER.exists():
        run("ip", "link", "delete", BRIDGE)


def remove_cgroups() -> None:
    """Remove the nodes' cgroups. A killed process leaves its group a moment after it is gone."""
    tops = [top for node in NODES for top in node.cgroups]
    for top in tops:
        for group, _, _ in os.walk(top, topdown=False):
            wait_until(lambda group=group: _remove_cgroup(group), f"{group} is empty", timeout=5)


def _remove_cgroup(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except OSError:
        return False
    return True


def node_process(node: Node, directory: RunDirectory) -> Process:
    """The `unshare` that holds the node's namespaces; the node dies with it."""
    return Process(
        name=f"node {node.name}",
        pid_file=directory.pids / f"node-{node.name}",
        log=directory.logs / f"node-{node.name}.out",
    )


def start_node(node: Node, directory: RunDirectory) -> None:
    """Switch a node on; slurmd then reports to the controller by itself."""
    DEFAULT_CONFIG_FOLDER.mkdir(exist_ok=True)
    (directory.spool / node.name).mkdir(exist_ok=True)
    cgroups = node.cgroups if has_cgroups() else ()
    for cgroup in cgroups:
        cgroup.mkdir(exist_ok=True)
    # nsenter enters the network only: `ip netns exec` would also remount /sys and hide the cgroups.
    # It then becomes unshare, which stays: killing that one process takes the whole node along.
    node_process(node, directory).start(
        [
            "nsenter",
            f"--net=/run/netns/{node.network_namespace}",
            "unshare",
            *("--uts", "--ipc", "--mount", "--pid", "--mount-proc", "--propagation=private"),
            *("--fork", "--kill-child=KILL"),
            *("bash", NODE_INIT, node.name, directory.config, *cgroups),
        ]
    )


def kill_node(node: Node, directory: RunDirectory) -> None:
    """Cut the node's power: slurmd, job steps and jobs end at once, and nobody is told."""
    node_process(node, directory).stop(signal.SIGKILL)


def stop_slurmd(node: Node, directory: RunDirectory) -> None:
    """Kill only slurmd; the node's jobs go on."""
    os.kill(init_pid(node, directory), signal.SIGUSR2)


def start_slurmd(node: Node, directory: RunDirectory) -> None:
    os.kill(init_pid(node, directory), signal.SIGUSR1)


def execute(node: Node, directory: RunDirectory, command: list[str]) -> int:
    """Run a command as if logged in on the node; returns its exit status."""
    pid = init_pid(node, directory)
    return subprocess.run(["nsenter", f"--target={pid}", "--all", "--", *command]).returncode


def init_pid(node: Node, directory: RunDirectory, timeout: float = 5) -> int:
    """The host's process id of node_init.sh, which is the only child of the node's `unshare`."""
    pid = node_process(node, directory).pid()
    if pid is None:
        raise ClusterError(f"node {node.name} is off")
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.05)
    raise ClusterError(f"node {node.name} has not started; see {directory.logs}")
