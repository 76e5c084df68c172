"""Slurm as sites configure it: limits, QOS, preemption that cancels, partitions, edited files.

One study runs through one Snakemake, and each of its cells meets another setting. What its runs do
is of no concern here: a stand-in takes the trainer's place (standin/torchrun).
"""

import getpass
import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.slurm.cluster.api import Cluster
from tests.slurm.studies import ROOT, STANDIN, SlurmStudy, standin, wait_until

pytestmark = pytest.mark.slurm

CELLS_OF_FEW = 4
TOLD_TO_STOP = 4  # more often than the profile has retries
STOPPED_EARLY = 2  # of these, one that is not told by its time limit
LONGEST_S = 240
"""A limit for what takes at most a minute on a machine that is not busy."""

STATUS_LINE = re.compile(
    r"^\[\d\d:\d\d\] Slurm: \d+ running.*; \d+ waiting \(.*1 QOSMaxWall\w+.*\);"
    r" .*\d+ of 14 finished",
    re.MULTILINE,
)


class Site:
    """The study after its end, and what was seen on the way."""

    def __init__(self, study: SlurmStudy) -> None:
        self.study = study
        self.output = ""
        self.returncode = 0
        self.names: list[str] = []
        self.beside = subprocess.CompletedProcess([], 1, "", "")

    def minutes(self, name: str) -> list[int]:
        """Return the time limits that a cell's jobs were submitted with."""
        lines = self.requests(name, "SubmitLine")
        return [int(line.split(" -t ")[1].split()[0]) for line in lines]

    def requests(self, name: str, field: str) -> list[str]:
        cluster = self.study.cluster
        return [cluster.sacct(job, field)[field] for job in self.study.jobs(name)]


