"""From a cluster and a GPU count to the request for the GPUs and the line that starts the run.

Pure functions of the settings: what `plan` shows is what is asked for.
"""

from typing import Any

from study.config import ClusterConfig, SlurmConfig

WHOLE_MACHINE = 2**16
"""Threads of a rule that nothing may run beside: Snakemake cuts it to the cores it was given."""

MIB_PER_GIB = 1024

OUTSIDE_SLURM = ': "${SLURM_JOB_ID:?this run belongs to a Slurm partition; add --executor slurm}"'
"""Shell line that ends a partition's run with a message where it was started without Slurm: a login
node or a laptop is not what it was meant for."""


def refusal(name: str, cluster: ClusterConfig, gpus: int) -> str | None:
    """Say why a cluster cannot hold a run on `gpus` GPUs, or None where it can."""
    per_node = cluster.gpus_per_node
    nodes = cluster.slurm.max_nodes if cluster.slurm else 1
    if gpus > per_node * nodes:
        held = f"{nodes} x {per_node}" if nodes > 1 else str(per_node)
        return f"{gpus} GPUs are more than cluster '{name}' gives one run ({held})"
    if gpus > per_node and gpus % per_node:
        return f"{gpus} GPUs do not fill nodes of {per_node} on cluster '{name}'"
    return None


def threads(cluster: ClusterConfig, gpus: int) -> int:
    """Return a training job's threads.

    On this machine, all of it: a second run beside a measured one would spoil the measurement.
    Under Slurm, the cores of the run's GPUs on one node.
    """
    if cluster.slurm is None:
        return WHOLE_MACHINE
    return cluster.cpus_per_gpu * min(gpus, cluster.gpus_per_node)


def slurm_resources(cluster: ClusterConfig, gpus: int) -> dict[str, Any]:
    """Return Snakemake's resources for a run; empty for this machine.

    `mem_mb` is MiB, `runtime` minutes, as snakemake-executor-plugin-slurm reads them.
    """
    slurm = cluster.slurm
    if slurm is None:
        return {}
    resources: dict[str, Any] = {
        "slurm_account": slurm.account,
        "slurm_partition": slurm.partition,
        "mem_mb": slurm.mem_gib * MIB_PER_GIB,
        "runtime": slurm.runtime_min,
        "cpus_per_task": threads(cluster, gpus),
    }
    optional = {"qos": slurm.qos, "constraint": slurm.constraint}
    resources |= {key: value for key, value in optional.items() if value is not None}
    return resources | _gpu_resources(slurm, cluster.gpus_per_node, gpus)


def _gpu_resources(slurm: SlurmConfig, gpus_per_node: int, gpus: int) -> dict[str, Any]:
    kind = "" if slurm.gpu_type is None else f"{slurm.gpu_type}:"
    nodes = -(-gpus // gpus_per_node)
    if nodes > 1:
        # With `mpi` the plugin does not wrap the shell in srun, so the shell, in the batch step,
        # can start one launcher on each node.
        extra = f"--gpus-per-node={kind}{gpus_per_node}"
        request: dict[str, Any] = {"mpi": "srun", "nodes": nodes, "tasks": nodes}
    elif slurm.gpu_request == "gres":
        extra, request = "", {"gres": f"gpu:{kind}{gpus}"}
    else:
        # The plugin adds --ntasks=1 where neither gres nor gpu is set.
        extra, request = f"--{slurm.gpu_request}={kind}{gpus}", {}
    flags = " ".join(flag for flag in (extra, slurm.extra) if flag)
    return request | ({"slurm_extra": flags} if flags else {})


def request_line(cluster: ClusterConfig, gpus: int) -> str:
    """Return the Slurm request as a person would type it; empty for this machine."""
    resources = slurm_resources(cluster, gpus)
    if not resources:
        return ""
    hours, minutes = divmod(resources["runtime"], 60)
    flags = [f"-A {resources['slurm_account']}", f"-p {resources['slurm_partition']}"]
    flags += [f"--gres={resources['gres']}"] if "gres" in resources else []
    flags += [f"--nodes={resources['nodes']}"] if "nodes" in resources else []
    flags += [resources["slurm_extra"]] if "slurm_extra" in resources else []
    flags += [] if "gres" in resources else [f"--ntasks={resources.get('tasks', 1)}"]
    flags += [f"--cpus-per-task={resources['cpus_per_task']}"]
    flags += [f"--time={hours:02d}:{minutes:02d}:00", f"--mem={cluster.slurm.mem_gib}G"]  # type: ignore[union-attr]
    return " ".join(flags)


def launch_line(cluster: ClusterConfig, gpus: int) -> str:
    """Return the shell command that starts the trainer, up to its arguments."""
    per_node = min(gpus, cluster.gpus_per_node)
    nodes = -(-gpus // cluster.gpus_per_node)
    # Snakemake exports the job's whole thread count to every rank; each gets its share. torch
    # heeds MKL_NUM_THREADS over OMP_NUM_THREADS.
    share = cluster.cpus_per_gpu
    lines = [] if cluster.slurm is None else [OUTSIDE_SLURM]
    lines += [*cluster.setup, f"export OMP_NUM_THREADS={share} MKL_NUM_THREADS={share}"]
    torchrun = f"torchrun --nproc_per_node={per_node}"
    if nodes == 1:
        return "; ".join([*lines, f"{torchrun} --standalone -m trainer"])
    # The port differs between jobs, so that two jobs of one user on one node do not collide.
    rendezvous = (
        f"--nnodes={nodes} --rdzv_backend=c10d --rdzv_id=$SLURM_JOB_ID "
        "--rdzv_endpoint=$(hostname):$((20000 + SLURM_JOB_ID % 10000))"
    )
    srun = (
        f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 "
        f"--cpus-per-task={threads(cluster, gpus)} --gpus-per-node={per_node} "
        "--cpu-bind=none --kill-on-bad-exit=1"
    )
    return "; ".join([*lines, f"{srun} {torchrun} {rendezvous} -m trainer"])
