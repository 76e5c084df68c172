"""What becomes of a job, from its state and its run's files."""

import pytest

from study.jobs.sbatch_answers import classify_refusal
from study.jobs.slurm_jobs import QueuedJob, why_stuck
from study.jobs.verdict import (
    GONE,
    End,
    Shortage,
    find_shortage,
    is_time_up,
    judge,
    note_shortage,
)


@pytest.mark.parametrize("state", ["COMPLETED", GONE, "PREEMPTED", "NODE_FAIL"])
def test_complete_outputs_mean_done(state: str) -> None:
    assert judge(End(state, complete=True)).action == "done"


def test_a_job_that_exits_with_0_and_leaves_no_finished_run_is_an_error() -> None:
    verdict = judge(End("COMPLETED", complete=False))
    assert verdict.action == "retry"
    assert "its outputs are not complete" in verdict.reason


def test_a_kept_job_that_completed_the_run_of_earlier_settings_is_continued() -> None:
    verdict = judge(End("COMPLETED", complete=False, kept=True))
    assert (verdict.action, verdict.reason) == ("continue", "settings have changed")
    assert judge(End("COMPLETED", complete=True, kept=True)).action == "done"
    assert judge(End("FAILED", complete=False, kept=True)).action == "retry"


@pytest.mark.parametrize("state", ["FAILED", "TIMEOUT", "PREEMPTED", GONE])
def test_a_run_that_saved_is_continued_while_it_makes_progress(state: str) -> None:
    assert judge(End(state, complete=False, saved_step=12, first_step=8)).action == "continue"


def test_a_run_that_makes_no_progress_is_a_failure() -> None:
    verdict = judge(End("FAILED", complete=False, saved_step=8, first_step=8))
    assert verdict.action == "retry"
    assert verdict.reason == "It was stopped before it had taken a step."


def test_the_reason_to_continue_names_the_step() -> None:
    time_up = End("FAILED", False, saved_step=12, time_up=True)
    assert judge(time_up).reason == "time limit, saved at step 12"
    assert judge(End("FAILED", False, saved_step=12)).reason == "stopped, saved at step 12"
    assert judge(End("TIMEOUT", False, saved_step=12)).reason == "time limit, saved at step 12"
    assert judge(End("PREEMPTED", False, saved_step=12)).reason == "preempted, saved at step 12"
    lost = End("NODE_FAIL", False, saved_step=12)
    assert judge(lost).reason == "node failure, saved at step 12"


def test_preemption_is_not_a_failure_even_before_the_first_step() -> None:
    assert judge(End("PREEMPTED", complete=False)).action == "continue"


@pytest.mark.parametrize("state", ["CANCELLED", "TIMEOUT", "DEADLINE"])
def test_a_job_whose_run_is_complete_is_done_however_it_ended(state: str) -> None:
    """As after another clone's job has trained the cell while this one waited."""
    assert judge(End(state, complete=True)).action == "done"


def test_cancelled_is_told_as_cancelled_though_the_run_saved() -> None:
    verdict = judge(End("CANCELLED", complete=False, saved_step=12))
    assert verdict.action == "give up"
    assert "It was cancelled and is not retried" in verdict.reason


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("FAILED", ""),
        ("NODE_FAIL", ""),
        ("TIMEOUT", "reached its time limit"),
        ("DEADLINE", "reached its time limit"),
        ("OUT_OF_MEMORY", "exceeded its memory"),
        ("COMPLETED", "exited with code 0"),
        (GONE, "Slurm no longer lists it"),
    ],
)
def test_anything_else_is_a_failure_that_may_be_retried(state: str, why: str) -> None:
    verdict = judge(End(state, complete=False))
    assert verdict.action == "retry"
    assert why in verdict.reason if why else verdict.reason == ""


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (End("OUT_OF_MEMORY", False), Shortage(memory=1)),
        (End("FAILED", False, out_of_memory=True), Shortage(memory=1)),
        (End("TIMEOUT", False), Shortage(time=1)),
        (End("DEADLINE", False), Shortage(time=1)),
        (End("FAILED", False, saved_step=12, time_up=True), Shortage(time=1)),
        (End("FAILED", False, saved_step=12), Shortage()),
        (End("FAILED", False), Shortage()),
        (End("PREEMPTED", False, saved_step=12), Shortage()),
    ],
)
def test_only_what_ran_out_is_requested_again_in_a_larger_amount(
    end: End, expected: Shortage, request: pytest.FixtureRequest
) -> None:
    note_shortage(request.node.name, end)
    assert find_shortage(request.node.name) == expected


