"""What Slurm's answers about requests mean."""

from collections.abc import Sequence

import pytest

from study.jobs.sbatch_answers import find_refusal, find_submit_limits
from study.jobs.slurm_commands import Answer
from tests.study.jobs.stand_ins import answering, ask_instead


def test_a_reservation_that_has_not_begun_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Slurm 22.05 answers a test; sbatch itself accepts the job, and it pends."""
    said = Answer(1, "", "allocation failure: Invalid time specified\n")
    answering(monkeypatch, said)
    assert find_refusal(["sbatch", "--reservation=later"], "", "gpu", None) == ""
    assert "Invalid time" in find_refusal(["sbatch", "--deadline=now"], "", "gpu", None)


@pytest.mark.parametrize(
    ("code", "said", "refusal"),
    [
        (0, "sbatch: Job 7 to start at 2026-03-29T06:00:00 using 8 processors on nodes n1", ""),
        # These pass by themselves.
        (1, "allocation failure: Unable to contact slurm controller (connect failure)", ""),
        (1, "AssocMaxSubmitJobLimit; allocation failure: Job violates accounting/QOS policy", ""),
        (1, "allocation failure: Requested nodes are busy", ""),
        (1, "allocation failure: Invalid qos specification", "Invalid qos specification"),
        (3, "", "exit code 3"),
    ],
)
def test_what_a_request_is_refused_for(
    monkeypatch: pytest.MonkeyPatch, code: int, said: str, refusal: str
) -> None:
    answering(monkeypatch, Answer(code, "", said and f"{said}\n"))
    found = find_refusal(["sbatch"], "", "gpu", None)
    assert found.endswith(refusal) if refusal else found == ""


def test_the_lower_limit_of_account_and_qos_applies(answers: dict[str, str]) -> None:
    answers["show assoc"] = "ours|normal|8\nother|few|\nclosed|normal|0\nten|normal|10\n"
    answers["show qos"] = "normal|\nfew|2\n"
    answers["show user"] = "me|ours\n"
    limit = find_submit_limits()
    assert [limit(None, None), limit(None, "few"), limit("other", None)] == [8, 2, 2]
    assert [limit("other", "normal"), limit("unknown", None), limit("ten", None)] == [
        None,
        None,
        10,
    ]
    # To wait until fewer than no jobs are in the queue takes for ever.
    assert limit("closed", None) is None


def test_an_account_whose_clusters_have_different_limits_has_none(answers: dict[str, str]) -> None:
    answers["show assoc"] = "ours|normal|8\nours|normal|1\nours|normal|8\nsame|few|3\nsame|few|3\n"
    limit = find_submit_limits()
    assert [limit("ours", None), limit("same", None)] == [None, 3]


def test_accounting_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(
        monkeypatch, Answer(1, "", "sacctmgr: error: slurm_persist_conn_open: No response")
    )
    assert find_submit_limits()("ours", "few") is None
    assert len(asked) == 1


def test_without_accounting_there_is_no_limit(answers: dict[str, str]) -> None:
    answers["sacctmgr"] = "You are not running a supported accounting_storage plugin\n"
    assert find_submit_limits()(None, None) is None


def test_a_request_for_nodes_that_are_down_waits_also_on_another_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    down = {"-M theirs": "CLUSTER: theirs\n2\n", "-M ours": "CLUSTER: ours\n"}

    def ask(command: Sequence[str], stdin: str | None = None) -> Answer:
        if command[0] == "sinfo":
            return Answer(0, down[" ".join(command[1:3])], "")
        said = "allocation failure: Requested node configuration is not available"
        return Answer(1, "", f"sbatch: error: {said}\n")

    ask_instead(monkeypatch, ask)
    assert find_refusal(["sbatch"], "", "gpu", "theirs") == ""
    assert "is not available" in find_refusal(["sbatch"], "", "gpu", "ours")
