"""Snakemake's Slurm executor, extended: runs jobs through Slurm.

It submits the rules' commands as plain batch scripts, waits where Slurm has a submit limit or does
not answer, decides what becomes of a job that has ended, and keeps the jobs of an earlier
invocation.

It overrides methods that the executor interface declares (snakemake-interface-executor-plugins).
Of the plugin itself it uses the command that it makes of a job's resources.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_slurm import Executor as PluginExecutor
from snakemake_executor_plugin_slurm.utils import get_job_wildcards
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from study.jobs.decisions import Decisions, give_up
from study.jobs.ended_job import describe_end, logs_of
from study.jobs.flags import find_pace
from study.jobs.grants import Grants
from study.jobs.interruption import terminate_children
from study.jobs.job_script import ENDED, show_logs, what_node_lacks, write_script
from study.jobs.messages import say, shorten
from study.jobs.progress import Progress
from study.jobs.sbatch_answers import classify_refusal, find_submit_limits
from study.jobs.slurm_commands import Answer, abandon, ask
from study.jobs.slurm_jobs import (
    NEEDS_LESS_TIME,
    QueuedJob,
    by_age,
    cancel_jobs,
    find_exit_code,
    find_output_file,
    list_jobs,
)
from study.jobs.slurm_queue import SECOND_POLL_S, Look, SlurmQueue, WatchedJob
from study.jobs.slurm_request import (
    Prepared,
    check_extra,
    cluster_of,
    comment_of_job,
    error_file,
    escape,
    kind_of,
    sbatch_command,
)
from study.jobs.submission import Request, Submissions
from study.jobs.submitted import Found, Submission, link_log, log_folder, make_folder, record_of
from study.jobs.verdict import judge, note_shortage
from study.measure.summaries import is_up_to_date
from study.project import PROJECT
from trainer.folder.run_file import find_summary
from trainer.problems import ConfigError

GLANCE_S = 1.0
"""Seconds between two looks at the notes of jobs that have ended."""

WAY_TO_SLURM = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
"""Variables by which Slurm's commands find their cluster; they are not those of a job."""

LAST_S = 8
"""Seconds after SIGTERM or SIGHUP at which Snakemake is ended if it has not ended itself."""


