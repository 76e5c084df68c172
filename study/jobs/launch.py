"""From a cluster and a GPU count to the resource request and the line that starts the run.

Pure functions of the settings, so that `plan` shows exactly what is requested.
"""

import shlex
from typing import Any, Literal

from study.cluster_config import ClusterConfig, SlurmConfig, end_lines, split_command
from study.config import EvaluateConfig
from study.estimate.needs import NOT_KNOWN, Needs
from study.grid import Cell
from study.jobs.verdict import NO_SHORTAGE, Shortage
from study.trainer_command import ON_ONE_NODE, arguments, start_line
from study.trainers import OURS, TrainerConfig
from trainer.paths import in_shell
from trainer.signals import TORCHRUN_SIGNALS

WHOLE_MACHINE = 2**16
"""Threads of a rule that must run alone: Snakemake reduces them to its cores."""

MIB_PER_GIB = 1024

ADD_SLURM = "add --executor slurm"

OUTSIDE_SLURM = f': "${{SLURM_JOB_ID:?this run belongs to a Slurm partition; {ADD_SLURM}}}"'
"""Shell line that ends a partition's run with a message if it was started without Slurm, for
example on a login node or a laptop."""

OUTLIVE_STOP = "trap '' TERM USR1"
"""Shell line that keeps a stop request from ending the shell itself and the `tee` that writes the
log. torchrun and the trainer have handlers of their own."""

FORWARDED = f"{TORCHRUN_SIGNALS},SIGUSR1"
"""Signals that torchrun forwards to its ranks. SIGUSR1 is Slurm's warning, see `slurm.warn_s`.
Nothing sends a job SIGUSR2: only foreign_run sends it, to a trainer that takes it as its
`stop_signal`, and sets these signals anew."""

ALONE = "python -m study.jobs.machine_lock "
"""Prefix of a command that must run alone on this machine; see that module."""

FOREIGN = "python -m study.jobs.foreign_run "
"""Prefix of the command of another trainer, after which come the run's folder and `--`. On several
nodes, each node's share of the run has it."""

KEEP_LOG = "--open-mode=append"
"""Flag for sbatch by which a requeued job appends to its log."""

SAVE_S = 30
"""Seconds that torchrun waits for its ranks after a stop request if the cluster has no `warn_s`."""

CACHES = {
    "TMPDIR": "tmp",
    "HF_HOME": "huggingface",
}
"""Variable for the folder of temporary files or a cache -> folder below `scratch`. Compiled code
has `distributed.compile_cache` instead, which the runs on all nodes share."""

FIRST_RUNTIME_MIN = 60
"""Time limit if there is no estimate and the cluster has no max_runtime_min."""


def threads(cluster: ClusterConfig, gpus: int) -> int:
    """Return a training job's threads.

    On this machine, all cores: a concurrent run would distort the measurement. Under Slurm, the
    cores of the run's GPUs on one node.
    """
    if cluster.slurm is None:
        return WHOLE_MACHINE
    return cluster.cpus_per_gpu * cluster.gpus_on_node(gpus)


def slurm_resources(
    cluster: ClusterConfig,
    gpus: int,
    shortage: Shortage = NO_SHORTAGE,
    needs: Needs = NOT_KNOWN,
) -> dict[str, Any]:
    """Return Snakemake's resources for a run; empty for this machine.

    `mem_mb` is in MiB and `runtime` in minutes, as snakemake-executor-plugin-slurm reads them. What
    earlier attempts ran out of is requested in a larger amount. `needs` applies to settings that
    are `auto`.
    """
    slurm = cluster.slurm
    if slurm is None:
        return {}
    mem_gib = _allowed(slurm.mem_gib, needs.mem_gib, slurm.max_mem_gib)
    minutes = needs.runtime_min or slurm.max_runtime_min or FIRST_RUNTIME_MIN
    runtime_min = _allowed(slurm.runtime_min, minutes, slurm.max_runtime_min)
    resources: dict[str, Any] = {
        "slurm_partition": slurm.partition,
        "mem_mb": _grown(mem_gib, slurm.max_mem_gib, shortage.memory) * MIB_PER_GIB,
        "runtime": _grown(runtime_min, slurm.max_runtime_min, shortage.time),
        "cpus_per_task": threads(cluster, gpus),
    }
    resources |= _place(slurm)
    return resources | _gpu_resources(slurm, cluster, gpus)


def _place(slurm: SlurmConfig) -> dict[str, Any]:
    optional = {
        "slurm_account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "clusters": slurm.clusters,
    }
    return _given(optional)


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _allowed(setting: int | Literal["auto"], needed: int, limit: int | None) -> int:
    """Return the setting; if it is auto, the predicted need, up to the limit."""
    return _at_most(needed, limit) if setting == "auto" else setting


