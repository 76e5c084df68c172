"""Snakemake's executors, with what they have no settings for.

`install` registers two classes in place of the executors that they extend:

- `SlurmExecutor`, of snakemake-executor-plugin-slurm: submits the rules' commands as plain batch
  scripts, waits where Slurm has a submit limit or does not answer, decides what becomes of a job
  that has ended, and keeps the jobs of an earlier invocation.
- `LocalExecutor`: the same decisions about a failed run on this machine.

They override methods that the executor interface declares (snakemake-interface-executor-plugins).
Of the plugin itself they use the command that it makes of a job's resources.
"""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from snakemake.executors.local import Executor as SnakemakeLocalExecutor
from snakemake.persistence import PersistenceBase
from snakemake_executor_plugin_slurm import Executor as PluginExecutor
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import get_job_wildcards, set_gres_string
from snakemake_executor_plugin_slurm.validation import (
    validate_or_get_slurm_job_id,
    validate_slurm_extra,
)
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from study.grid import Grid
from study.jobs.decisions import Decisions, find_summary, give_up, is_training
from study.jobs.job_script import (
    ENDED,
    NO_LOG,
    OUT_OF_SIGHT,
    ran_out_of_memory,
    read_note,
    write_script,
)
from study.jobs.local_progress import LocalProgress
from study.jobs.messages import say, shorten
from study.jobs.progress import Progress
from study.jobs.slurm_commands import (
    ACTIVE,
    Answer,
    QueuedJob,
    abandon,
    ask,
    find_exit_code,
    find_output_file,
    find_recorded_state,
    find_submit_limits,
    list_jobs,
)
from study.jobs.submission import Request, Submissions
from study.jobs.submitted import Submission, comment_of, log_folder, record_of
from study.jobs.verdict import GONE, End, judge, note_shortage
from study.measure.summaries import is_up_to_date, read_summary
from study.project import PROJECT
from trainer.problems import ConfigError

LONGEST_POLL_S = 60
"""Most seconds between two questions to Slurm."""

GLANCE_S = 1.0
"""Seconds between two looks at the notes of jobs that have ended."""

SECOND_POLL_S = 5
"""Seconds until Slurm is asked again about a job that may have ended."""

LAST_S = 8
"""Seconds after SIGTERM at which Snakemake is ended if it has not ended itself."""

TESTED = {"snakemake": "9.27", "snakemake-executor-plugin-slurm": "2.8"}
"""The versions that these classes extend, as pyproject.toml has them."""


def check_versions() -> None:
    """End the program if a package that is extended here has another version than tested."""
    for package, tested in TESTED.items():
        found = version(package)
        if not found.startswith(f"{tested}."):
            sys.exit(
                f"{package} {found}: study/jobs/executors.py extends its executor and was tested "
                f"with {tested} only. Run `pip install '{package}=={tested}.*'`, or run "
                "tests/slurm with it, then change TESTED and pyproject.toml."
            )


def install(grid: Grid) -> None:
    """Register the executors of a study."""
    check_versions()
    registry = ExecutorPluginRegistry()
    for name, executor in (("local", LocalExecutor), ("slurm", SlurmExecutor)):
        executor.grid = grid
        registry.get_plugin(name).executor = executor
    LocalExecutor.progress = LocalProgress()


def work_without_lock() -> None:
    """Have an invocation that trains nothing run beside one that does, as with `--nolock`.

    Whether the Snakefile's study is such a one is known too late for the option.
    """
    PersistenceBase.lock = PersistenceBase.noop


class LocalExecutor(Decisions, SnakemakeLocalExecutor):
    """Runs jobs on this machine."""

    progress: LocalProgress

    def report_job_success(self, job_info: Any) -> None:
        """Report a job that has ended with code 0, and after a training what is left."""
        super().report_job_success(job_info)
        cell = self.cell(job_info.job)
        if cell is not None and is_up_to_date(cell):
            say(self.progress.finished(cell))


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