class SlurmExecutor(Decisions, PluginExecutor):
    """Runs jobs through Slurm."""

    def __init__(self, workflow: Any, logger: Any) -> None:
        # Its own polling is not used: nothing is to be said about the command for it.
        workflow.executor_settings.status_command = None
        self.slurm_logdir = log_folder(self.grid)
        make_folder(self.slurm_logdir / ENDED)
        self._record = record_of(self.slurm_logdir)
        self._earlier: dict[str, Found] = {}
        first_poll_s = workflow.executor_settings.init_seconds_before_status_checks or 20.0
        self._queue = SlurmQueue(self.slurm_logdir, first_poll_s)
        self._shown: set[Any] = set()
        self._leaving = threading.Event()
        self._limits: Callable[[str | None, str | None], int | None] = lambda account, qos: None
        self._doubtful: set[str] = set()  # comments of requests that got no answer
        self._grants = Grants()
        self.progress = Progress(self.grid)
        self._submissions = Submissions(
            self._submit,
            self._refused,
            active=lambda: Counter(info.kind for info in list(self._queue.jobs.values())),
            most=workflow.resource_settings.nodes or sys.maxsize,
            limit=self._limit_of,
            pace_s=find_pace(workflow),
        )
        known = {name: os.environ[name] for name in WAY_TO_SLURM if name in os.environ}
        # Starts the thread that polls; within a job, the plugin unsets all variables of Slurm.
        super().__init__(workflow, logger)
        os.environ.update(known)

    def __post_init__(self, test_mode: bool = False) -> None:
        super().__post_init__(test_mode)
        self.slurm_logdir = log_folder(self.grid)

    # Before the first job.

    def learn_limits(self) -> None:
        """Learn from the accounting how many jobs this user may submit."""
        self._limits = find_submit_limits()

    def _limit_of(self, kind: Any) -> int | None:
        return self._limits(kind.slurm_account, kind.qos)

    def find_earlier_jobs(self, jobs: Iterable[Any]) -> None:
        """Find the jobs of earlier invocations that are still in the queue, by one squeue.

        `jobs`: those of this invocation. Raises WorkflowError if Slurm does not answer.
        """
        self._earlier = self._record.find_queued({comment_of_job(job) for job in jobs})

    def prepare(self, job: Any) -> Prepared:
        """Return the sbatch command and the script of a job; raises WorkflowError."""
        check_extra(job)
        comment = comment_of_job(job)
        log = self.slurm_logdir / f"rule_{job.name}" / get_job_wildcards(job) / "%j.log"
        cell, name, cluster = self.cell(job), self._name(job), cluster_of(job)
        slurm = cell.cluster_config.slurm if cell else None
        if slurm is not None and slurm.output:
            log = Path(slurm.output).absolute()
        parameters = {
            "run_uuid": name,
            "slurm_logfile": escape(log),
            "comment_str": comment,
            "partition": self.get_partition_arg(job),
            "workdir": self.workflow.workdir_init,
        }
        command = sbatch_command(job, parameters, slurm, self.workflow.executor_settings)
        script = write_script(
            f"{name}: {comment}",
            self._command_of(job),
            workdir=Path(self.workflow.workdir_init),
            project=PROJECT,
            logs=self.slurm_logdir,
            cluster=cluster,
            inputs=map(str, job.input),
            folders=(str(Path(path).parent) for path in (*job.output, *job.log)),
            outputs=map(str, job.output),
            environment={
                "OMP_NUM_THREADS": str(job.resources.get("cpus_per_task") or job.threads),
                "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            },
            latency_s=self.workflow.execution_settings.latency_wait,
        )
        return Prepared(command, script, name, comment, cluster, log, error_file(slurm))

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
            self._submissions.add(self._request(job), first=comment_of_job(job) in self._earlier)

    def run_job(self, job: Any) -> None:
        """Queue one job for submission."""
        self.run_jobs([job])

    def _request(self, job: Any, reason: str = "") -> Request:
        return Request(job, kind_of(job), reason)

    def _submit(self, request: Request) -> Answer:
        """Ask sbatch for a job, unless one of an earlier invocation does the same work."""
        job = request.job
        if job not in self._shown:
            self._shown.add(job)
            self.run_job_pre(job)
        self.note_earlier_failure(job)
        try:
            prepared = self._grants.limit(self.prepare(job))
            if self._keep_earlier(job, prepared):
                return Answer(0, "", "")
            for file in filter(None, (prepared.log, prepared.error)):
                file.parent.mkdir(parents=True, exist_ok=True)
            answer, prepared, grown_from = self._ask(prepared)
            if answer.code:
                self._doubtful.add(prepared.comment)
                return answer
            self._doubtful.discard(prepared.comment)
            made = prepared.accepted(answer.out)
        except (WorkflowError, OSError) as error:
            return Answer(1, "", str(error))
        self._grants.accept(prepared)
        self._record.add(made)
        self._watch(job, made, grown_from=grown_from)
        if request.reason:
            cell = self.cell(job)
            where = cell.name if cell else made.comment
            say(f"{where}: {request.reason}, continues as Slurm job {made.label}.")
        else:
            say(f"Slurm job {made.label}: {made.comment} (log: {shorten(made.log)})")
        return answer

    def _ask(self, prepared: Prepared) -> tuple[Answer, Prepared, int | None]:
        """Ask sbatch for a job; if it refuses one whose request has grown, for one as before.

        Return its answer, the job that was asked for, and the minutes that this has grown from.
        """
        answer = self._recover(prepared) or ask(prepared.command, stdin=prepared.script)
        before = self._grants.before(prepared)
        if before is None or not self._is_refused(answer):
            return answer, prepared, before
        self._grants.refuse(prepared.comment, before, answer.message)
        prepared = prepared.within(before)
        return ask(prepared.command, stdin=prepared.script), prepared, None

    def _recover(self, prepared: Prepared) -> Answer | None:
        """Find the job of a request whose answer was lost: it may have been accepted."""
        if prepared.comment not in self._doubtful:
            return None
        listed = list_jobs(prepared.cluster.split(",") if prepared.cluster else [None])
        if listed.silent:
            return Answer(1, "", "Unable to contact slurm controller")
        for (cluster, job_id), queued in listed.jobs.items():
            same = (queued.name, queued.comment) == (prepared.name, prepared.comment)
            if not same or not queued.is_active or queued.label in self._queue.jobs:
                continue
            # A study of the same name may be run from elsewhere, with other results.
            log = prepared.log_of(job_id)
            if find_output_file(job_id, cluster) == log:
                return Answer(0, ";".join(filter(None, (job_id, cluster))), "")
        return None

    def _is_refused(self, answer: Answer) -> bool:
        refused = answer.code and classify_refusal(answer.message) == "refused"
        return bool(refused and answer.message and not self._leaving.is_set())

    def _refused(self, request: Request, message: str) -> None:
        give_up(request.job)  # the same request would be refused again
        said = f"Slurm refuses the job: {message}"
        super().report_job_error(SubmittedJobInfo(request.job), msg=said)

    def _keep_earlier(self, job: Any, prepared: Prepared) -> bool:
        """Keep an earlier invocation's job for the same work, if there is one; say so.

        One that runs is kept whatever its request was: its steps are not lost. One that waits with
        another request is cancelled, unless another Snakemake here waits for it.
        """
        known, queued = self._earlier.pop(prepared.comment, (None, None))
        if known is None or queued is None:
            return False
        is_outdated = queued.state == "PENDING" and known.digest != prepared.digest
        if is_outdated and known.is_ours and not known.is_watched:
            known.cancel()
            say(f"Slurm job {known.label} waited with an earlier request; it is replaced.")
            return False
        verb = "waits for its turn" if queued.state == "PENDING" else "still runs"
        whose = "an earlier invocation" if known.is_ours else f"user {known.user}"
        say(f"Slurm job {known.label} of {whose} {verb}: {known.comment}. It is kept.")
        self._watch(job, known, kept=True)
        return True

    def _watch(
        self, job: Any, made: Submission, kept: bool = False, grown_from: int | None = None
    ) -> None:
        cell = self.cell(job)
        info = WatchedJob(
            *(job, made.job_id),
            made=made,
            cell=cell,
            kind=kind_of(job),
            kept=kept,
            grown_from=grown_from,
        )
        self._queue.add(info)
        if cell is not None:
            info.before = find_summary(cell.folder)
            link_log(made, Path(cell.folder))
            self.progress.submitted(cell, made.label)
        self.report_job_submission(info)

    # Polling.

    async def sleep(self) -> None:
        """Wait until Slurm is to be asked, a job has noted its end, or the executor is closed."""
        while self.wait and not self._leaving.is_set():
            await asyncio.sleep(GLANCE_S)
            if self._queue.is_due():
                return

    async def check_active_jobs(self, active_jobs: list[Any]) -> AsyncIterator[Any]:
        """Yield the jobs that are still active, and settle the others."""
        if self._leaving.is_set():
            for info in active_jobs:
                yield info
            return
        seen = self._queue.look(active_jobs)
        active_jobs = [info for info in active_jobs if not self._asks_for_less(info, seen)]
        if seen.listed is not None:
            self.progress.polled(seen.listed)
        for info in active_jobs:
            try:
                ended = self._queue.find_end(info, seen)
                if ended is None or self._may_be_late(info, ended):
                    yield info
                else:
                    self._settle(info, ended, seen.queued(info))
            except ConfigError as error:  # run.json is malformed
                self._end(info)
                give_up(info.job)
                self.report_job_error(info, msg=str(error))
        self.progress.show(len(self._submissions))

    def _may_be_late(self, info: WatchedJob, ended: str) -> bool:
        """Return whether what a job has written at its end may still appear here.

        A network file system may hide a new file for as long as it keeps a folder's attributes.
        """
        cell = info.cell
        if ended != "COMPLETED" or cell is None or info.kept or is_up_to_date(cell):
            return False
        info.ended = time.monotonic() if info.ended is None else info.ended
        self._queue.poll_within(SECOND_POLL_S)
        wait_s: float = self.workflow.execution_settings.latency_wait
        return time.monotonic() - info.ended < wait_s

    def _asks_for_less(self, info: WatchedJob, seen: Look) -> bool:
        """Replace a job that waits in vain, as it asks for more time than one of its cell before;
        return whether it was replaced."""
        queued, minutes, made = seen.queued(info), info.grown_from, info.made
        if minutes is None or queued is None or queued.state != "PENDING":
            return False
        if not NEEDS_LESS_TIME.search(queued.reason):
            return False
        self._grants.refuse(made.comment, minutes, queued.reason)
        cancel_jobs([made.job_id], made.cluster)
        self._end(info)
        self.progress.replaced(made.label)
        reason = f"Slurm job {made.label} would never have started"
        self._submissions.add(self._request(info.job, reason), first=True)
        return True

    def _settle(self, info: WatchedJob, state: str, queued: QueuedJob | None) -> None:
        """Do what follows from the end of a job."""
        job, cell = info.job, info.cell
        self._end(info)
        end = describe_end(info, state, queued)
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
            lacks = self._what_its_node_lacks(info.made) if state == "FAILED" else ""
            if lacks or verdict.action == "give up":
                give_up(job)
            said = f"Slurm job {info.made.label} ended: {state}. {verdict.reason}".strip()
            shown = show_logs(logs_of(info), getattr(job, "log", ()))
            message = "\n".join(filter(None, [said, lacks, shown]))
            self.report_job_error(info, msg=message)

    def _end(self, info: WatchedJob) -> None:
        self._queue.remove(info)
        self._submissions.job_ended()

    def _what_its_node_lacks(self, made: Submission) -> str:
        """Return what the node of a failed job does not see, for people; empty if it sees all."""
        return what_node_lacks(
            find_exit_code(made.job_id, made.cluster),
            log=Path(made.log),
            folders=(self.workflow.workdir_init, PROJECT, self.slurm_logdir.parent),
            results=self.grid.study.results_dir,
        )

    # The end.

    def cancel(self) -> None:
        """Cancel all jobs, on Ctrl-C."""
        self._submissions.stop()
        self._submissions.join(timeout=5)
        super().cancel()

    def cancel_jobs(self, active_jobs: list[Any]) -> None:
        """Cancel this user's jobs by one scancel for each Slurm cluster."""
        ours = [info.made for info in active_jobs if info.made.is_ours]
        for cluster in {made.cluster for made in ours}:
            ids = sorted(made.job_id for made in ours if made.cluster == cluster)
            problem = cancel_jobs(ids, cluster)
            if problem:
                place = f" on Slurm cluster {cluster}" if cluster else ""
                say(f"Slurm jobs {', '.join(ids)}{place} may still run: scancel: {problem}")

    def shutdown(self) -> None:
        """End the threads; jobs in the queue are left to Slurm."""
        self._submissions.stop()
        super().shutdown()

    def leave(self, received: signal.Signals) -> None:
        """End Snakemake and leave the jobs to Slurm, on SIGTERM or SIGHUP."""
        self._leaving.set()
        self._submissions.stop()
        abandon()
        jobs = ", ".join(sorted(self._queue.jobs, key=by_age))
        kept = f"Slurm jobs {jobs} go on" if jobs else "no job is in Slurm's queue"
        with contextlib.suppress(OSError):  # the terminal may be gone
            say(f"Ended by {received.name}; {kept}. Start Snakemake again to continue.")
        self.wait = False
        self.workflow.scheduler.executor_error_callback(WorkflowError(f"ended by {received.name}"))
        terminate_children()
        time.sleep(LAST_S)
        # Still here: something waits for a file or for a child.
        self.workflow.persistence.unlock()
        os._exit(128 + received)