def _at_most(amount: int, limit: int | None) -> int:
    return amount if limit is None else min(amount, limit)


def _grown(amount: int, limit: int | None, shortages: int) -> int:
    grown = amount * (1 + shortages)
    return grown if limit is None else min(grown, max(amount, limit))


def _gpu_resources(slurm: SlurmConfig, cluster: ClusterConfig, gpus: int) -> dict[str, Any]:
    wanted = f"{slurm.gpu_type or ''}:{cluster.gpus_on_node(gpus)}".lstrip(":")
    nodes, style = cluster.nodes(gpus), slurm.gpu_request
    # The plugin adds --ntasks=1 if neither gres nor tasks are set.
    request: dict[str, Any] = {} if nodes == 1 else {"nodes": nodes, "tasks": nodes}
    flags = _more_flags(slurm)
    if style == "gres" and nodes == 1:
        request["gres"] = f"gpu:{wanted}"
    elif style != "none":
        flags.insert(0, f"--{style if nodes == 1 else 'gpus-per-node'}={wanted}")
    flags += [f"--signal=USR1@{slurm.warn_s}"] if slurm.warn_s else []
    return request | {"slurm_extra": " ".join(flag for flag in flags if flag)}


def _more_flags(slurm: SlurmConfig) -> list[str]:
    """Return the flags for sbatch that Snakemake has no resources for."""
    named = {
        "reservation": slurm.reservation,
        "nodelist": slurm.nodelist,
        "exclude": slurm.exclude,
    }
    flags = [f"--{name}={shlex.quote(value)}" for name, value in _given(named).items()]
    return [*flags, slurm.extra, KEEP_LOG]


def data_request(cluster: ClusterConfig) -> dict[str, Any]:
    """Return Snakemake's resources for a job without a GPU, such as tokenising."""
    slurm = cluster.slurm
    if slurm is None:
        return {}
    data = slurm.data
    if data.partition is None:
        place, flags = _place(slurm), _more_flags(slurm)
        max_gib, max_min = slurm.max_mem_gib, slurm.max_runtime_min
    else:
        # The cluster's QOS, constraint, flags and limits belong to its own partition.
        place = _given({"slurm_account": slurm.account, "clusters": slurm.clusters})
        flags, max_gib, max_min = [KEEP_LOG], None, None
    place |= _given({"slurm_account": data.account, "qos": data.qos})
    return place | {
        "slurm_partition": data.partition or slurm.partition,
        "mem_mb": _at_most(data.mem_gib, max_gib) * MIB_PER_GIB,
        "runtime": _at_most(data.runtime_min, max_min),
        "cpus_per_task": data.cpus,
        "slurm_extra": " ".join(flag for flag in [data.extra, *flags] if flag),
    }


def request_line(cluster: ClusterConfig, gpus: int, needs: Needs = NOT_KNOWN) -> str:
    """Return the Slurm request as sbatch flags; empty for this machine."""
    resources = slurm_resources(cluster, gpus, needs=needs)
    if not resources:
        return ""
    hours, minutes = divmod(resources["runtime"], 60)
    mem_gib = resources["mem_mb"] // MIB_PER_GIB
    flags = [f"-A {resources['slurm_account']}"] if "slurm_account" in resources else []
    flags += [f"-p {resources['slurm_partition']}"]
    flags += [f"--clusters={resources['clusters']}"] if "clusters" in resources else []
    flags += [f"--qos={resources['qos']}"] if "qos" in resources else []
    constraint = resources.get("constraint")
    flags += [f"--constraint={shlex.quote(constraint)}"] if constraint else []
    flags += [f"--gres={resources['gres']}"] if "gres" in resources else []
    flags += [f"--nodes={resources['nodes']}"] if "nodes" in resources else []
    flags += [resources["slurm_extra"]]
    flags += [] if "gres" in resources else [f"--ntasks={resources.get('tasks', 1)}"]
    flags += [f"--cpus-per-task={resources['cpus_per_task']}"]
    flags += [f"--time={hours:02d}:{minutes:02d}:00", f"--mem={mem_gib}G"]
    return " ".join(flags)


def cell_line(cell: Cell) -> str:
    """Return the shell command that trains a cell."""
    trainer = cell.trainer_config
    line = launch_line(cell.cluster_config, cell.gpus, trainer, cell.folder)
    return f"{line} {arguments(cell.placed)}".rstrip()


