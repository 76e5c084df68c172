"""The queue in front of Slurm's, with an sbatch that answers as it is told."""

import threading
import time
from collections import Counter
from itertools import pairwise

import pytest

from study.jobs import submission
from study.jobs.slurm_commands import Answer
from study.jobs.submission import Request, Submissions
from tests.waiting import PATIENCE_S, wait_until

LIMIT = Answer(1, "", "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job ...")
AWAY = Answer(1, "", "sbatch: error: Unable to contact slurm controller (connect failure)")
REFUSED = Answer(1, "", "sbatch: error: Invalid qos specification")
ACCEPTED = Answer(0, "1", "")


class Slurm:
    """An sbatch with answers to come; then it accepts."""

    def __init__(self, *answers: Answer, kinds: dict[str, list[Answer]] | None = None) -> None:
        self.answers, self.kinds = list(answers), kinds or {}
        self.asked: list[str] = []
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self.active = 0

    def submit(self, request: Request) -> Answer:
        self.asked.append(request.job)
        answers = self.kinds.get(str(request.kind), self.answers)
        answer = answers.pop(0) if answers else ACCEPTED
        if answer.code == 0:
            self.accepted.append(request.job)
        return answer

    def refuse(self, request: Request, message: str) -> None:
        self.refused.append(f"{request.job}: {message}")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "SHORTEST_S", 0.05)
    monkeypatch.setattr(submission, "PACE_S", 0.0)


def started(slurm: Slurm, most: int = 100) -> Submissions:
    return Submissions(slurm.submit, slurm.refuse, lambda: Counter({"one": slurm.active}), most)


def test_submissions_keep_to_a_pace_which_jobs_that_are_kept_do_not_count_for() -> None:
    kept = Answer(0, "", "")
    slurm, times = Slurm(kept, kept, ACCEPTED), []

    def submit(request: Request) -> Answer:
        times.append(time.monotonic())
        return slurm.submit(request)

    queue = Submissions(submit, slurm.refuse, lambda: Counter(), 100, pace_s=0.5)
    for name in "abcd":
        queue.add(Request(name, "one"))
    wait_until(lambda: len(slurm.accepted) == 4, "all are accepted")
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert [pause >= 0.5 for pause in pauses] == [False, False, True]
    queue.stop()


def test_requests_are_submitted_in_their_order() -> None:
    slurm = Slurm()
    queue = started(slurm)
    for name in "abc":
        queue.add(Request(name, "one"))
    wait_until(lambda: len(slurm.accepted) == 3, "all three are accepted")
    assert slurm.accepted == ["a", "b", "c"]
    queue.stop()


def test_a_controller_that_is_away_costs_pauses_that_grow_and_no_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    slurm = Slurm(AWAY, AWAY, AWAY, AWAY)
    queue = started(slurm)
    begin = time.monotonic()
    queue.add(Request("a", "one"))
    queue.add(Request("b", "two"))
    wait_until(lambda: len(slurm.accepted) == 2, "both are accepted")
    assert slurm.accepted == ["a", "b"]
    assert slurm.refused == []
    assert time.monotonic() - begin > 0.05 * (1 + 2 + 4 + 8)
    assert capsys.readouterr().err.splitlines() == [
        "Slurm does not answer (Unable to contact slurm controller (connect failure)); trying "
        "again.",
        "Slurm's controller answers again.",
    ]
    queue.stop()


def test_a_submit_limit_holds_up_only_its_own_kind_until_a_job_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "SHORTEST_S", 60.0)
    slurm = Slurm(kinds={"full": [LIMIT]})
    queue = started(slurm)
    for name, kind in (("a", "full"), ("b", "full"), ("c", "free")):
        queue.add(Request(name, kind))
    wait_until(lambda: slurm.accepted == ["c"], "c is accepted")
    assert "QOSMaxSubmitJobPerUserLimit" in capsys.readouterr().err
    assert slurm.asked == ["a", "c"]
    queue.job_ended()
    wait_until(lambda: len(slurm.accepted) == 3, "all three are accepted")
    assert slurm.accepted == ["c", "a", "b"]
    assert slurm.refused == []
    queue.stop()


