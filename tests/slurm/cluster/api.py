"""The trial cluster as an object for tests: submit, look, and break things.

Jobs go through Slurm's own commands, faults through cluster.py, so that a test shows what a person
at a terminal would see.
"""

import os
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

PROGRAM = Path(__file__).with_name("cluster.py")

# States in which a job stays; squeue(1), "JOB STATE CODES". A requeued job leaves NODE_FAIL and
# PREEMPTED again.
FINAL_STATES = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "TIMEOUT",
    }
)

ACCOUNTING_LAG_S = 10


class CommandError(Exception):
    """A command ended with a failure; the message is what it printed."""


class Cluster:
    """The trial cluster; up() comes first, also where it runs already."""

    def __init__(self) -> None:
        self.slurm_conf: Path | None = None
        """What Slurm's commands need in the variable SLURM_CONF."""

    def up(self) -> None:
        """Start it, or whatever of it is not running, and wait until all nodes are usable."""
        export = self._manage("up").splitlines()[0]
        self.slurm_conf = Path(export.removeprefix("export SLURM_CONF="))

    @property
    def small_disk(self) -> Path:
        """A folder on a file system of a few MiB, the same on all nodes, for tests to fill."""
        assert self.slurm_conf is not None, "up() comes first"
        return self.slurm_conf.parent.parent / "small-disk"

    def down(self) -> None:
        self._manage("down")

    def is_up(self) -> bool:
        try:
            self._manage("status")
        except CommandError:
            return False
        return True

    def environment(self) -> dict[str, str]:
        """Our own environment, with the way to this cluster."""
        return os.environ | ({"SLURM_CONF": str(self.slurm_conf)} if self.slurm_conf else {})

    def run(self, *command: str | Path, timeout: float = 60) -> str:
        """Run a command on the submitting host and return what it printed."""
        finished = subprocess.run(
            [str(word) for word in command],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if finished.returncode != 0:
            raise CommandError(finished.stderr + finished.stdout)
        return finished.stdout

    def sbatch(self, *options: str | Path, command: str) -> int:
        """Submit a shell command as a batch job and return its job id.

        What it prints is dropped unless the options say where it goes.
        """
        output = "--output=/dev/null"  # of two outputs sbatch takes the last
        return int(self.run("sbatch", "--parsable", output, *options, "--wrap", command))

    def sacct(self, job_id: int, *fields: str) -> dict[str, str]:
        """What the accounting says about the job's latest run, by field name of sacct(1).

        It learns of a job a moment after the controller, so empty fields are asked for again.
        """
        deadline = time.monotonic() + ACCOUNTING_LAG_S
        while True:
            rows = self._sacct(job_id, fields)
            if (rows and all(rows[-1])) or time.monotonic() > deadline:
                return dict(zip(fields, rows[-1], strict=True)) if rows else {}
            time.sleep(0.2)

    def state_history(self, job_id: int) -> list[str]:
        """The end of every run of a job, requeued ones included."""
        return [_state(row[0]) for row in self._sacct(job_id, ("State",), "--duplicates")]

    def _sacct(self, job_id: int, fields: Collection[str], *options: str) -> list[list[str]]:
        table = self.run(
            *("sacct", "--allocations", "--noheader", "--parsable2", *options),
            *(f"--jobs={job_id}", f"--format={','.join(fields)}"),
        )
        return [line.split("|") for line in table.splitlines()]

    def state(self, job_id: int) -> str:
        """The job's state by the controller, or by the accounting where the controller is away."""
        try:
            listed = self.run(
                "squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job_id}"
            )
        except CommandError:
            listed = self.sacct(job_id, "State").get("State", "")
        return _state(listed)

    def wait_for_state(
        self, job_id: int, states: str | Collection[str] = FINAL_STATES, timeout: float = 30
    ) -> str:
        """Wait until the job is in one of the states and return which."""
        wanted = {states} if isinstance(states, str) else set(states)
        deadline = time.monotonic() + timeout
        while (state := self.state(job_id)) not in wanted:
            if time.monotonic() > deadline:
                names = " or ".join(sorted(wanted))
                raise TimeoutError(f"job {job_id} is {state}, not {names}, after {timeout:.0f} s")
            time.sleep(0.2)
        return state

    def requeue(self, job_id: int) -> None:
        self.run("scontrol", "requeue", str(job_id))

    def cancel(self, job_id: int) -> None:
        self.run("scancel", str(job_id))

    def nodes(self) -> dict[str, str]:
        """The state of every node by its name; a trailing `*` means that it does not answer."""
        table = self.run("sinfo", "--noheader", "--Node", "--format=%N %T")
        return dict(line.split() for line in table.splitlines())

    def node_of(self, job_id: int) -> str:
        """The node, or nodes, that the job runs on."""
        return self.run("squeue", "--noheader", "--format=%N", f"--jobs={job_id}").strip()

    def on_node(self, name: str, *command: str) -> str:
        """Run a command as if logged in on a node."""
        return self._manage("node", "exec", name, *command)

    def kill_node(self, name: str) -> None:
        """Cut the node's power. The controller notices after 10 s without an answer."""
        self._manage("node", "kill", name)

    def start_node(self, name: str, timeout: float = 30) -> None:
        """Switch a node on and wait until Slurm may use it."""
        self._manage("node", "start", name)
        deadline = time.monotonic() + timeout
        while self.nodes()[name] not in ("idle", "mixed", "allocated"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} is {self.nodes()[name]} after {timeout:.0f} s")
            time.sleep(0.2)

    def restore_nodes(self) -> None:
        """Switch on the nodes that a test has killed, also where it failed on the way.

        One that could not end a job in time ("Kill task failed") was drained, which needs a word.
        """
        for name, state in self.nodes().items():
            if state not in ("idle", "mixed", "allocated", "completing"):
                if state.startswith("drain"):
                    self.run("scontrol", "update", f"NodeName={name}", "State=RESUME")
                self.start_node(name)

    def stop_slurmd(self, name: str) -> None:
        """Kill the node's slurmd only; its jobs go on."""
        self._manage("node", "stop-slurmd", name)

    def start_slurmd(self, name: str) -> None:
        self._manage("node", "start-slurmd", name)

    def stop_service(self, name: str) -> None:
        """Stop slurmctld or slurmdbd in an orderly way."""
        self._manage("service", "stop", name)

    def start_service(self, name: str) -> None:
        self._manage("service", "start", name)

    def _manage(self, *arguments: str) -> str:
        return self.run(sys.executable, PROGRAM, *arguments, timeout=120)


def _state(text: str) -> str:
    """The state alone: sacct adds who cancelled a job, as in `CANCELLED by 0`."""
    words = text.split()
    return words[0].rstrip("+") if words else ""
