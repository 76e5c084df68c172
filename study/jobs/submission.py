"""The queue in front of Slurm's: requests that wait for a free place, or for the controller.

A submit limit of an account, partition or QOS holds up the requests of the same kind only, until
jobs have ended. A moment without a controller holds up all of them. Neither counts as a failure.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from study.jobs.messages import say
from study.jobs.sbatch_answers import classify_refusal
from study.jobs.slurm_commands import Answer

SHORTEST_S = 2.0
LONGEST_S = 60.0
"""Bounds of the pause before another try; it doubles each time."""

PACE_S = 0.1
"""Least seconds between two submissions."""


@dataclass(frozen=True)
class Request:
    """A request to be submitted."""

    job: Any
    """What it is for."""
    kind: Hashable
    """What a submit limit applies to, such as an account and a QOS."""
    reason: str = ""
    """Why it is submitted again, for people."""


class _Pause:
    def __init__(self) -> None:
        self.end()

    def end(self) -> None:
        self.until, self._length = 0.0, SHORTEST_S

    def extend(self) -> None:
        self.until = time.monotonic() + self._length
        self._length = min(LONGEST_S, 2 * self._length)

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.until


class Submissions:
    """A thread that submits requests in their order, no more than `most` at a time."""

    def __init__(
        self,
        submit: Callable[[Request], Answer],
        refused: Callable[[Request, str], None],
        active: Callable[[], Counter[Hashable]],
        most: int,
        limit: Callable[[Hashable], int | None] = lambda kind: None,
        pace_s: float = 0.0,
    ) -> None:
        """`submit` asks sbatch; `refused` is told what Slurm will never accept.

        `active` counts the jobs in the queue by kind, and `limit` is the most of a kind. `pace_s`:
        seconds from one that sbatch has accepted to the next.
        """
        self._submit, self._refused, self._active = submit, refused, active
        self._most, self._limit, self._pace_s = most, limit, max(PACE_S, pace_s)
        self._waiting: deque[Request] = deque()
        self._pauses: dict[Hashable, _Pause] = {}
        self._outage: _Pause | None = None
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="submissions", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: Request, first: bool = False) -> None:
        """Add a request; `first`: before those that wait already."""
        with self._changed:
            (self._waiting.appendleft if first else self._waiting.append)(request)
            self._changed.notify()

    def job_ended(self) -> None:
        """A place has become free: try at once."""
        with self._changed:
            for pause in self._pauses.values():
                pause.end()
            self._changed.notify()

    def stop(self) -> None:
        """Submit nothing more."""
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            self._changed.notify()

    def join(self, timeout: float) -> None:
        """Wait for a submission that is under way."""
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and (request := self._next()) is None:
                    self._changed.wait(1.0)
                if self._stopped:
                    return
            assert request is not None
            pause_s = self._pace_s if self._try(request) else PACE_S
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, pause_s)

    def _next(self) -> Request | None:
        """Take the first request that is not held up."""
        if not self._waiting:
            return None
        active = self._active()
        if active.total() >= self._most:
            return None
        if self._outage is not None and not self._outage.is_over:
            return None
        held_up = set()
        for index, request in enumerate(self._waiting):
            if request.kind in held_up:
                continue
            pause, limit = self._pauses.get(request.kind), self._limit(request.kind)
            full = limit is not None and active[request.kind] >= limit
            if full or not (pause is None or pause.is_over):
                held_up.add(request.kind)
            else:
                del self._waiting[index]
                return request
        return None

    def _try(self, request: Request) -> bool:
        """Submit a request; return whether sbatch has accepted it."""
        answer = self._submit(request)
        if self._stopped:
            return False
        if answer.code == 0:
            if self._outage is not None:
                say("Slurm's controller answers again.")
            self._outage = None
            return bool(answer.out)  # nothing is submitted for a job that is kept
        meaning = classify_refusal(answer.message)
        if meaning == "refused":
            self._refused(request, answer.message)
            return False
        with self._changed:
            self._waiting.appendleft(request)
            if meaning == "limit":
                self._hold_up(request, answer.message)
            else:
                self._hold_up_all(answer.message)
        return False

    def _hold_up(self, request: Request, message: str) -> None:
        if request.kind not in self._pauses:
            self._pauses[request.kind] = _Pause()
            say(
                f"Slurm accepts no more jobs now ({message.partition(';')[0]}); {len(self)} wait "
                "here until others have ended."
            )
        self._pauses[request.kind].extend()

    def _hold_up_all(self, message: str) -> None:
        if self._outage is None:
            self._outage = _Pause()
            say(f"Slurm does not answer ({message}); trying again.")
        self._outage.extend()
