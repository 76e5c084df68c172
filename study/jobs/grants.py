"""The time that Slurm grants the jobs of an invocation, if a request has grown beyond a limit.

A partition, a QOS and an account each may have a limit, of which the study need not know.
"""

from study.jobs.messages import say
from study.jobs.slurm_request import Prepared


class Grants:
    """What Slurm has accepted of each job's time limits."""

    def __init__(self) -> None:
        self._accepted: dict[str, int] = {}
        """Comment of a job -> minutes, of its newest request; at first, of the one that was
        checked before the first job."""
        self._most: dict[str, int] = {}
        """Comment of a job -> minutes, if Slurm grants no more."""

    def limit(self, prepared: Prepared) -> Prepared:
        """Return a job with a time limit that Slurm is known to grant, as far as that is known."""
        limited = prepared.within(self._most.get(prepared.comment))
        self._accepted.setdefault(limited.comment, limited.minutes)
        return limited

    def before(self, prepared: Prepared) -> int | None:
        """Return the minutes of the job's last request if it now asks for more."""
        minutes = self._accepted[prepared.comment]
        return minutes if prepared.minutes > minutes else None

    def accept(self, prepared: Prepared) -> None:
        """Note that a job was submitted."""
        self._accepted[prepared.comment] = prepared.minutes

    def refuse(self, comment: str, minutes: int, reason: str) -> None:
        """Note that Slurm grants a job no more than so many minutes, and say so."""
        self._most[comment] = self._accepted[comment] = minutes
        say(
            f"{comment}: Slurm grants no more than {minutes} minutes ({reason}). State "
            "`slurm.max_runtime_min` of its cluster to have no more requested."
        )
