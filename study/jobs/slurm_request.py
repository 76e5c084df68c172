"""A job as it is submitted to Slurm: the sbatch command and the script."""

import json
import shlex
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string

from study.cluster_config import SlurmConfig
from study.jobs.decisions import is_training
from study.jobs.submitted import comment_of


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
    log: Path

    @property
    def digest(self) -> str:
        """Digest of the request."""
        return sha256(json.dumps([self.command, self.script]).encode()).hexdigest()[:16]


def kind_of(job: Any) -> Kind:
    """Return the resources of a job that submit limits apply to."""
    return Kind(*(job.resources.get(name) for name in Kind._fields))


def comment_of_job(job: Any) -> str:
    """Return the comment of a job, by which a later invocation recognises it, and `watch`, which
    does not know what a rule is called in another repository."""
    name = "train" if is_training(job) else str(job.name)
    return comment_of(name, list(getattr(job, "wildcards", None) or ()))


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
    if slurm is not None and slurm.error:
        command.append(f"--error={Path(slurm.error).absolute()}")
    return command


def _flag(name: str, value: object) -> str:
    return f"{name} {shlex.quote(str(value))}" if value else ""