def test_a_submit_limit_is_told_once_not_after_each_job_that_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "SHORTEST_S", 60.0)
    slurm = Slurm(LIMIT, ACCEPTED, LIMIT, ACCEPTED, LIMIT)
    queue = started(slurm)
    for name in "abc":
        queue.add(Request(name, "one"))
    for asked, waiting in ((1, 3), (3, 2), (5, 1)):
        state = (asked, waiting)
        wait_until(lambda s=state: (len(slurm.asked), len(queue)) == s, "there is no place")
        queue.job_ended()
    wait_until(lambda: slurm.accepted == ["a", "b", "c"], "all are accepted")
    assert capsys.readouterr().err.count("Slurm accepts no more jobs now") == 1
    queue.stop()


def test_what_slurm_will_never_accept_is_reported_once() -> None:
    slurm = Slurm(REFUSED)
    queue = started(slurm)
    queue.add(Request("a", "one"))
    queue.add(Request("b", "one"))
    wait_until(lambda: slurm.accepted == ["b"], "b is accepted")
    assert slurm.refused == ["a: Invalid qos specification"]
    queue.stop()


def test_the_queue_is_bounded() -> None:
    slurm = Slurm()
    slurm.active = 2
    queue = started(slurm, most=2)
    queue.add(Request("a", "one"))
    time.sleep(0.1)
    assert slurm.asked == []
    slurm.active = 1
    queue.job_ended()
    wait_until(lambda: slurm.accepted == ["a"], "a is accepted")
    queue.stop()


def test_a_limit_that_the_accounting_tells_bounds_its_kind_only() -> None:
    slurm = Slurm()
    slurm.active = 2
    queue = Submissions(
        slurm.submit,
        slurm.refuse,
        lambda: Counter({"one": slurm.active}),
        most=100,
        limit=lambda kind: 2 if kind == "one" else None,
    )
    queue.add(Request("a", "one"))
    queue.add(Request("b", "other"))
    wait_until(lambda: slurm.accepted == ["b"], "b is accepted")
    slurm.active = 1
    queue.job_ended()
    wait_until(lambda: slurm.accepted == ["b", "a"], "a is accepted too")
    queue.stop()


@pytest.mark.parametrize("answers", [[AWAY] * 50, []], ids=["away", "between two"])
def test_it_ends_at_once_though_requests_wait(
    monkeypatch: pytest.MonkeyPatch, answers: list[Answer]
) -> None:
    """Hours before it would try again, or submit the next."""
    monkeypatch.setattr(submission, "SHORTEST_S", 3600.0)
    slurm = Slurm(*answers)
    queue = Submissions(slurm.submit, slurm.refuse, Counter, most=100, pace_s=3600.0)
    for name in "abc":
        queue.add(Request(name, "one"))
    wait_until(lambda: slurm.asked, "Slurm is asked")
    queue.stop()
    queue.join(PATIENCE_S)
    assert "submissions" not in {t.name for t in threading.enumerate() if t.is_alive()}


def test_a_submission_that_is_abandoned_at_the_end_is_no_refusal() -> None:
    slurm = Slurm(Answer(-9, "", ""))
    called, abandoned = threading.Event(), threading.Event()

    def submit(request: Request) -> Answer:
        called.set()
        abandoned.wait(PATIENCE_S)
        return slurm.submit(request)

    queue = Submissions(submit, slurm.refuse, Counter, most=100)
    queue.add(Request("a", "one"))
    assert called.wait(PATIENCE_S)
    queue.stop()
    abandoned.set()
    queue.join(PATIENCE_S)
    assert slurm.asked == ["a"]
    assert slurm.refused == []
