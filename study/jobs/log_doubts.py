"""Whether the speeds and tokens in another trainer's log can be those of its run."""

from study.jobs.foreign_job import ForeignJob
from study.measure.entries import Entry

MOST_TIMES, SLACK_S = 2.0, 60.0
"""Steps may take so many times as long by the log as since the start, and so many seconds more."""

TOLERANCE, SLACK_STEPS = 0.05, 2
"""Share by which the tokens of a step may differ from the study's, and steps by which a log that
counts micro-batches may be off."""


class LogDoubts:
    """Compares what a log says with the clock and with the settings, as it grows."""

    def __init__(self, job: ForeignJob, done: int) -> None:
        """`done`: steps of earlier attempts, whose lines the log may have again."""
        self._tokens_per_step, self._done = job.tokens_per_step, done
        self._claimed_s = 0.0
        self._last: Entry | None = None
        self._base: tuple[int, int] | None = None
        """Steps and tokens from which they are counted."""
        self.problem: str | None = None
        """What cannot be; None as long as there is nothing."""

    def check(self, entry: Entry, came_s: float) -> None:
        """Note the next entry of the log, which came `came_s` after the start, s."""
        last, self._last = self._last, entry
        if self.problem is None and entry.step > self._done:
            self.problem = self._speed(entry, last, came_s) or self._tokens(entry)

    def _speed(self, entry: Entry, last: Entry | None, came_s: float) -> str | None:
        if last is None or entry.step <= last.step or entry.step_s is None or entry.paused:
            return None
        self._claimed_s += entry.step_s * (entry.step - last.step)
        if self._claimed_s <= MOST_TIMES * came_s + SLACK_S:
            return None
        return (
            f"by its log, the steps to {entry.step} have taken {self._claimed_s:,.0f} s, "
            f"{came_s:,.0f} s after the start; expected a speed in the unit of its name"
        )

    def _tokens(self, entry: Entry) -> str | None:
        if entry.tokens is None:
            return None
        if self._base is None or entry.step < self._base[0] or entry.tokens < self._base[1]:
            self._base = entry.step, entry.tokens
            return None
        steps, tokens = entry.step - self._base[0], entry.tokens - self._base[1]
        if abs(tokens / self._tokens_per_step - steps) <= TOLERANCE * steps + SLACK_STEPS:
            return None
        return (
            f"by its log, {steps} steps up to {entry.step} had {tokens:,} tokens; expected "
            f"{self._tokens_per_step:,} a step, as in the study"
        )
