"""Whether the speeds and tokens in another trainer's log can be those of its run."""

from study.jobs.foreign_job import ForeignJob
from study.measure.entries import Entry

MOST_TIMES, SLACK_S = 2.0, 60.0
"""Steps may take so many times as long by the log as since the start, and so many seconds more."""

TOLERANCE = 0.05
"""Share by which the tokens of a step may differ from the study's."""


class LogDoubts:
    """Compares what a log says with the clock and with the settings, as it grows."""

    def __init__(self, job: ForeignJob) -> None:
        self._job = job
        self._claimed_s = 0.0
        self._last: Entry | None = None
        self.problem: str | None = None
        """What cannot be; None as long as there is nothing."""

    def check(self, entry: Entry, came_s: float) -> None:
        """Note the next entry of the log, which came `came_s` after the start, s."""
        last, self._last = self._last, entry
        if last is None or entry.step <= last.step or self.problem is not None:
            return
        steps = entry.step - last.step
        if entry.step_s is not None and not entry.paused:
            self._claimed_s += entry.step_s * steps
        if self._claimed_s > MOST_TIMES * came_s + SLACK_S:
            self.problem = (
                f"by its log, the steps to {entry.step} have taken {self._claimed_s:,.0f} s, "
                f"{came_s:,.0f} s after the start; expected a speed in the unit of its name"
            )
        elif entry.tokens is not None and last.tokens is not None:
            tokens, expected = (entry.tokens - last.tokens) / steps, self._job.tokens_per_step
            if abs(tokens - expected) > TOLERANCE * expected:
                self.problem = (
                    f"by its log, a step before {entry.step} has {tokens:,.0f} tokens; expected "
                    f"{expected:,}, as in the study"
                )
