"""A job as it is submitted to Slurm: the sbatch command and the script."""

import json
import os
import re
import shlex
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string
from snakemake_executor_plugin_slurm.validation import (
    get_forbidden_slurm_options,
    validate_or_get_slurm_job_id,
)
from snakemake_interface_common.exceptions import WorkflowError

from study.cluster_config import SlurmConfig
from study.jobs.decisions import is_training
from study.jobs.slurm_commands import name_of_user
from study.jobs.submitted import Submission, comment_of, name_process

FORBIDDEN = {
    "--array": "several jobs would train in one folder; vary an axis of the grid instead",
    "--wait": "Snakemake would wait for each job",
    "--wrap": "it would replace the job's script",
    "--test-only": "nothing would be submitted",
    "--cluster": "the key is `slurm.clusters`",
}
"""Flags of sbatch that a study cannot give it, beside those that the plugin refuses -> why."""

MANAGED = get_forbidden_slurm_options()
"""Patterns of the flags that the plugin sets or refuses -> what they are about."""

SHORT = {"-a": "--array", "-W": "--wait", "-M": "--cluster"}
"""Their short forms."""


class Kind(NamedTuple):
    """The resources of a job that a submit limit applies to, as Snakemake names them."""

    clusters: str | None
    slurm_account: str | None
    slurm_partition: str | None
    qos: str | None


@dataclass(frozen=True)
class Prepared:
    """A job as it is submitted."""

    command: list[str]
    script: str
    name: str
    comment: str
    cluster: str | None
    """The Slurm cluster that is asked for by name, or several, of which sbatch chooses one."""
    log: Path
    error: Path | None = None
    """The file of its errors, if it is not `log`."""

    def log_of(self, job_id: str) -> str:
        """Return the path of the log that the job has with an id."""
        return str(log_of_job(self.log, job_id))

    @property
    def minutes(self) -> int:
        """Its time limit; 0 if it has none."""
        return int(self.command[self.command.index("-t") + 1]) if "-t" in self.command else 0

    def within(self, minutes: int | None) -> "Prepared":
        """Return the same job with a time limit of at most so many minutes; None: as it is."""
        if minutes is None or self.minutes <= minutes:
            return self
        place = self.command.index("-t") + 1
        command = [*self.command[:place], str(minutes), *self.command[place + 1 :]]
        return replace(self, command=command)

    def accepted(self, answer: str) -> Submission:
        """Return the job that sbatch has accepted, by what it printed. Raises WorkflowError."""
        number, _, named = answer.strip().partition(";")
        job_id = validate_or_get_slurm_job_id(number, answer)
        # Of several clusters that were asked for, sbatch names the one that it chose.
        cluster = self.cluster and (named or self.cluster)
        return Submission(
            *(job_id, cluster, self.name, self.comment, self.digest, self.log_of(job_id)),
            name_of_user(),
            name_process(os.getpid()),
        )

    @property
    def digest(self) -> str:
        """Digest of the request."""
        return sha256(json.dumps([self.command, self.script]).encode()).hexdigest()[:16]


def kind_of(job: Any) -> Kind:
    """Return the resources of a job that submit limits apply to."""
    return Kind(*(job.resources.get(name) for name in Kind._fields))


def cluster_of(job: Any) -> str | None:
    """Return the Slurm cluster that a job is submitted to by name; None for the default one.

    sbatch, too, prefers the plugin's flag to the variable, which a site's modules may set.
    """
    names = ("cluster", "clusters", "slurm_cluster")
    asked = next(filter(None, (job.resources.get(name) for name in names)), None)
    return asked or os.environ.get("SLURM_CLUSTERS") or None


def comment_of_job(job: Any) -> str:
    """Return the comment of a job, by which a later invocation recognises it, and `watch`, which
    does not know what a rule is called in another repository."""
    if job.is_group():
        # All groups (--groups) of the same rules have one name, and no wildcards.
        made = json.dumps(sorted(map(str, job.output)))
        return comment_of(str(job.name), [sha256(made.encode()).hexdigest()[:8]])
    name = "train" if is_training(job) else str(job.name)
    return comment_of(name, list(getattr(job, "wildcards", None) or ()))


def check_extra(job: Any) -> None:
    """Check a job's `slurm_extra`, where a study's own flags are; raises WorkflowError."""
    try:
        words = shlex.split(str(job.resources.get("slurm_extra") or ""))
    except ValueError as error:
        raise WorkflowError(f"`extra`: {error}") from error
    for word in words:
        # Word by word: the plugin's own search also finds "-c " at the end of a value.
        named = (name for flag, name in MANAGED.items() if re.match(flag, f"{word} "))
        if (managed := next(named, None)) is not None:
            raise WorkflowError(
                f"`extra`: found {word}; the {managed} has a key of its own, or is set by Snakemake"
            )
        name = SHORT.get(word[:2], word.partition("=")[0])
        # sbatch takes what is left out at the end of a name.
        flag = next((f for f in FORBIDDEN if len(name) > 3 and f.startswith(name)), None)
        if flag is not None:
            raise WorkflowError(f"`extra`: found {word}; {FORBIDDEN[flag]}")


def error_file(slurm: SlurmConfig | None) -> Path | None:
    """Return the file for a job's errors, if it is not that of its output."""
    return Path(slurm.error).absolute() if slurm is not None and slurm.error else None


def log_of_job(log: Path, job_id: str) -> Path:
    """Return the path of a log, with %j in its name, for a job."""
    return log.with_name(log.name.replace("%j", job_id))


def escape(log: Path) -> str:
    """Return the path of a log as sbatch takes it: only in its name does a % begin a pattern."""
    return str(log.parent).replace("%", "%%") + f"/{log.name}"


def sbatch_command(
    job: Any, parameters: dict[str, Any], slurm: SlurmConfig | None, settings: Any
) -> list[str]:
    """Return the sbatch command of a job, as the plugin makes it of the job's resources.

    `parameters` are the plugin's, `slurm` the request of a cell's cluster, `settings` the
    executor's.
    """
    # The plugin would ask the accounting daemon about the account; sbatch checks it itself.
    account = _flag("-A", job.resources.get("slurm_account"))
    call = get_submit_command(job, parameters | {"account": account}, settings=settings)
    # The plugin's own check of a GPU type does not accept all that Slurm does.
    gres = job.resources.get("gres")
    call += f" --gres={shlex.quote(gres)}" if gres else set_gres_string(job)
    command = shlex.split(call)
    error = error_file(slurm)
    return command if error is None else [*command, f"--error={escape(error)}"]


def _flag(name: str, value: object) -> str:
    return f"{name} {shlex.quote(str(value))}" if value else ""