@pytest.fixture(scope="module")
def site(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(SlurmStudy(cluster, tmp_path_factory.mktemp("site"), "site"))
    reservation = ("reservation=ours", "user=root", "nodes=sphinx2", "starttime=now", "duration=30")
    cluster.run("scontrol", "create", *reservation, "flags=ignore_jobs")
    try:
        _write_cells(site.study)
        # Of the two jobs that the QOS allows, the user has one already.
        waits = ("-A", "nlp", "-p", "sphinx", "--time=5", "--qos=few", "--begin=now+1hour")
        cluster.sbatch(*waits, command="true")
        # What a user likes to see hides all jobs here.
        likes = {"SQUEUE_PARTITION": "miso", "SQUEUE_FORMAT": "%i", "SCANCEL_PARTITION": "miso"}
        process = site.study.start(*(str(flag) for flag in site.study.flags()), **likes)
        _disturb(site)
        site.returncode = process.wait(LONGEST_S)
        site.output = site.study.log.read_text()
        yield site
    finally:
        site.study.kill()
        cluster.run("scancel", "--user=root")
        cluster.run("scontrol", "delete", "reservation=ours")


def _write_cells(study: SlurmStudy) -> None:
    add = study.add_standin
    # The first Slurm cluster decides about the jobs without a GPU, which this partition forbids.
    add("gpus-only", "hold", data={"local": True}, runtime_min=30)  # as much as it allows
    study.study["clusters"]["gpus-only"]["slurm"]["partition"] = "gpus-only"
    add("few", qos="few")
    study.study["grid"][-1]["seed"] = [42 + number for number in range(CELLS_OF_FEW)]
    add("chained", "hold-each", runtime_min=5, max_runtime_min=12, exclude="sphinx2")
    # A namespace of its own, as that of a container is.
    enter = study.folder / "enter"
    enter.write_text('#!/bin/sh\nhostname "$1" && shift && exec "$@"\n')
    enter.chmod(0o755)
    container = f"unshare --uts {enter} inside-${{SLURM_JOB_ID}}"
    study.study["clusters"]["chained"]["container"] = container
    add("graceful", "hold", qos="graceful", reservation="ours")
    add("cheap", "hold", qos="cheap", nodelist="sphinx4", gpu_type="nvidia_a100-sxm4-80gb")
    add("brief", qos="brief")
    add("exit0", "exit0", extra="--begin='now + 1 seconds'")
    add("killed", "kill")
    logs = study.folder / "job-output"
    errors = logs / "errors"
    add("logs", output=f"{logs}/out-%j.txt", error=f"{errors}/err-%j.txt", clusters="trial")
    # As in Debian's /etc/bash.bashrc; and a folder that only the job knows.
    study.study["clusters"]["logs"]["setup"].append('test -z "$PS1"')
    study.study["clusters"]["logs"]["scratch"] = f"{study.folder}/$SLURM_JOB_USER"
    # A Slurm cluster that nobody can ask, and on which nothing runs.
    study.study["clusters"]["nowhere"] = standin("sphinx", study.folder, clusters="nowhere")
    add("reserved", reservation="ours")
    here = {"device": "cpu", "gpu_name": "CPU core", "gpus_per_node": 1}
    study.add("here", here | {"setup": [f"export PATH={STANDIN}:$PATH STANDIN_STEP_S=0.01"]})


def _disturb(site: Site) -> None:
    study, cluster = site.study, site.study.cluster
    _tell_to_stop(study, "chained", 1)
    site.names = cluster.run("squeue", "--noheader", "--format=%j").split()
    # The file is edited while its jobs are in the queue, and is no longer a study.
    planned = study.file.read_text()
    study.file.write_text("grid: [{cluster: nowhere")
    for number in range(2, TOLD_TO_STOP + 1):
        _tell_to_stop(study, "chained", number, near_limit=number != STOPPED_EARLY)
    study.release_standin("chained")
    study.file.write_text(planned)
    _tell_to_stop(study, "gpus-only", 1)
    wait_until(lambda: len(study.jobs("gpus-only")) == 2, "the run is continued", LONGEST_S)
    study.release_standin("gpus-only")
    study.wait_for_step("cheap", study.study["run"]["steps"] // 2)
    site.beside = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "plan", "throughput", "time_estimates"),
            *("--cores", "1", "--configfile", study.file, "--config", "partial=true"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
    )
    cluster.sbatch(
        *("-A", "nlp", "-p", "sphinx", "--mem=100M", "--time=5", "--qos=high"),
        *("--nodelist=sphinx4", "--gres=gpu:1"),
        command="sleep 1",
    )
    study.wait_for_step("graceful", 1)
    cluster.sbatch(
        *("-A", "nlp", "-p", "sphinx", "--mem=100M", "--time=5", "--qos=high"),
        *("--reservation=ours", "--gres=gpu:8"),
        command="sleep 1",
    )
    for name in ("cheap", "graceful"):
        wait_until(
            lambda name=name: study.records(name)[-1]["attempt"] == 2, "it is continued", LONGEST_S
        )
        study.release_standin(name)
    wait_until(lambda: "will never start" in study.log.read_text(), "it is pointed out", LONGEST_S)
    wait_until(lambda: STATUS_LINE.search(study.log.read_text()), "a line counts it", LONGEST_S)
    cluster.cancel(study.jobs("brief")[0])


def _tell_to_stop(study: SlurmStudy, name: str, number: int, near_limit: bool = True) -> None:
    """Send what `--signal` sends before the time limit, to the cell's `number`th job."""
    wait_until(lambda: len(study.jobs(name)) == number, "the run is continued", LONGEST_S)
    study.wait_for_step(name, number)  # each job takes at least one step, and waits
    job = str(study.jobs(name)[-1])
    if near_limit:
        # It is signalled a minute before its limit, and Slurm may be a minute early.
        study.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=2")
    study.cluster.run("scancel", "--signal=USR1", job)


def test_all_cells_but_the_one_that_never_starts_are_complete(site: Site) -> None:
    assert site.returncode == 1  # that one was cancelled
    folders = {path.parent for path in site.study.results.glob("runs/**/settings.yaml")}
    incomplete = {folder for folder in folders if not (folder / "completed").exists()}
    assert {folder.relative_to(site.study.results / "runs").parts[0] for folder in incomplete} == {
        "brief"
    }
    assert len(folders) == 10 + CELLS_OF_FEW


def test_a_run_longer_than_its_limit_is_continued_as_often_as_it_makes_progress(
    site: Site,
) -> None:
    jobs = site.study.jobs("chained")
    assert len(jobs) == TOLD_TO_STOP + 1
    assert len(set(site.requests("chained", "ReqMem"))) == 1
    assert site.minutes("chained") == [5, 10, 10, 12, 12]
    steps = [a["first_step"] - 1 for a in site.study.summary("chained")["attempts"]][1:]
    for number, (step, job) in enumerate(zip(steps, jobs[1:], strict=True), start=1):
        why = "stopped" if number == STOPPED_EARLY else "time limit"
        told = f"/base/seed-42: {why}, saved at step {step}, continues as Slurm job {job}."
        assert told in site.output
    # Only those that failed are retries in Snakemake's eyes.
    assert site.output.count("Trying to restart") == len(("exit0", "killed"))


def test_a_preempted_job_that_slurm_cancels_is_continued(site: Site) -> None:
    states = [site.study.cluster.state_history(job)[-1] for job in site.study.jobs("cheap")]
    assert states == ["PREEMPTED", "COMPLETED"]
    assert "cheap/one/gpus-1/base/seed-42: preempted" in site.output
    assert site.study.summary("cheap")["status"] == "completed"


def test_a_run_that_saves_in_its_time_of_grace_needs_no_more_time(site: Site) -> None:
    assert set(site.minutes("graceful")) == {10}
    if len(site.minutes("graceful")) == 2:  # Slurm 24.11 requeues the same job
        stopped = r"graceful/one/gpus-1/base/seed-42: stopped, saved at step \d+"
        assert re.search(stopped, site.output)
    assert site.study.summary("graceful")["status"] == "completed"


def test_a_run_in_a_partition_that_allows_no_more_time_goes_on_with_as_much(site: Site) -> None:
    assert site.minutes("gpus-only") == [30, 30]
    told = "Slurm grants no more than 30 minutes (Batch job submission failed: Requested time"
    assert told in site.output
    assert site.study.summary("gpus-only")["status"] == "completed"


def test_a_submit_limit_pauses_submission(site: Site) -> None:
    runs = site.study.results.glob("runs/few/**/run.json")
    attempts = [len(json.loads(path.read_text())["attempts"]) for path in runs]
    assert attempts == [1] * CELLS_OF_FEW
    assert "Slurm accepts no more jobs now (QOSMaxSubmitJobPerUserLimit)" in site.output


def test_a_job_that_never_starts_is_pointed_out_and_its_cancellation_told(site: Site) -> None:
    (job,) = site.study.jobs("brief")
    assert (
        f"Slurm job {job} (brief/one/gpus-1/base/seed-42) will never start: "
        "QOSMaxWallDurationPerJobLimit."
    ) in site.output
    assert f"Slurm job {job} ended: CANCELLED. It was cancelled and is not retried" in site.output


def test_a_line_a_minute_says_what_runs_and_waits(site: Site) -> None:
    assert STATUS_LINE.search(site.output)
    assert "Job rate limit reached" not in site.output


def test_a_job_that_exits_with_0_without_a_finished_run_is_an_error(site: Site) -> None:
    first, _ = site.study.jobs("exit0")
    assert site.study.cluster.state_history(first) == ["COMPLETED"]
    assert (
        f"Slurm job {first} ended: COMPLETED. It exited with code 0, but its outputs are not "
        "complete."
    ) in site.output


def test_a_killed_job_is_retried_with_the_same_request(site: Site) -> None:
    assert len(site.study.jobs("killed")) == 2
    assert len(set(site.requests("killed", "ReqMem"))) == 1
    assert len(set(site.requests("killed", "TimelimitRaw"))) == 1


def test_jobs_without_a_gpu_run_here_if_the_cluster_says_so(site: Site) -> None:
    assert "localrule tokenize:" in site.output
    assert site.requests("gpus-only", "Partition") == ["gpus-only"] * 2


def test_a_run_on_this_machine_is_in_the_same_command(site: Site) -> None:
    assert "localrule train_here:" in site.output
    assert site.study.summary("here")["status"] == "completed"
    assert site.study.jobs("here") == []


def test_a_person_recognises_the_cells_in_squeue(site: Site) -> None:
    assert "site/one/1" in site.names
    assert set(site.names) <= {"site/one/1", "wrap"}  # sbatch --wrap, of the test itself
    (job,) = site.study.jobs("logs")
    comment = site.study.cluster.sacct(job, "Comment")["Comment"]
    assert comment == "rule_train_wildcards_logs_one_1_base_42"


def test_a_job_is_named_with_the_slurm_cluster_that_it_was_sent_to(site: Site) -> None:
    (job,) = site.study.jobs("logs")
    assert f"Slurm job {job}@trial: rule_train_wildcards_logs_one_1_base_42 (log: " in site.output
    # It was noticed by its note, which is removed then.
    assert list((site.study.results / "slurm_logs" / "ended").iterdir()) == []


def test_output_and_error_go_where_the_cluster_says(site: Site) -> None:
    (job,) = site.study.jobs("logs")
    logs = site.study.folder / "job-output"
    assert "stand-in: attempt 1" in site.study.slurm_log("logs")
    assert "stand-in: attempt 1" in (logs / f"out-{job}.txt").read_text()
    assert (logs / "errors" / f"err-{job}.txt").exists()
    other = site.study.jobs("gpus-only")[-1]
    link = site.study.run_folder("gpus-only") / "slurm_logs" / f"{other}.log"
    assert link.resolve().is_relative_to(site.study.results / "slurm_logs")


def test_setup_and_scratch_are_for_the_job_to_expand(site: Site) -> None:
    assert (site.study.folder / getpass.getuser() / "tmp").is_dir()
    assert site.study.summary("logs")["status"] == "completed"


def test_a_run_in_a_container_saves_at_its_time_limit_and_goes_on(site: Site) -> None:
    """Its signals reach the run inside; the job continues in a container of its own."""
    attempts = site.study.summary("chained")["attempts"]
    assert [attempt["hosts"] for attempt in attempts] == [
        [f"inside-{job}"] for job in site.study.jobs("chained")
    ]
    assert len(attempts) == TOLD_TO_STOP + 1


def test_no_job_is_taken_for_lost(site: Site) -> None:
    assert "GONE" not in site.output
    assert "squeue does not answer" not in site.output


def test_keys_for_nodes_and_reservations(site: Site) -> None:
    assert site.requests("reserved", "NodeList") == ["sphinx2"]
    assert "sphinx2" not in site.requests("chained", "NodeList")


def test_the_tables_of_what_exists_can_be_made_beside_a_running_invocation(site: Site) -> None:
    assert site.beside.returncode == 0, site.beside.stderr
    assert re.search(r"cheap/one/gpus-1/base/seed-42 .* partly", site.beside.stdout)
    assert (
        "Finished jobid: 0 (Rule: time_estimates)" in site.beside.stderr
        or (site.study.results / "time_estimates.csv").exists()
    )