def test_what_ran_out_is_counted(request: pytest.FixtureRequest) -> None:
    for state in ("TIMEOUT", "OUT_OF_MEMORY", "TIMEOUT", "OUT_OF_MEMORY", "TIMEOUT"):
        note_shortage(request.node.name, End(state, complete=False))
    assert find_shortage(request.node.name) == Shortage(time=3, memory=2)


@pytest.mark.parametrize(
    ("used_s", "limit_s", "warn_s", "expected"),
    [
        # Told 60 s before its end, at minute 29 of 30; Slurm may be a minute early.
        (29 * 60 + 12, 1800, 60, True),
        (28 * 60 + 1, 1800, 60, True),
        # Preempted, or told by a person, long before.
        (27 * 60, 1800, 60, False),
        (80, 600, 60, False),
        (1500, 1800, 300, True),
        # No limit, or not listed.
        (1500, None, 60, False),
        (None, 1800, 60, False),
    ],
)
def test_a_run_that_saved_ran_out_of_time_only_if_its_limit_was_near(
    used_s: float | None, limit_s: float | None, warn_s: int, expected: bool
) -> None:
    assert is_time_up(used_s, limit_s, warn_s) == expected


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        # As Slurm 22.05 prints them; the general line alone would also be that of a time limit.
        ("QOSMaxSubmitJobPerUserLimit; Batch job submission failed: Job violates accounting/QOS "
         "policy (job submit limit, user's size and/or time limits)", "limit"),
        ("AssocMaxSubmitJobLimit; Batch job submission failed: Job violates accounting/QOS policy "
         "(job submit limit, user's size and/or time limits)", "limit"),
        ("Batch job submission failed: Slurm temporarily unable to accept job, sleeping and "
         "retrying", "limit"),
        ("Batch job submission failed: Socket timed out on send/recv operation", "transient"),
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)",
         "transient"),
        ("Batch job submission failed: Resource temporarily unavailable", "transient"),
        ("QOSMaxWallDurationPerJobLimit; Batch job submission failed: Job violates accounting/QOS "
         "policy (job submit limit, user's size and/or time limits)", "refused"),
        ("Batch job submission failed: Invalid account or account/partition combination specified",
         "refused"),
    ],
)  # fmt: skip
def test_what_sbatch_says_is_a_limit_a_moment_or_a_refusal(message: str, meaning: str) -> None:
    assert classify_refusal(message) == meaning


@pytest.mark.parametrize(
    ("reason", "means"),
    [
        ("QOSMaxWallDurationPerJobLimit", "will never start"),
        ("AssocMaxWallDurationPerJobLimit", "will never start"),
        ("AssocMaxGRESMinutesPerJob", "will never start"),
        ("QOSMaxMemoryPerJob", "will never start"),
        ("PartitionTimeLimit", "will never start"),
        ("BadConstraints", "will never start"),
        ("QOSNotAllowed", "will never start"),
        # As Slurm 22.05 prints them (src/common/slurm_protocol_defs.c).
        ("JobHeldUser", "is held"),
        ("JobHeldAdmin", "is held"),
        ("job requeued in held state", "is held"),
        ("launch failed requeued held", "is held"),
        ("JobHoldMaxRequeue", "is held"),
        ("AssocGrpGRESMinutes", "waits until its account or QOS is granted more"),
        ("AssocGrpCPUMinutesLimit", "waits until its account or QOS is granted more"),
        ("QOSGrpBillingMinutes", "waits until its account or QOS is granted more"),
        ("AssocGrpWallLimit", "waits until its account or QOS is granted more"),
        # These pass as other jobs end.
        ("AssocGrpGRESRunMinutes", None),
        ("QOSGrpCPURunMinutesLimit", None),
        ("Priority", None),
        ("Resources", None),
        ("QOSMaxJobsPerUserLimit", None),
        ("AssocGrpGRES", None),
        ("BeginTime", None),
        ("ReqNodeNotAvail", None),
    ],
)
def test_reasons_for_which_waiting_alone_does_not_start_a_job(
    reason: str, means: str | None
) -> None:
    stuck = why_stuck(QueuedJob("7", "PENDING", reason, "name", "comment"))
    assert (stuck and stuck[0]) == means
    if means == "is held":
        assert stuck is not None
        assert stuck[1] == "Release it (scontrol release 7)."
