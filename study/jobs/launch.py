"""From a cluster and a GPU count to the resource request and the line that starts the run.

Pure functions of the settings, so that `plan` shows exactly what is requested.
"""

from typing import Any, Literal

from study.config import ClusterConfig, EvaluateConfig, SlurmConfig
from study.estimate.needs import NOT_KNOWN, Needs
from trainer.paths import in_shell

WHOLE_MACHINE = 2**16
"""Threads of a rule that must run alone: Snakemake reduces them to its cores."""

MIB_PER_GIB = 1024

OUTSIDE_SLURM = ': "${SLURM_JOB_ID:?this run belongs to a Slurm partition; add --executor slurm}"'
"""Shell line that ends a partition's run with a message if it was started without Slurm, for
example on a login node or a laptop."""

OUTLIVE_STOP = "trap '' TERM USR1"
"""Shell line that keeps a stop request from ending the shell itself and the `tee` that writes the
log. torchrun and the trainer have handlers of their own."""

TORCHRUN_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""Signals that torchrun forwards to its ranks; by default, SIGUSR1 is not among them."""

ALONE = "python -m study.jobs.machine_lock "
"""Prefix of a command that must run alone on this machine; see that module."""

SAVE_S = 30
"""Seconds that torchrun waits for its ranks after a stop request if the cluster has no `warn_s`."""

CACHES = {
    "TMPDIR": "tmp",
    "HF_HOME": "huggingface",
}
"""Variable for the folder of temporary files or a cache -> folder below `scratch`. Compiled code
has `distributed.compile_cache` instead, which the runs on all nodes share."""


def threads(cluster: ClusterConfig, gpus: int) -> int:
    """Return a training job's threads.

    On this machine, all cores: a concurrent run would distort the measurement. Under Slurm, the
    cores of the run's GPUs on one node.
    """
    if cluster.slurm is None:
        return WHOLE_MACHINE
    return cluster.cpus_per_gpu * min(gpus, cluster.gpus_per_node)


FIRST_RUNTIME_MIN = 60
"""Time limit if there is no estimate and the cluster has no max_runtime_min."""


def slurm_resources(
    cluster: ClusterConfig, gpus: int, attempt: int = 1, needs: Needs = NOT_KNOWN
) -> dict[str, Any]:
    """Return Snakemake's resources for a run's `attempt`, 1, 2, ...; empty for this machine.

    `mem_mb` is in MiB and `runtime` in minutes, as snakemake-executor-plugin-slurm reads them. A
    retry requests more of both, in case the run failed for lack of them. `needs` applies to
    settings that are `auto`.
    """
    slurm = cluster.slurm
    if slurm is None:
        return {}
    mem_gib = _allowed(slurm.mem_gib, needs.mem_gib, slurm.max_mem_gib)
    minutes = needs.runtime_min or slurm.max_runtime_min or FIRST_RUNTIME_MIN
    runtime_min = _allowed(slurm.runtime_min, minutes, slurm.max_runtime_min)
    resources: dict[str, Any] = {
        "slurm_partition": slurm.partition,
        "mem_mb": _grown(mem_gib, slurm.max_mem_gib, attempt) * MIB_PER_GIB,
        "runtime": _grown(runtime_min, slurm.max_runtime_min, attempt),
        "cpus_per_task": threads(cluster, gpus),
    }
    optional = {"slurm_account": slurm.account, "qos": slurm.qos, "constraint": slurm.constraint}
    resources |= {key: value for key, value in optional.items() if value is not None}
    return resources | _gpu_resources(slurm, cluster.gpus_per_node, gpus)


def _allowed(setting: int | Literal["auto"], needed: int, limit: int | None) -> int:
    """Return the setting; if it is auto, the predicted need, up to the limit."""
    if setting != "auto":
        return setting
    return needed if limit is None else min(needed, limit)


def _grown(amount: int, limit: int | None, attempt: int) -> int:
    grown = amount * max(1, attempt)
    return grown if limit is None else min(grown, max(amount, limit))


def _gpu_resources(slurm: SlurmConfig, gpus_per_node: int, gpus: int) -> dict[str, Any]:
    kind = "" if slurm.gpu_type is None else f"{slurm.gpu_type}:"
    nodes = -(-gpus // gpus_per_node)
    if nodes > 1:
        # With `mpi`, the plugin does not wrap the shell in srun, so that the shell can start one
        # launcher on each node from the batch step.
        extra = f"--gpus-per-node={kind}{gpus_per_node}"
        request: dict[str, Any] = {"mpi": "srun", "nodes": nodes, "tasks": nodes}
    elif slurm.gpu_request == "gres":
        extra, request = "", {"gres": f"gpu:{kind}{gpus}"}
    else:
        # The plugin adds --ntasks=1 if neither gres nor gpu is set.
        extra, request = f"--{slurm.gpu_request}={kind}{gpus}", {}
    # A requeued job appends to its log.
    flags = [extra, slurm.extra, "--open-mode=append"]
    flags += [f"--signal=USR1@{slurm.warn_s}"] if slurm.warn_s else []
    return request | {"slurm_extra": " ".join(flag for flag in flags if flag)}


def data_request(cluster: ClusterConfig) -> dict[str, Any]:
    """Return Snakemake's resources for a job that prepares data: a few CPUs and no GPU."""
    slurm = cluster.slurm
    if slurm is None:
        return {}
    request: dict[str, Any] = {"slurm_partition": slurm.partition, "mem_mb": 16 * MIB_PER_GIB}
    request |= {"runtime": 240, "cpus_per_task": 4}
    return request | ({} if slurm.account is None else {"slurm_account": slurm.account})