class SlurmExecutor(Decisions, PluginExecutor):
    """Runs jobs through Slurm."""

    def __init__(self, workflow: Any, logger: Any) -> None:
        # Its own polling is not used: nothing is to be said about the command for it.
        workflow.executor_settings.status_command = None
        self.slurm_logdir = log_folder(self.grid)
        (self.slurm_logdir / ENDED).mkdir(parents=True, exist_ok=True)
        self._record = record_of(self.slurm_logdir)
        self._clusters: set[str | None] = {
            cluster.slurm.clusters for cluster in self.grid.study.clusters.values() if cluster.slurm
        }
        self._earlier: dict[str, tuple[Submission, QueuedJob]] = {}
        self._in_queue: dict[str, SubmittedJobInfo] = {}
        self._shown: set[Any] = set()
        self._seen_notes: dict[str, int] = {}
        self._next_poll = 0.0
        self._first_interval = workflow.executor_settings.init_seconds_before_status_checks or 20.0
        self._interval = self._first_interval
        self._leaving = threading.Event()
        self._limits: Callable[[str | None, str | None], int | None] = lambda account, qos: None
        self._doubtful = ""  # name and comment of a request that got no answer
        self.progress = Progress(self.grid)
        self._submissions = Submissions(
            self._submit,
            self._refused,
            active=lambda: Counter(info.aux["kind"] for info in list(self._in_queue.values())),
            most=workflow.resource_settings.nodes or sys.maxsize,
            limit=self._limit_of,
        )
        super().__init__(workflow, logger)  # starts the thread that polls

    def __post_init__(self, test_mode: bool = False) -> None:
        super().__post_init__(test_mode)
        self.slurm_logdir = log_folder(self.grid)

    # Before the first job.

    def learn_limits(self) -> None:
        """Learn from the accounting how many jobs this user may submit."""
        self._limits = find_submit_limits()

    def _limit_of(self, kind: Any) -> int | None:
        return self._limits(kind.slurm_account, kind.qos)

    def find_earlier_jobs(self) -> None:
        """Find the jobs of earlier invocations that are still in the queue, by one squeue."""
        self._earlier = self._record.find_queued(self._clusters)

    def prepare(self, job: Any) -> Prepared:
        """Return the sbatch command and the script of a job; raises WorkflowError."""
        validate_slurm_extra(job)
        comment = _comment(job)
        log = self.slurm_logdir / f"rule_{job.name}" / get_job_wildcards(job) / "%j.log"
        cell, name = self.cell(job), self._name(job)
        slurm = cell.cluster_config.slurm if cell else None
        if slurm is not None and slurm.output:
            log = Path(slurm.output).absolute()
        parameters = {
            "run_uuid": name,
            "slurm_logfile": log,
            "comment_str": comment,
            # The plugin would ask the accounting daemon about it; sbatch checks it itself.
            "account": _flag("-A", job.resources.get("slurm_account")),
            "partition": self.get_partition_arg(job),
            "workdir": self.workflow.workdir_init,
        }
        call = get_submit_command(job, parameters, settings=self.workflow.executor_settings)
        # The plugin's own check of a GPU type does not accept all that Slurm does.
        gres = job.resources.get("gres")
        call += f" --gres={shlex.quote(gres)}" if gres else set_gres_string(job)
        command = shlex.split(call)
        if slurm is not None and slurm.error:
            command.append(f"--error={Path(slurm.error).absolute()}")
        script = write_script(
            f"{name}: {comment}",
            self._command_of(job),
            workdir=Path(self.workflow.workdir_init),
            project=PROJECT,
            logs=self.slurm_logdir,
            inputs=map(str, job.input),
            folders=(str(Path(path).parent) for path in (*job.output, *job.log)),
            outputs=map(str, job.output),
            environment={
                "OMP_NUM_THREADS": str(job.resources.get("cpus_per_task") or job.threads),
                "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            },
            latency_s=self.workflow.execution_settings.latency_wait,
        )
        return Prepared(command, script, name, comment, job.resources.get("clusters"), log)

    def _command_of(self, job: Any) -> str:
        """Return a rule's shell command; of anything else, a Snakemake that runs it."""
        deployed = self.workflow.deployment_settings.deployment_method
        if job.is_group() or not job.is_shell or deployed:
            return self.format_job_exec(job)
        return str(job.shellcmd)

    def additional_general_args(self) -> str:
        """The executor of such a Snakemake: the script's own shell."""
        return "--executor local --jobs 1"

    def _name(self, job: Any) -> str:
        cell = self.cell(job)
        rest = f"{cell.model}/{cell.gpus}" if cell else str(job.name)
        return f"{self.grid.study.study[: max(8, 40 - len(rest))]}/{rest}"

    # Submission.

    def run_jobs(self, jobs: list[Any]) -> None:
        """Queue jobs for submission; first those that an earlier invocation has submitted.

        They are in Slurm's queue already, which others may only fill up.
        """
        for job in jobs:
            self._submissions.add(self._request(job), first=_comment(job) in self._earlier)

    def run_job(self, job: Any) -> None:
        """Queue one job for submission."""
        self.run_jobs([job])

    def _request(self, job: Any, reason: str = "") -> Request:
        return Request(job, self._kind(job), reason)

    def _kind(self, job: Any) -> Kind:
        return Kind(*(job.resources.get(name) for name in Kind._fields))

    def _submit(self, request: Request) -> Answer:
        job = request.job
        if job not in self._shown:
            self._shown.add(job)
            self.run_job_pre(job)
        try:
            prepared = self.prepare(job)
            if self._keep_earlier(job, prepared):
                return Answer(0, "", "")
            prepared.log.parent.mkdir(parents=True, exist_ok=True)
            answer = self._recover(prepared) or ask(prepared.command, stdin=prepared.script)
            if answer.code:
                self._doubtful = prepared.name + prepared.comment
                return answer
            self._doubtful = ""
            job_id = validate_or_get_slurm_job_id(answer.out.strip().split(";")[0], answer.out)
        except (WorkflowError, OSError) as error:
            return Answer(1, "", str(error))
        log = str(prepared.log).replace("%j", job_id)
        made = Submission(
            job_id, prepared.cluster, prepared.name, prepared.comment, prepared.digest, log
        )
        self._record.add(made)
        self._watch(job, made)
        if request.reason:
            cell = self.cell(job)
            where = cell.name if cell else prepared.comment
            say(f"{where}: {request.reason}, continues as Slurm job {job_id}.")
        else:
            say(f"Slurm job {job_id}: {prepared.comment} (log: {shorten(log)})")
        return answer

    def _recover(self, prepared: Prepared) -> Answer | None:
        """Find the job of a request whose answer was lost: it may have been accepted."""
        if self._doubtful != prepared.name + prepared.comment:
            return None
        listed = list_jobs({prepared.cluster})
        if listed is None:
            return Answer(1, "", "Unable to contact slurm controller")
        for (_, job_id), queued in listed.items():
            same = (queued.name, queued.comment) == (prepared.name, prepared.comment)
            if not same or queued.state not in ACTIVE or job_id in self._in_queue:
                continue
            # A study of the same name may be run from elsewhere, with other results.
            log = str(prepared.log).replace("%j", job_id)
            if find_output_file(job_id, prepared.cluster) == log:
                return Answer(0, job_id, "")
        return None

    def _refused(self, request: Request, message: str) -> None:
        give_up(request.job)  # the same request would be refused again
        said = f"Slurm refuses the job: {message}"
        super().report_job_error(SubmittedJobInfo(request.job), msg=said)

    def _keep_earlier(self, job: Any, prepared: Prepared) -> bool:
        """Keep an earlier invocation's job for the same work, if there is one; say so.

        One that runs is kept whatever its request was: its steps are not lost. One that waits with
        another request is cancelled.
        """
        known, queued = self._earlier.pop(prepared.comment, (None, None))
        if known is None or queued is None:
            return False
        if queued.state == "PENDING" and known.digest != prepared.digest:
            known.cancel()
            say(f"Slurm job {known.job_id} waited with an earlier request; it is replaced.")
            return False
        verb = "waits for its turn" if queued.state == "PENDING" else "still runs"
        say(
            f"Slurm job {known.job_id} of an earlier invocation {verb}: {known.comment}. "
            "It is kept."
        )
        self._watch(job, known, kept=True)
        return True

    def _watch(self, job: Any, made: Submission, kept: bool = False) -> None:
        cell = self.cell(job)
        before = find_summary(cell) if cell and not kept else None
        aux = {
            "slurm_logfile": Path(made.log),
            "cluster": made.cluster,
            "step": before.steps_done if before else 0,
            "attempts": len(before.attempts) if before else 0,
            "doubts": 0,
            "kept": kept,
            "kind": self._kind(job),
        }
        info = SubmittedJobInfo(job, external_jobid=made.job_id, aux=aux)
        self._in_queue[made.job_id] = info
        if cell is not None:
            _link(Path(made.log), Path(cell.folder, "slurm_logs", f"{made.job_id}.log"))
            self.progress.submitted(cell, made.job_id)
        self._next_poll = min(self._next_poll, time.monotonic() + self._first_interval)
        self.report_job_submission(info)

    # Polling.

    async def sleep(self) -> None:
        """Wait until Slurm is to be asked, a job has noted its end, or the executor is closed."""
        while self.wait and not self._leaving.is_set():
            await asyncio.sleep(GLANCE_S)
            if time.monotonic() >= self._next_poll or self._new_notes():
                return

    def _new_notes(self) -> dict[str, int]:
        """Return the jobs in the queue that have noted their end since the last look.

        Each with the time of its note: a job that Slurm requeues notes another end later.
        """
        found: dict[str, int] = {}
        try:
            entries = list(os.scandir(self.slurm_logdir / ENDED))
        except OSError:
            return found
        for entry in entries:
            if entry.name in self._in_queue:
                try:
                    changed = entry.stat().st_mtime_ns
                except OSError:
                    continue
                if self._seen_notes.get(entry.name) != changed:
                    found[entry.name] = changed
        return found

    async def check_active_jobs(self, active_jobs: list[Any]) -> AsyncIterator[Any]:
        """Yield the jobs that are still active, and settle the others."""
        if self._leaving.is_set():
            for info in active_jobs:
                yield info
            return
        noted = self._new_notes()
        self._seen_notes |= noted
        codes = {job_id: read_note(self.slurm_logdir, job_id) for job_id in noted}
        listed = None
        if active_jobs and (time.monotonic() >= self._next_poll or any(codes.values())):
            listed = list_jobs(self._clusters)
            self._interval = min(LONGEST_POLL_S, 1.5 * self._interval)
            self._next_poll = time.monotonic() + self._interval
            self.progress.polled(listed)
        for info in active_jobs:
            try:
                ended = self._find_end(info, listed, codes.get(info.external_jobid))
                if ended is None:
                    yield info
                else:
                    self._settle(info, ended)
            except ConfigError as error:  # run.json is malformed
                self._end(info)
                give_up(info.job)
                self.report_job_error(info, msg=str(error))
        self.progress.show(len(self._submissions))

    def _find_end(
        self,
        info: Any,
        listed: dict[tuple[str | None, str], QueuedJob] | None,
        code: int | None,
    ) -> str | None:
        """Return the state in which a job has ended; None while it is active."""
        if code == 0:
            return "COMPLETED"
        if listed is None:
            return None
        queued = listed.get((info.aux["cluster"], info.external_jobid))
        state = GONE if queued is None else queued.state
        if state in ACTIVE:
            info.aux["doubts"] = 0
            return None
        # For a moment, a job that Slurm requeues has the state that it was requeued for.
        if state in (GONE, "PREEMPTED", "NODE_FAIL"):
            info.aux["doubts"] += 1
            if info.aux["doubts"] < 2:
                self._next_poll = min(self._next_poll, time.monotonic() + SECOND_POLL_S)
                return None
        if state != GONE:
            return state
        code = read_note(self.slurm_logdir, info.external_jobid)
        if code == 0:
            return "COMPLETED"
        # A run that was cancelled saves, and its job notes an exit code like any other.
        recorded = find_recorded_state(info.external_jobid, info.aux["cluster"])
        if recorded and recorded not in ACTIVE:
            return recorded
        return GONE if code is None else "FAILED"

    def _settle(self, info: Any, state: str) -> None:
        """Do what follows from the end of a job."""
        job, cell = info.job, self.cell(info.job)
        self._end(info)
        log = info.aux["slurm_logfile"]
        summary = read_summary(cell.folder) if cell else None
        saved = (
            summary is not None
            and summary.attempts[-1].status == "preempted"
            and len(summary.attempts) > info.aux["attempts"]
        )
        end = End(
            state=state,
            complete=is_up_to_date(cell) if cell else state == "COMPLETED",
            saved_step=summary.steps_done if summary and saved else None,
            first_step=info.aux["step"],
            out_of_memory=state in ("FAILED", "OUT_OF_MEMORY") and ran_out_of_memory(log),
            kept=info.aux["kept"],
        )
        verdict = judge(end)
        if cell is not None and verdict.action != "done":
            note_shortage(cell.name, end)
        if verdict.action == "continue":
            job.attempt = job.attempt  # its resources are computed again
            self._submissions.add(self._request(job, verdict.reason), first=True)
        elif verdict.action == "done":
            if cell is not None:
                self.progress.finished(cell)
            self.report_job_success(info)
        else:
            lacks = self._what_its_node_lacks(info) if state == "FAILED" else ""
            if lacks or verdict.action == "give up":
                give_up(job)
            said = f"Slurm job {info.external_jobid} ended: {state}. {verdict.reason}".strip()
            message = f"{said}\n{lacks}" if lacks else said
            self.report_job_error(info, msg=message, aux_logs=[str(log)])

    def _end(self, info: Any) -> None:
        self._in_queue.pop(info.external_jobid, None)
        self._seen_notes.pop(info.external_jobid, None)
        self._interval = self._first_interval
        (self.slurm_logdir / ENDED / info.external_jobid).unlink(missing_ok=True)
        self._submissions.job_ended()

    def _what_its_node_lacks(self, info: Any) -> str:
        """Return what the node of a failed job does not see, for people; empty if it sees all."""
        log = info.aux["slurm_logfile"]
        code = find_exit_code(info.external_jobid, info.aux["cluster"])
        if code == NO_LOG and not log.exists():
            return (
                f"Its node cannot write to {log.parent}: expected `results_dir` "
                f"({self.grid.study.results_dir}) on a file system that the nodes mount."
            )
        if code == f"{OUT_OF_SIGHT}:0":
            return (
                f"Its node does not see the folder {self.workflow.workdir_init} or {PROJECT}: "
                "expected both, and the environment, on a file system that the nodes mount."
            )
        return ""

    # The end.

    def cancel(self) -> None:
        """Cancel all jobs, on Ctrl-C."""
        self._submissions.stop()
        self._submissions.join(timeout=5)
        super().cancel()

    def shutdown(self) -> None:
        """End the threads; jobs in the queue are left to Slurm."""
        self._submissions.stop()
        super().shutdown()

    def leave(self) -> None:
        """End Snakemake and leave the jobs to Slurm, on SIGTERM."""
        self._leaving.set()
        self._submissions.stop()
        abandon()
        jobs = ", ".join(sorted(self._in_queue, key=int))
        kept = f"Slurm jobs {jobs} go on" if jobs else "no job is in Slurm's queue"
        say(f"Ended by SIGTERM; {kept}. Start Snakemake again to continue.")
        self.wait = False
        self.workflow.scheduler.executor_error_callback(WorkflowError("ended by SIGTERM"))
        _terminate_children()
        time.sleep(LAST_S)
        # Still here: something waits for a file or for a child.
        self.workflow.persistence.unlock()
        os._exit(128 + signal.SIGTERM)


def exit_on_sigterm() -> None:
    """Have SIGTERM end Snakemake at once, before the first job and whatever Slurm is asked."""

    def leave(number: int, frame: object) -> None:
        sys.exit("Ended by SIGTERM; nothing was submitted.")

    signal.signal(signal.SIGTERM, leave)


def leave_on_sigterm(executor: SlurmExecutor) -> None:
    """Have SIGTERM end Snakemake within seconds, whatever it waits for; its jobs go on."""

    def leave(number: int, frame: object) -> None:
        threading.Thread(target=executor.leave, daemon=True).start()

    signal.signal(signal.SIGTERM, leave)


def _terminate_children() -> None:
    """Ask the local jobs to end: all processes below this one."""
    waiting = [os.getpid()]
    while waiting:
        for children in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            for pid in map(int, children.read_text().split()):
                waiting.append(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)


def _link(log: Path, link: Path) -> None:
    """Link a job's log in its run's folder, named by the job id; if that fails, say so."""
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(log.parent.resolve() / log.name, link.parent.resolve()))
    except OSError as error:
        say(f"{link}: cannot be created: {error.strerror or error}. It would link to {log}.")


def _comment(job: Any) -> str:
    """Return the comment of a job, by which a later invocation recognises it, and `watch`, which
    does not know what a rule is called in another repository."""
    name = "train" if is_training(job) else str(job.name)
    return comment_of(name, list(getattr(job, "wildcards", None) or ()))


def _flag(name: str, value: object) -> str:
    return f"{name} {shlex.quote(str(value))}" if value else ""
