"""The batch script of a Slurm job: a rule's command, between the checks before and a note after it.

The script holds all that the job does, as it was planned. It starts no Snakemake: a study that is
edited, or no longer valid, does not reach the jobs in the queue.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from study.jobs.slurm_jobs import label_of
from trainer.files import read_end

ENDED = "ended"
"""Folder of the notes, within the folder of a study's Slurm logs: a job's label -> exit code."""

OUT_OF_SIGHT = 97
"""Exit code of a job whose node does not see the files that the job works with."""

NO_LOG = "0:53"
"""Exit code and signal of a job whose node cannot write to the file of `--output`."""

_OUT_OF_MEMORY = re.compile(
    rb"oom[-_ ]?kill|OOM Killed|out-of-memory handler|exceeded .*memory limit", re.IGNORECASE
)
_MISSING_INPUT = "missing input: "
_TAIL_BYTES = 1 << 16

_SHOWN_LINES = 20

INHERITED = (
    # The size and place of the batch step.
    *("NTASKS*", "NPROCS", "NNODES", "NODE*", "PROCID", "LOCALID", "GTIDS", "TASK*"),
    *("STEPID", "STEP_*", "SRUN_*", "JOB_NUM_NODES", "JOB_NODELIST", "JOB_CPUS_PER_NODE*"),
    *("JOB_GPUS", "HET_*"),
    *("CPU*", "CORE*", "MEM_*", "GPU*", "GRES*", "TRES*", "SHARDS*", "THREAD*", "NSOCKETS*"),
    # Options of srun.
    *("NCORES*", "HINT", "DIST*", "EXACT", "EXCLUSIVE", "OVERCOMMIT", "OVERLAP", "SPREAD_JOB"),
    *("*CONSTRAINT", "EXPORT_ENV", "OPEN_MODE", "PROFILE", "ACCTG_FREQ", "KILL_BAD_EXIT"),
    *("WAIT*", "NETWORK", "RESV_PORTS", "MPI_TYPE", "LABELIO", "UNBUFFEREDIO", "STD*MODE"),
    *("*HOSTFILE", "ARBITRARY_NODELIST", "USE_MIN_NODES", "CONTAINER*", "DEBUG*", "*PROLOG"),
    *("*EPILOG", "REMOTE_CWD", "WORKING_*", "TIMELIMIT", "PARTITION", "QOS", "ACCOUNT"),
    *("RESERVATION", "DEPENDENCY", "SIGNAL", "BCAST*", "COMPRESS", "SEND_LIBS", "NO_KILL"),
    *("REQ_SWITCH", "PTY_*", "EXIT_*", "BURST_BUFFER", "DELAY_BOOT", "POWER", "TEST_EXEC"),
    *("DISABLE_STATUS", "CLUSTERS", "WCKEY", "JOB_NAME", "RLIMIT_*", "UMASK", "PRIO_PROCESS"),
)
"""Variables of the batch step, after `SLURM_`, that would become options of a step which the
command starts, or be taken by a program in it for its own place. From srun(1), "INPUT ENVIRONMENT
VARIABLES". Others, such as a site's SLURM_TMPDIR, are for `setup` and `scratch`."""


def write_script(
    title: str,
    command: str,
    *,
    workdir: Path,
    project: Path,
    logs: Path,
    cluster: str | None = None,
    inputs: Iterable[str] = (),
    folders: Iterable[str] = (),
    outputs: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
    latency_s: int = 60,
) -> str:
    """Return the script of a job that runs `command` in `workdir`, with the code of `project`.

    It waits for `inputs` up to `latency_s`, as files may appear late on a network file system,
    creates `folders`, and removes old `outputs`. At the end it notes its exit code in `logs`. That
    `logs` is there says nothing of the file system: newer Slurm (24.11) creates the folder of
    `--output` on the node, the inputs it does not.
    `cluster`: the Slurm cluster that it is submitted to by name.
    """
    notes = shlex.quote(str(logs / ENDED))
    # sbatch answers with the same name of the cluster, however that was asked for.
    label = label_of("$SLURM_JOB_ID", cluster and "$SLURM_CLUSTER_NAME")
    lines = [
        "#!/bin/bash",
        f"# {title}",
        *_DROP_INHERITED,
        *_check_sight(workdir, project / "Snakefile", logs.parent),
        f"cd {shlex.quote(str(workdir))} && mkdir -p {notes} || exit {OUT_OF_SIGHT}",
        f"_study_note={notes}/{label}",
        'rm -f "$_study_note"',
        'trap \'echo $? > "$_study_note.part" && mv "$_study_note.part" "$_study_note"\' EXIT',
        "set -euo pipefail",
        *_wait_for(list(inputs), latency_s),
    ]
    if folders := sorted(set(folders)):
        lines.append(f"mkdir -p {shlex.join(folders)}")
    if outputs := list(outputs):
        lines.append(f"rm -rf {shlex.join(outputs)}")
    for name, value in (environment or {}).items():
        lines.append(f"export {name}={shlex.quote(value)}")
    return "\n".join([*lines, command, ""])


