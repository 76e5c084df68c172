"""The batch script of a Slurm job: a rule's command, between the checks before and a note after it.

The script holds all that the job does, as it was planned. It starts no Snakemake: a study that is
edited, or no longer valid, does not reach the jobs in the queue.
"""

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

ENDED = "ended"
"""Folder of the notes, within the folder of a study's Slurm logs: job id -> exit code."""

OUT_OF_SIGHT = 97
"""Exit code of a job whose node does not see the files that the job works with."""

NO_LOG = "0:53"
"""Exit code and signal of a job whose node cannot write to the file of `--output`."""

_OUT_OF_MEMORY = re.compile(
    rb"oom[-_ ]?kill|OOM Killed|out-of-memory handler|exceeded .*memory limit", re.IGNORECASE
)
_TAIL_BYTES = 1 << 16


def write_script(
    title: str,
    command: str,
    *,
    workdir: Path,
    project: Path,
    logs: Path,
    inputs: Iterable[str] = (),
    folders: Iterable[str] = (),
    outputs: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
    latency_s: int = 60,
) -> str:
    """Return the script of a job that runs `command` in `workdir`, with the code of `project`.

    It waits for `inputs` up to `latency_s`, as files may appear late on a network file system,
    creates `folders`, and removes old `outputs`. At the end it notes its exit code in `logs`.
    """
    note = shlex.quote(str(logs / ENDED))
    place, code = shlex.quote(str(workdir)), shlex.quote(str(project / "Snakefile"))
    # Slurm's settings of the batch step would become defaults of a step that the command starts.
    lines = [
        "#!/bin/bash",
        f"# {title}",
        "for name in ${!SLURM_*} ${!SRUN_*} ${!SBATCH_*}; do",
        "  case $name in SLURM_CONF|SLURM_JOB_ID|SLURM_JOBID|SLURM_CLUSTER_NAME) ;; "
        '*) unset "$name";; esac',
        "done",
        f"cd {place} && test -e {code} && test -d {note} || {{",
        f'  echo "node $(hostname) does not see" {place}, {code} or {note} >&2; '
        f"  exit {OUT_OF_SIGHT}; }}",
        f"rm -f {note}/$SLURM_JOB_ID",
        f"trap 'echo $? > {note}/$SLURM_JOB_ID.part && "
        f"mv {note}/$SLURM_JOB_ID.part {note}/$SLURM_JOB_ID' EXIT",
        "set -euo pipefail",
    ]
    if inputs := list(inputs):
        lines += [
            f"for file in {shlex.join(inputs)}; do",
            f"  for second in {{1..{max(1, latency_s)}}}; do "
            'test -e "$file" && break; sleep 1; done',
            '  test -e "$file" || { echo "missing input: $file" >&2; exit 1; }',
            "done",
        ]
    if folders := sorted(set(folders)):
        lines.append(f"mkdir -p {shlex.join(folders)}")
    if outputs := list(outputs):
        lines.append(f"rm -rf {shlex.join(outputs)}")
    for name, value in (environment or {}).items():
        lines.append(f"export {name}={shlex.quote(value)}")
    return "\n".join([*lines, command, ""])


def read_note(logs: Path, job_id: str) -> int | None:
    """Return the exit code that a job has noted; None if it has not ended, or was killed."""
    try:
        return int((logs / ENDED / job_id).read_text())
    except (OSError, ValueError):
        return None


def ran_out_of_memory(log: Path) -> bool:
    """Return whether Slurm said at the end of a job's log that the job exceeded its memory.

    Its state alone does not say so if the memory was exceeded in a step.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            return bool(_OUT_OF_MEMORY.search(file.read()))
    except OSError:
        return False
