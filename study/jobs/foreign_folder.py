"""The run's folder of another trainer: run.json and the records, written from its log as ours are.

The records of an attempt begin with the first step that its log names: earlier records of the same
steps are dropped, as after a resume of our own trainer.
"""

import math
import resource
import socket
import statistics
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from study.jobs.foreign_job import DESCRIPTION, ForeignJob
from study.jobs.gpu_watch import GpuWatch
from study.jobs.log_doubts import LogDoubts
from study.measure.entries import Entry, Event, Lines, Validation
from study.measure.foreign_logs import live_format
from study.measure.training_log import has_multiple
from study.points import COMPLETED, LOGS
from study.terms import SETTINGS_FILE
from trainer.files import move_aside, write_atomically
from trainer.folder.record_file import RecordFile
from trainer.folder.run_file import RunFile, find_summary, now
from trainer.host import count_cores, processor_name
from trainer.records import (
    CONFIG,
    EVALUATIONS,
    FAILURE,
    METRICS,
    Attempt,
    Evaluation,
    Layout,
    Outcome,
    Record,
    RunSummary,
    Status,
    Versions,
    finite,
)

NOT_OF_A_RUN = (
    *(".lock", DESCRIPTION, SETTINGS_FILE, FAILURE, *LOGS, "slurm_logs", "superseded", COMPLETED),
    "autotune.yaml",
)
"""What the study itself keeps in a run's folder, and an earlier run leaves there."""

KIB_PER_GIB = 2**20


def set_aside(folder: Path, job: ForeignJob, why: str) -> None:
    """Move the files of an earlier attempt, and all that its trainer wrote into the folder, to
    `superseded/<n>`."""
    kept = {*NOT_OF_A_RUN, *([Path(job.config.file).name] if job.config else [])}
    old = [path for path in sorted(folder.iterdir()) if path.name not in kept]
    if old:
        print(f"{folder}: {why}; the earlier files are in {move_aside(old)}", flush=True)