_DROP_INHERITED = (
    "for name in ${!SLURM_*} ${!SRUN_*} ${!SBATCH_*}; do",
    "  case $name in",
    f'    {"|".join(f"SLURM_{name}" for name in INHERITED)}|SRUN_*|SBATCH_*) unset "$name" ;;',
    "  esac",
    "done",
)


def _check_sight(*paths: Path) -> list[str]:
    """Return the lines that end a job whose node does not see one of some paths."""
    told = '{ echo "node $(hostname) does not see $path" >&2; '
    return [
        f"for path in {shlex.join(map(str, paths))}; do",
        f'  test -e "$path" || {told}exit {OUT_OF_SIGHT}; }}',
        "done",
    ]


def _wait_for(files: Sequence[str], latency_s: int) -> list[str]:
    """Return the lines that wait for files, and end a job if one is still missing."""
    if not files:
        return []
    seconds = f"{{1..{max(1, latency_s)}}}"
    return [
        f"for file in {shlex.join(files)}; do",
        f'  for second in {seconds}; do test -e "$file" && break; sleep 1; done',
        f'  test -e "$file" || {{ echo "{_MISSING_INPUT}$file" >&2; exit {OUT_OF_SIGHT}; }}',
        "done",
    ]


def read_note(logs: Path, label: str) -> int | None:
    """Return the exit code that a job has noted; None if it has not ended, or was killed."""
    try:
        return int((logs / ENDED / label).read_text())
    except (OSError, ValueError):
        return None


def ran_out_of_memory(logs: Iterable[Path]) -> bool:
    """Return whether Slurm said at the end of a job's logs that the job exceeded its memory.

    Its state alone does not say so if the memory was exceeded in a step.
    """
    return any(_OUT_OF_MEMORY.search(_read_end(log)) for log in logs)


def show_logs(logs: Iterable[Path], own: Iterable[str]) -> str:
    """Return what people should see of a failed job's logs; empty if they are empty or missing.

    Snakemake shows the job's `own` logs. If these have text, it is also in `logs`, and the rest
    that matters is what Slurm has written there, such as why it ended the job.
    """
    shown = any(Path(path).exists() and Path(path).stat().st_size for path in own)
    parts = []
    for log in logs:
        lines = _read_end(log).decode(errors="replace").splitlines()
        if shown:
            lines = [line for line in lines if line.startswith("slurmstepd")]
        if lines or shown:
            title = f"Slurm's log: {log}" if shown else f"The end of {log}:"
            parts += [title, *lines[-_SHOWN_LINES:]]
    return "\n".join(parts)


def what_node_lacks(code: str, log: Path, folders: Sequence[str | Path], results: str) -> str:
    """Return what the node of a failed job does not see, for people; empty if it sees all.

    An input that is missing here too is said to be deleted. `code`: the job's exit code and signal;
    `folders`: those that its script checks first; `results`: the study's results_dir.
    """
    mounted = "on a file system that the nodes mount."
    if code == NO_LOG and not log.exists():
        expected = f"expected `results_dir` ({results}) {mounted}"
        return f"Its node cannot write to {log.parent}: {expected}"
    if code == f"{OUT_OF_SIGHT}:0":
        gone = _find_gone(log)
        if gone:
            return f"Its input {gone} was deleted before the job started. Start Snakemake again."
        *some, last = dict.fromkeys(map(str, folders))
        expected = f"expected all, and the environment, {mounted}"
        return f"Its node does not see the folder {', '.join(some)} or {last}: {expected}"
    return ""


def _find_gone(log: Path) -> str:
    """Return the input that a job did not find and that is missing here too; empty if none is."""
    for line in _read_end(log).decode(errors="replace").splitlines():
        name = line.removeprefix(_MISSING_INPUT)
        if name != line and not Path(name).exists():
            return name
    return ""


def _read_end(log: Path) -> bytes:
    try:
        return read_end(log, _TAIL_BYTES)
    except OSError:
        return b""