def launch_line(
    cluster: ClusterConfig, gpus: int, trainer: TrainerConfig = OURS, folder: str = ""
) -> str:
    """Return the shell command that starts a trainer, without its arguments.

    Unless it writes the run's `folder` itself, foreign_run starts it and does.
    """
    per_node, nodes = cluster.gpus_on_node(gpus), cluster.nodes(gpus)
    lines = [] if cluster.slurm is None else [OUTSIDE_SLURM]
    lines += [OUTLIVE_STOP, *_environment(cluster)]
    lines += _scratch(cluster) if nodes == 1 else []
    before = "" if trainer.is_native else f"{FOREIGN}{shlex.quote(folder)} -- "
    before += _container(cluster)
    if trainer.setup:
        own = "; ".join([*end_lines(trainer.setup), 'exec "$@"'])
        before += shlex.join(["bash", "-c", own, "setup"])
        before += " "
    if cluster.slurm is None:
        return "; ".join([*lines, f"{ALONE}{before}{start_line(trainer, per_node)}"])
    if nodes == 1:
        rendezvous = ON_ONE_NODE
    else:
        # The port differs between jobs, so that two jobs of one user on one node do not collide.
        lines += ["export RENDEZVOUS=$(hostname):$((20000 + SLURM_JOB_ID % 10000))"]
        rendezvous = (
            f"--nnodes={nodes} --rdzv_backend=c10d --rdzv_id=$SLURM_JOB_ID "
            "--rdzv_endpoint=$RENDEZVOUS"
        )
    # Slurm signals the first process of a step, not those of the batch script: torchrun is one.
    share = f" --gpus-per-node={per_node}" if cluster.slurm.gpu_request != "none" else ""
    srun = (
        f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 "
        f"--cpus-per-task={threads(cluster, gpus)}{share} --cpu-bind=none --kill-on-bad-exit=1"
    )
    # Slurm resets all signal handlers in the processes of a step. Each node has its own scratch.
    scratch = _scratch(cluster) if nodes > 1 else []
    on_node = "; ".join([OUTLIVE_STOP.replace("''", '""'), *scratch, 'exec "$@"'])
    start = before + start_line(trainer, per_node, rendezvous)
    launch = f"bash -c {shlex.quote(on_node)} launch {start}"
    return "; ".join([*lines, f"{srun} {launch}"])


def evaluation_line(cluster: ClusterConfig, evaluate: EvaluateConfig) -> str:
    """Return the shell command of an evaluation, without its model and output."""
    limit = "" if evaluate.limit is None else f" --limit {evaluate.limit:.15g}"
    commands = [
        f"lm_eval --model hf --tasks {','.join(tasks)}"
        + ("" if count is None else f" --num_fewshot {count}")
        + limit
        for count, tasks in evaluate.by_fewshot().items()
    ]
    if len(commands) == 1:
        return one_gpu_line(cluster, commands[0])
    in_turn = " && ".join(f'{command} "$@"' for command in commands)
    return one_gpu_line(cluster, f"bash -c '{in_turn}' evaluate")


def one_gpu_line(cluster: ClusterConfig, command: str) -> str:
    """Return the shell command of a job that needs no launcher, since it uses one GPU."""
    start = _container(cluster) + command
    if cluster.slurm is None:
        return "; ".join([*_environment(cluster), *_scratch(cluster), f"{ALONE}{start}"])
    return "; ".join([OUTSIDE_SLURM, *_environment(cluster), *_scratch(cluster), start])


def _container(cluster: ClusterConfig) -> str:
    """Return the words before a command that is to run in the cluster's container."""
    words = [] if cluster.container is None else split_command(cluster.container)
    return "".join(f'"{in_shell(word)}" ' for word in words)


def _environment(cluster: ClusterConfig) -> list[str]:
    """Return the shell lines before the launch."""
    # Snakemake exports the job's total thread count to every rank; give each its share. In torch,
    # MKL_NUM_THREADS takes precedence over OMP_NUM_THREADS.
    share = cluster.cpus_per_gpu
    # Snakemake and our batch scripts end at a variable that is not set, which many a site's files
    # and functions use.
    setup = ["set +u", *end_lines(cluster.setup)] if cluster.setup else []
    lines = [*setup, f"export OMP_NUM_THREADS={share} MKL_NUM_THREADS={share}"]
    if cluster.slurm is not None:
        save_s = cluster.slurm.warn_s or SAVE_S
        lines += [f"export PET_SIGNALS_TO_HANDLE={FORWARDED} PET_SHUTDOWN_TIMEOUT={save_s}"]
    return lines


def _scratch(cluster: ClusterConfig) -> list[str]:
    """Return the shell lines that have temporary files and caches in a node's `scratch`."""
    if cluster.scratch is None:
        return []
    scratch = in_shell(cluster.scratch)
    folders = [f'{name}="{scratch}/{below}"' for name, below in CACHES.items()]
    return [f"export {' '.join(folders)}", 'mkdir -p "$TMPDIR" || exit 1']