class ForeignFolder:
    """The files of a run during one attempt."""

    def __init__(
        self,
        folder: Path,
        job: ForeignJob,
        previous: Sequence[Attempt],
        gpus: GpuWatch,
        elapsed_s: Callable[[], float],
    ) -> None:
        """`previous`: the earlier attempts of this run; `elapsed_s`: since this one started."""
        self._folder, self._job, self._gpus, self._elapsed_s = folder, job, gpus, elapsed_s
        settings = folder / SETTINGS_FILE
        if settings.exists():
            write_atomically(folder / CONFIG, settings.read_bytes())
        attempt = Attempt(
            attempt=1,  # RunFile numbers it
            start=now(),
            fingerprint=job.fingerprint,
            gpus=job.gpus,
            hosts=(socket.gethostname(),),
        )
        earlier = find_summary(folder)
        self._file = RunFile(folder, _summarize(job, attempt, gpus, earlier), previous, elapsed_s)
        live = live_format(job.log)
        self._marks_saves = isinstance(live, Lines) and live.marks_saves
        self._records: RecordFile | None = None
        self._evaluations: RecordFile | None = None
        self._base_s = 0.0  # of earlier attempts, up to the step at which this one goes on
        self._last = 0
        """Step of the last record."""
        self._longest = 0
        """Steps of the longest interval."""
        self._goes_back = False
        """Since the last record, steps have been taken again: the trainer has started anew."""
        self._first: tuple[float, int] | None = None
        """When the first record came, s since the start, and its number of steps; of several that
        came together, those of all."""
        self._steady: list[float] = []
        self._seen_s = 0.0
        self._clock_s: float | None = None  # the trainer's own clock at the last entry
        self._peak_gib: float | None = None
        self.diverged = False
        """The last loss is not finite; the last record is the first of such."""
        self.doubts = LogDoubts(job, done=earlier.steps_done if earlier else 0)

    @property
    def last_step(self) -> int:
        """The last recorded step of this attempt; 0 without any."""
        return self._last if self._first is not None else 0

    @property
    def all_steps_done(self) -> bool:
        """Whether the log goes up to the last step, or so near that the next record would be
        beyond it."""
        return self._first is not None and self._last + self._longest > self._job.steps - 1

    def note(self, events: Sequence[Event]) -> None:
        """Write what a log tells, all of which has come since the last time."""
        now = self._elapsed_s()
        for at_s, together in groupby(events, lambda event: event.came_s):
            came_s = now if at_s is None else at_s
            batch = list(together)
            entries = [event for event in batch if isinstance(event, Entry)]
            paused = self._share_pauses(entries)
            moments = iter(self._moments(entries, came_s))
            for event in batch:
                if isinstance(event, Entry):
                    self._record(event, next(moments), paused)
                    self.doubts.check(event, came_s)
                else:
                    self._evaluated(event, came_s)

    def _share_pauses(self, entries: Sequence[Entry]) -> bool:
        """Whether entries that came together share their time, and with it the pause of one."""
        if len(entries) < 2 or any(map(_has_time, entries)):
            return False
        return any(e.paused for e in entries) or self._saves_before(entries[-1].step)

    def _moments(self, entries: Sequence[Entry], came_s: float) -> list[float]:
        """Return when each of some entries that came together was written, s since the start of the
        attempt.

        The last one when they came, the others before it by the times in the log. If the log has
        none, all steps since the last record took the same time: a trainer may write many lines at
        once.
        """
        steps = entries[-1].step - self._last if entries else 0
        if self._first is not None and steps > 0 and not any(map(_has_time, entries)):
            step_s = (came_s - self._seen_s) / steps
            return [max(came_s - step_s * (entries[-1].step - e.step), 0.0) for e in entries]
        moment, found = came_s, list[float]()
        later: Entry | None = None
        for entry in reversed(entries):
            if later is not None:
                if entry.elapsed_s is not None and (later.elapsed_s or 0.0) > entry.elapsed_s:
                    moment -= (later.elapsed_s or 0.0) - entry.elapsed_s
                else:
                    moment -= (later.step_s or 0.0) * max(0, later.step - entry.step)
            found.append(max(moment, self._seen_s))
            later = entry
        return found[::-1]

    def _record(self, entry: Entry, moment_s: float, paused: bool) -> None:
        if self._records is None and entry.step > 0:
            self._begin(entry.step)
        if entry.step <= self._last:  # another rank's, or from before the first step
            self._goes_back |= entry.step < self._last and self._first is not None
            return
        if self.diverged and (entry.loss is None or not math.isfinite(entry.loss)):
            return
        steps = entry.step - self._last
        step_s, in_pause = self._step_time(entry, steps, moment_s)
        came_first = self._first is not None and not _has_time(entry) and moment_s == self._first[0]
        paused = paused or in_pause or self._goes_back or came_first
        assert self._records is not None
        self._records.write(self._to_record(entry, steps, step_s, paused, moment_s))
        if self._first is None or came_first:
            self._first = (moment_s, steps + (self._first[1] if self._first else 0))
        elif not paused:
            self._steady.append(step_s)
        self._last, self._longest = entry.step, max(self._longest, steps)
        self._seen_s, self._clock_s, self._goes_back = moment_s, entry.elapsed_s, False
        self.diverged = entry.loss is not None and not math.isfinite(entry.loss)
        if entry.memory_gib is not None:
            self._peak_gib = max(entry.memory_gib, self._peak_gib or 0.0)
        self._file.note(
            steps_done=entry.step,
            loss_final=finite(entry.loss),
            gpu_conditions=self._gpus.conditions,
            peak_memory_gib=self._peak_gib or self._gpus.peak_memory_gib,
        )
        if len(self._steady) == 1 or self._first[1] == 1:
            self._write_startup()

    def _to_record(
        self, entry: Entry, steps: int, step_s: float, paused: bool, moment_s: float
    ) -> Record:
        job = self._job
        per_s = finite(job.tokens_per_step / step_s) if step_s > 0 else None
        return Record(
            step=entry.step,
            loss=finite(entry.loss),
            rate=finite(entry.rate),
            grad_norm=finite(entry.grad_norm),
            tokens=entry.tokens or entry.step * job.tokens_per_step,
            reserved_gib=finite(entry.memory_gib),
            tokens_per_s_per_gpu=per_s and per_s / job.gpus,
            tokens_per_s=per_s,
            elapsed_s=self._base_s + moment_s,
            step_s=step_s,
            interval_steps=steps,
            paused=paused,
            attempt=self._file.attempt.attempt,
        )

    def _begin(self, step: int) -> None:
        """Open the records of this attempt, whose first interval ends at a step."""
        self._records = RecordFile(self._folder / METRICS, step - 1)
        self._evaluations = RecordFile(self._folder / EVALUATIONS, step - 1)
        last = self._records.last
        self._last = last.get("global_step", 0)
        self._base_s = last.get("time/elapsed_s", 0.0)
        self._file.write_attempt(first_step=self._last + 1)

    def _step_time(self, entry: Entry, steps: int, moment_s: float) -> tuple[float, bool]:
        """Return the mean step time, s, and whether it includes a pause."""
        saved = self._saves_before(entry.step)
        if entry.step_s is not None:
            return entry.step_s, entry.paused or (saved and not self._marks_saves)
        clock_s, before_s = entry.elapsed_s, self._clock_s
        if clock_s is not None and before_s is not None and clock_s > before_s:
            return (clock_s - before_s) / steps, entry.paused or saved
        # A clock that has gone back is that of a new start.
        restarted = clock_s is not None and before_s is not None
        seen_s = moment_s - self._seen_s
        return max(0.0, seen_s) / steps, entry.paused or saved or restarted or seen_s <= 0

    def _saves_before(self, step: int) -> bool:
        """Whether a checkpoint is saved between the last record and a step."""
        every = self._job.saves_every
        return every is not None and has_multiple(self._last, step - 1, every)

    def _write_startup(self) -> None:
        """Write the time to the end of the first step, if it was recorded.

        The log tells of it with the first interval, so the other steps of that one are subtracted,
        at the speed of later ones.
        """
        if self._first is None:
            return
        moment_s, steps = self._first
        startup = {"first_record_s": moment_s}
        if steps == 1:
            startup["total_s"] = moment_s
        elif self._steady:
            later_s = (steps - 1) * statistics.median(self._steady)
            if later_s < moment_s:
                startup["total_s"] = moment_s - later_s
        self._file.write_attempt(startup=startup)

    def _evaluated(self, validation: Validation, came_s: float) -> None:
        if validation.step < 1:
            return  # of the model before training
        if self._evaluations is None:
            self._begin(validation.step + 1)
        assert self._evaluations is not None
        if validation.step <= self._evaluations.last.get("global_step", 0):
            return
        evaluation = Evaluation(
            step=validation.step,
            loss=finite(validation.loss),
            bits_per_byte=finite(validation.bits_per_byte),
            elapsed_s=self._base_s + came_s,
            attempt=self._file.attempt.attempt,
        )
        self._evaluations.write(evaluation)
        self._evaluations.last = evaluation.to_dict()
        self._file.write(loss_validation=evaluation.loss)

    def end(self, status: Status, outcome: Outcome | None = None) -> None:
        """Write the end of the attempt."""
        self._write_startup()
        self._file.end(
            status,
            outcome=outcome,
            gpu_conditions=self._gpus.conditions,
            peak_memory_gib=self._peak_gib or self._gpus.peak_memory_gib or self._resident_gib(),
        )
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in (self._records, self._evaluations):
            if file is not None:
                file.close()

    def _resident_gib(self) -> float | None:
        """Return the peak resident memory of the largest process of the command, GiB."""
        if self._job.device == "cuda":
            return None
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / KIB_PER_GIB


def _summarize(
    job: ForeignJob, attempt: Attempt, gpus: GpuWatch, earlier: RunSummary | None
) -> RunSummary:
    """Return run.json at the start of an attempt; `earlier`: of the attempt that it resumes."""
    return RunSummary(
        status="running",
        name=job.name,
        params=job.params,
        device=job.device,
        gpu_name=gpus.name if job.device == "cuda" else processor_name(),
        gpus=job.gpus,
        nodes=job.nodes,
        hosts=attempt.hosts,
        layout=Layout(),
        machine_cores=count_cores(),
        choices=job.choices,
        versions=Versions(),
        trainer_version=job.version,
        fingerprint=job.fingerprint,
        steps_done=earlier.steps_done if earlier else 0,
        loss_final=earlier.loss_final if earlier else None,
        loss_validation=earlier.loss_validation if earlier else None,
        attempts=(attempt,),
    )


def _has_time(entry: Entry) -> bool:
    """Whether the log has a speed or a time for an entry."""
    return entry.step_s is not None or entry.elapsed_s is not None