def request_line(cluster: ClusterConfig, gpus: int, needs: Needs = NOT_KNOWN) -> str:
    """Return the Slurm request as sbatch flags; empty for this machine."""
    resources = slurm_resources(cluster, gpus, needs=needs)
    if not resources:
        return ""
    hours, minutes = divmod(resources["runtime"], 60)
    mem_gib = resources["mem_mb"] // MIB_PER_GIB
    flags = [f"-A {resources['slurm_account']}"] if "slurm_account" in resources else []
    flags += [f"-p {resources['slurm_partition']}"]
    flags += [f"--qos={resources['qos']}"] if "qos" in resources else []
    flags += [f"--constraint={resources['constraint']}"] if "constraint" in resources else []
    flags += [f"--gres={resources['gres']}"] if "gres" in resources else []
    flags += [f"--nodes={resources['nodes']}"] if "nodes" in resources else []
    flags += [resources["slurm_extra"]]
    flags += [] if "gres" in resources else [f"--ntasks={resources.get('tasks', 1)}"]
    flags += [f"--cpus-per-task={resources['cpus_per_task']}"]
    flags += [f"--time={hours:02d}:{minutes:02d}:00", f"--mem={mem_gib}G"]
    return " ".join(flags)


def launch_line(cluster: ClusterConfig, gpus: int) -> str:
    """Return the shell command that starts the trainer, without the trainer's arguments."""
    per_node = min(gpus, cluster.gpus_per_node)
    nodes = -(-gpus // cluster.gpus_per_node)
    lines = [] if cluster.slurm is None else [OUTSIDE_SLURM]
    lines += [OUTLIVE_STOP, *_environment(cluster)]
    torchrun = f"torchrun --nproc_per_node={per_node}"
    if nodes == 1:
        alone = ALONE if cluster.slurm is None else ""
        return "; ".join([*lines, f"{alone}{torchrun} --standalone -m trainer"])
    # The port differs between jobs, so that two jobs of one user on one node do not collide.
    lines += ["export RENDEZVOUS=$(hostname):$((20000 + SLURM_JOB_ID % 10000))"]
    rendezvous = (
        f"--nnodes={nodes} --rdzv_backend=c10d --rdzv_id=$SLURM_JOB_ID --rdzv_endpoint=$RENDEZVOUS"
    )
    srun = (
        f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 "
        f"--cpus-per-task={threads(cluster, gpus)} --gpus-per-node={per_node} "
        "--cpu-bind=none --kill-on-bad-exit=1"
    )
    # Slurm resets all signal handlers in the processes of a step.
    outlive = OUTLIVE_STOP.replace("''", '""')
    on_node = f'{outlive}; exec {torchrun} {rendezvous} -m trainer "$@"'
    return "; ".join([*lines, f"{srun} bash -c '{on_node}' launch"])


def evaluation_line(cluster: ClusterConfig, evaluate: EvaluateConfig) -> str:
    """Return the shell command of an evaluation, without its model and output."""
    limit = "" if evaluate.limit is None else f" --limit {evaluate.limit:g}"
    commands = [
        f"lm_eval --model hf --tasks {','.join(tasks)}"
        + ("" if count is None else f" --num_fewshot {count}")
        + limit
        for count, tasks in evaluate.by_fewshot().items()
    ]
    if len(commands) == 1:
        return _on_one_gpu(cluster, commands[0])
    in_turn = " && ".join(f'{command} "$@"' for command in commands)
    return _on_one_gpu(cluster, f"bash -c '{in_turn}' evaluate")


def autotune_line(cluster: ClusterConfig) -> str:
    """Return the shell command that chooses settings for a run, without its config."""
    return _on_one_gpu(cluster, "python -m trainer.commands.autotune")


def precompile_line(cluster: ClusterConfig) -> str:
    """Return the shell command that precompiles the code of runs, without its config."""
    return _on_one_gpu(cluster, "python -m trainer.commands.precompile")


def _on_one_gpu(cluster: ClusterConfig, command: str) -> str:
    if cluster.slurm is None:
        return "; ".join([*_environment(cluster), f"{ALONE}{command}"])
    return "; ".join([OUTSIDE_SLURM, *_environment(cluster), command])


def _environment(cluster: ClusterConfig) -> list[str]:
    """Return the shell lines before the launch."""
    # Snakemake exports the job's total thread count to every rank; give each its share. In torch,
    # MKL_NUM_THREADS takes precedence over OMP_NUM_THREADS.
    share = cluster.cpus_per_gpu
    lines = [*cluster.setup, f"export OMP_NUM_THREADS={share} MKL_NUM_THREADS={share}"]
    if cluster.slurm is not None:
        save_s = cluster.slurm.warn_s or SAVE_S
        lines += [f"export PET_SIGNALS_TO_HANDLE={TORCHRUN_SIGNALS} PET_SHUTDOWN_TIMEOUT={save_s}"]
    if cluster.scratch is not None:
        scratch = in_shell(cluster.scratch)
        folders = [f'{name}="{scratch}/{below}"' for name, below in CACHES.items()]
        lines += [f"export {' '.join(folders)}", 'mkdir -p "$TMPDIR"']
    return lines
