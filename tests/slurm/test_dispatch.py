"""What happens to Snakemake, or between Snakemake and Slurm's daemons."""

import fcntl
import os
import pty
import re
import select
import signal
import stat
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks.slurm_overhead import bare, time_of_first_step
from study.jobs.sbatch_answers import find_submit_limits
from tests.slurm.cluster.api import Cluster
from tests.slurm.studies import (
    ROOT,
    SlurmStudy,
    partition,
    seconds_of_planning,
    standin,
    wait_until,
)

pytestmark = pytest.mark.slurm

STARTS_S = 8
"""The most that Snakemake adds to the start of a run, on a machine that does nothing else."""

LEAVES_S = 10
"""The most that Snakemake takes to end on SIGTERM."""


@pytest.fixture
def study(cluster: Cluster, tmp_path: Path) -> Iterator[SlurmStudy]:
    study = SlurmStudy(cluster, tmp_path, "dispatch")
    yield study
    study.kill()
    cluster.run("scancel", "--user=root")


def add(study: SlurmStudy, name: str, does: str = "", **slurm: object) -> None:
    """Add a cell of the stand-in, without a job for what is of no concern here."""
    study.add_standin(name, does, **{"data": {"local": True}, **slurm})


def middle(study: SlurmStudy) -> int:
    return study.study["run"]["steps"] // 2


def shim(study: SlurmStudy, command: str, script: str) -> dict[str, str]:
    """Return the PATH on which a command is a shell script; $REAL is the real one."""
    folder = study.folder / "commands"
    folder.mkdir(exist_ok=True)
    real = study.cluster.run("which", command).strip()
    (folder / command).write_text(f"#!/bin/sh\nREAL={real}\n{script}\n")
    (folder / command).chmod(0o755 | stat.S_IXUSR)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_what_slurm_or_its_plugin_rejects_is_told_before_the_first_job(study: SlurmStudy) -> None:
    study.add("wrong-account", partition("sphinx", account="miso"))
    study.add("wrong-partition", partition("phinx", account="nlp"))
    study.add("right", partition("sphinx", extra="--begin='now + 1 hours'"))
    study.add("no-reservation", partition("sphinx", reservation="theirs"))
    study.add("not-yet", partition("sphinx", reservation="later"))
    study.add("managed", partition("sphinx", extra="--mem=1G"))
    study.add("several", partition("sphinx", extra="--array=1-2"))
    study.add("wrong-type", partition("sphinx", gpu_type="nvidia_h100-pcie"))
    study.add("too-much", partition("sphinx", mem_gib=2000))
    study.add("gpus-only", partition("sphinx", data={"partition": "gpus-only", "runtime_min": 10}))
    study.study["grid"].insert(0, study.study["grid"].pop())  # it decides about the data
    if not any(Path("/dev").glob("nvidia[0-9]")):
        study.add("here", {"device": "cuda", "gpu_name": "A100", "gpus_per_node": 1})
    reservation = ("reservation=later", "user=root", "nodes=sphinx4", "duration=30")
    cluster = study.cluster
    cluster.run("scontrol", "create", *reservation, "starttime=now+1hour", "flags=ignore_jobs")
    try:
        output = study.run()
    finally:
        cluster.run("scontrol", "delete", "reservation=later")
    assert study.returncode == 1
    problems = dict(re.findall(r"^  (?:cluster|rule) '?([\w-]+)'? (.*)$", output, re.MULTILINE))
    expected = {
        "wrong-account": "Invalid account or account/partition combination specified",
        "wrong-partition": "invalid partition specified: phinx",
        "no-reservation": "Requested reservation is invalid",
        "several": "`extra`: found --array=1-2; several jobs would train in one folder",
        "managed": "`extra`: found --mem=1G; the memory has a key of its own",
        "wrong-type": "Requested node configuration is not available",
        "too-much": "node configuration is not available",
        "tokenize": "QOSMinGRES",
        "here": "needs 1 GPUs, found 0",
    }
    assert problems.keys() == (
        expected.keys() if "here" in problems else expected.keys() - {"here"}
    )
    for name, words in problems.items():
        assert expected[name] in words
    assert "requests `sbatch -A miso -p sphinx -t 10 --mem 4096" in problems["wrong-account"]
    assert "Its request is `slurm.data` of cluster 'gpus-only'" in problems["tokenize"]
    assert "Traceback" not in output
    assert cluster.run("squeue", "--me", "--noheader") == ""
    # Nothing is left locked: what needs no such request is made.
    study.study["grid"] = [entry for entry in study.study["grid"] if entry["cluster"] == "right"]
    study.run(str(study.results / "study.yaml"))
    assert study.returncode == 0


def test_sbatch_accepts_every_style_of_a_request(study: SlurmStudy) -> None:
    typed = {"sphinx": "a100", "miso": "h200"}
    for name, kind in typed.items():
        for style in ("gres", "gpus-per-task", "gpus-per-node"):
            request = {"gpu_request": style, "gpu_type": kind, "qos": "high"}
            study.add(f"{name}-{style}", partition(name, **request), gpus=8)
    study.add("two-nodes", partition("miso", gpu_type="h200"), gpus=16)
    study.add("whole-nodes", partition("miso", gpu_request="none", extra="--exclusive"), gpus=16)
    study.add("no-warning", partition("sphinx", warn_s=0, extra="--exclusive"))
    # sbatch itself accepts nodes that are down, and the job waits; its test alone says otherwise.
    study.add("later", partition("sphinx", nodelist="sphinx3"))
    # What follows the test is refused, with which the study ends.
    only_tests = shim(
        study,
        "sbatch",
        'case "$*" in *test-only*) exec $REAL "$@";; esac\n'
        "echo 'sbatch: error: not today' >&2; exit 1",
    )
    cluster = study.cluster
    cluster.run("scontrol", "update", "NodeName=sphinx3", "State=DRAIN", "Reason=test")
    try:
        output = study.run(**only_tests)
    finally:
        cluster.run("scontrol", "update", "NodeName=sphinx3", "State=RESUME")
    assert "requests to Slurm" not in output
    assert "Slurm refuses the job: not today" in output
    assert "Trying to restart" not in output


def test_nodes_without_gpus_to_request(study: SlurmStudy) -> None:
    plain = partition("miso", gpu_request="none", gpus_per_node=1, data={"local": True})
    study.add("whole-nodes", plain, gpus=2)
    output = study.run()
    assert study.returncode == 0, output
    assert study.summary("whole-nodes")["hosts"] == ["miso1", "miso2"]
    (job,) = study.jobs("whole-nodes")
    assert "gpu" not in study.cluster.sacct(job, "AllocTRES")["AllocTRES"]


def test_snakemake_in_a_jobs_shell_finds_slurm(study: SlurmStudy) -> None:
    """As within salloc, where the variables of a job are beside SLURM_CONF."""
    add(study, "cell")
    output = study.run(str(study.flags()[0]), SLURM_JOB_ID="7")
    assert study.returncode == 0, output
    assert study.summary("cell")["status"] == "completed"


def test_a_place_without_slurm_is_told(study: SlurmStudy) -> None:
    study.add("here", {"device": "cpu", "gpu_name": "CPU core", "gpus_per_node": 1})
    output = study.run()
    assert study.returncode == 1
    assert "cluster 'here' has no `slurm:` settings" in output


def test_snakemake_is_ended_and_started_again(study: SlurmStudy) -> None:
    """Jobs that run, and those that wait unchanged, are kept; one that is outdated is replaced."""
    cluster = study.cluster
    for name in ("runs", "waits", "changes"):
        # sphinx4 has one GPU.
        nodes = {"extra": "--begin=now+40seconds"} if name == "changes" else {}
        add(study, name, "hold" if name == "runs" else "", nodelist="sphinx4", **nodes)
    flags = [str(flag) for flag in study.flags()]
    first = study.start(flags[0])
    study.wait_for_step("runs", middle(study))
    # It does not end by itself while a job runs, and leaves its jobs to Slurm.
    started = time.monotonic()
    first.terminate()
    assert first.wait(LEAVES_S) == 1
    assert time.monotonic() - started < LEAVES_S
    (job,) = study.jobs("runs")
    assert f"Ended by SIGTERM; Slurm jobs {job} go on." in study.log.read_text()

    second = study.start(*flags)
    wait_until(lambda: study.jobs("waits") and study.jobs("changes"), "all are submitted", 60)
    os.killpg(second.pid, signal.SIGKILL)
    second.wait()
    before = {name: study.jobs(name) for name in ("runs", "waits", "changes")}
    assert before["runs"] == [job]
    assert cluster.state(job) == "RUNNING"

    study.unlock()
    study.study["clusters"]["changes"]["slurm"]["extra"] = "--begin=now"
    third = study.start(*flags)
    wait_until(lambda: len(study.jobs("changes")) == 2, "the outdated one is replaced", 60)
    study.release_standin("runs")
    assert third.wait(120) == 0
    assert study.jobs("runs") == before["runs"]
    assert study.jobs("waits") == before["waits"]
    assert cluster.sacct(before["changes"][0], "State")["State"].startswith("CANCELLED")
    for name in before:
        assert len(study.summary(name)["attempts"]) == 1
    output = study.log.read_text()
    assert f"Slurm job {job} of an earlier invocation still runs" in output
    assert f"Slurm job {before['waits'][0]} of an earlier invocation waits for its turn" in output


def test_a_connection_that_is_lost_ends_snakemake_as_sigterm_does(study: SlurmStudy) -> None:
    """Its terminal is gone: nothing can be printed."""
    add(study, "cell", "hold")
    (flag,) = map(str, study.flags())
    ours, theirs = pty.openpty()

    def log_in() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run below nohup
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        study.write(flag),
        cwd=ROOT,
        env=study.cluster.environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=log_in,
    )
    os.close(theirs)
    lost = threading.Event()

    def show() -> None:
        while not lost.wait(0.1):
            if select.select([ours], [], [], 0)[0]:
                os.read(ours, 1 << 16)
        os.close(ours)

    threading.Thread(target=show).start()
    try:
        job = study.wait_for_step("cell", middle(study))
        lost.set()
        assert process.wait(LEAVES_S) == 1
    finally:
        lost.set()
        process.kill()
    assert study.cluster.state(job) == "RUNNING"
    # Nothing is left locked, and the job is kept.
    second = study.start(flag)
    wait_until(lambda: f"Slurm job {job} of an earlier" in study.log.read_text(), "it is kept", 60)
    study.release_standin("cell")
    assert second.wait(60) == 0
    assert study.jobs("cell") == [job]


def test_a_cell_goes_to_the_partition_with_free_nodes_and_stays_there(study: SlurmStudy) -> None:
    cluster, places = study.cluster, {"left": "sphinx", "right": "miso"}
    for name, partition_name in places.items():
        settings = standin(partition_name, study.folder, data={"local": True}, max_nodes=1)
        study.study["clusters"][name] = {**settings, "peak_tflops": 1.0}
    entry = {"cluster": {"any": ["left", "right"]}, "model": "one", "gpus": 1, "seed": [1, 2]}
    study.study["grid"] = [entry]
    runs = study.results / "runs" / "right" / "one" / "gpus-1" / "base"

    def fill(name: str, account: str, nodes: int) -> None:
        whole = ("-A", account, "-p", name, f"--nodes={nodes}", "--exclusive", "--time=60")
        cluster.wait_for_state(cluster.sbatch(*whole, command="exec sleep 600"), "RUNNING", 60)

    def plan() -> dict[str, str]:
        output = study.run("plan")
        assert study.returncode == 0, output
        return dict(
            re.findall(r"^(\w+/one/gpus-1/base/seed-\d): (.*); chosen 20", output, re.MULTILINE)
        )

    fill("sphinx", "nlp", 4)
    study.run(str(runs / "seed-1" / "completed"))
    assert study.returncode == 0
    assert study.summary_of(runs / "seed-1")["status"] == "completed"

    fill("miso", "miso", 2)
    cluster.run("scancel", "--user=root", "--partition=sphinx")
    used = ("squeue", "--noheader", "--partition=sphinx")
    wait_until(lambda: not cluster.run(*used), "the other partition is free", 60)
    entry["seed"] = [1, 2, 3]
    lines = plan()
    assert list(lines) == [f"right/one/gpus-1/base/seed-{seed}" for seed in (1, 2)] + [
        "left/one/gpus-1/base/seed-3"
    ]
    told = (
        r"on right, of left \(time ~.*, wait ~(59 min|60 min|1 h)\), right \(time ~.*, wait none\)"
    )
    assert re.fullmatch(told, lines["right/one/gpus-1/base/seed-1"])
    assert re.fullmatch(told, lines["right/one/gpus-1/base/seed-2"])
    assert re.search(r"left \(.* none\), right \(.* wait ~", lines["left/one/gpus-1/base/seed-3"])


def test_jobs_that_squeue_no_longer_lists_are_resolved(study: SlurmStudy) -> None:
    """As after a laptop was suspended, on a cluster that forgets its jobs soon."""
    cluster = study.cluster
    add(study, "done", "hold")
    add(study, "cancelled", "hold", nodelist="sphinx1")
    process = study.start(*(str(flag) for flag in study.flags()))
    for name in ("done", "cancelled"):
        study.wait_for_step(name, middle(study))
    process.send_signal(signal.SIGSTOP)
    (done,), (cancelled,) = study.jobs("done"), study.jobs("cancelled")
    cluster.cancel(cancelled)
    study.release_standin("done")
    wait_until(lambda: not listed(cluster, done, cancelled), "squeue forgets both jobs", 120)
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 1
    output = study.log.read_text()
    assert f"Slurm job {cancelled} ended: CANCELLED. It was cancelled and is not retried" in output
    assert study.summary("done")["status"] == "completed"
    assert study.jobs("done") == [done]
    assert (study.run_folder("done") / "completed").exists()


def test_a_run_starts_soon_after_snakemake(study: SlurmStudy) -> None:
    """To its first step, compared with sbatch of the same command; the data are there.

    As long as two and a half dry runs, on a machine that does nothing else.
    """
    add(study, "cell")
    study.run(str(study.results / "data" / "text.json"))
    began = time.time()
    process = study.start(str(study.flags()[0]))
    seconds = time_of_first_step(study.run_folder("cell")) - began
    assert process.wait(60) == 0
    beyond = seconds - bare(study)
    assert beyond <= max(STARTS_S, 5 * seconds_of_planning("--configfile", str(study.file)))


def test_the_limits_of_a_user_are_those_of_the_accounting(cluster: Cluster) -> None:
    assert find_submit_limits()("nlp", "few") == 2
    assert find_submit_limits()("nlp", None) is None
    user = ("sacctmgr", "--immediate", "modify", "user", "root")
    cluster.run(*user, "where", "account=nlp", "set", "MaxSubmitJobs=7")
    try:
        limit = find_submit_limits()
        assert [limit("nlp", None), limit("nlp", "few"), limit("miso", None)] == [7, 2, None]
    finally:
        cluster.run(*user, "set", "MaxSubmitJobs=-1")


def listed(cluster: Cluster, *jobs: int) -> bool:
    shown = cluster.run("squeue", "--noheader", "--states=all", "--format=%i").split()
    return bool({str(job) for job in jobs} & set(shown))


def test_the_controller_is_away(study: SlurmStudy) -> None:
    """A run ends meanwhile, and another one cannot be submitted; neither is a failure.

    In Slurm 26.05 the job does not end before the controller is back.
    """
    cluster = study.cluster
    names = ("one", "other")
    for name in names:
        add(study, name, "hold")
    process = study.start("--jobs", "1", *(str(flag) for flag in study.flags()))
    wait_until(lambda: any(map(study.records, names)), "one runs", 60)
    (first,) = (name for name in names if study.records(name))
    study.wait_for_step(first, middle(study))
    cluster.stop_service("slurmctld")
    try:
        for name in names:
            study.release_standin(name)
        told = re.compile("Slurm does not answer|0 of 2 finished; squeue does not answer")
        wait_until(lambda: told.search(study.log.read_text()), "it is told", 120)
        assert study.summary(first)["status"] == "completed"
    finally:
        cluster.start_service("slurmctld")
    assert process.wait(120) == 0
    assert [len(study.jobs(name)) for name in names] == [1, 1]
    assert "Trying to restart" not in study.log.read_text()


def test_no_accounting_daemon_while_jobs_are_submitted_and_end(study: SlurmStudy) -> None:
    cluster = study.cluster
    add(study, "cell")
    cluster.stop_service("slurmdbd")
    try:
        study.run(str(study.flags()[0]), timeout=90)
        assert study.returncode == 0
    finally:
        cluster.start_service("slurmdbd")


def test_moments_without_a_controller_cost_no_retry(study: SlurmStudy) -> None:
    """An sbatch that cannot reach the controller, more often than there are retries."""
    calls = study.folder / "calls"
    away = shim(
        study,
        "sbatch",
        'case "$*" in *test-only*) exec $REAL "$@";; esac\n'
        f"echo x >> {calls}\n"
        f"if [ $(wc -l < {calls}) -le 3 ]; then\n"
        "  echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv "
        "operation' >&2; exit 1\n"
        'fi\nexec $REAL "$@"',
    )
    add(study, "cell")
    output = study.run(str(study.flags()[0]), **away)
    assert study.returncode == 0
    assert "Socket timed out on send/recv operation); trying again" in output
    assert "Trying to restart" not in output
    assert len(calls.read_text().splitlines()) == 4
    assert len(study.jobs("cell")) == 1


@pytest.mark.parametrize(
    ("waits_for", "said"),
    [
        ("--test-only", "Ended by SIGTERM; nothing was submitted."),
        ("--parsable", "Ended by SIGTERM; no job is in Slurm's queue."),
    ],
    ids=["checks", "submission"],
)
def test_sigterm_ends_snakemake_while_slurm_does_not_answer(
    study: SlurmStudy, waits_for: str, said: str
) -> None:
    """During the checks before the first job, and during a submission."""
    called = study.folder / "called"
    silent = shim(
        study,
        "sbatch",
        f'case "$*" in *--test-only*) kind=--test-only;; *) kind=--parsable;; esac\n'
        f'if [ $kind = {waits_for} ]; then touch {called}; exec sleep 300; fi\nexec $REAL "$@"',
    )
    add(study, "cell")
    process = study.start(str(study.flags()[0]), **silent)
    wait_until(called.exists, "Slurm is asked", 60)
    process.terminate()
    assert process.wait(LEAVES_S) == 1
    output = study.log.read_text()
    assert said in output
    assert "Slurm refuses" not in output
    # Nothing is left locked.
    study.run(str(study.results / "study.yaml"))
    assert study.returncode == 0


def test_nodes_that_do_not_see_the_clone_or_the_results_are_told(study: SlurmStudy) -> None:
    cluster = study.cluster
    add(study, "no-clone", nodelist="sphinx3")
    add(study, "no-results", nodelist="sphinx2")
    study.results.mkdir(parents=True)
    hidden = {"sphinx3": ROOT, "sphinx2": study.results.parent}
    for node, folder in hidden.items():
        cluster.on_node(node, "mount", "-t", "tmpfs", "tmpfs", str(folder))
    try:
        output = study.run(*(str(flag) for flag in study.flags()), timeout=90)
    finally:
        for node, folder in hidden.items():
            cluster.on_node(node, "umount", str(folder))
    assert study.returncode == 1
    assert f"Its node does not see the folder {ROOT}" in output
    # Slurm 22.05 cannot open the job's log there; 24.11 creates its folder on the node.
    folder = re.escape(str(study.results))
    assert re.search(f"Its node (cannot write to {folder}|does not see [^\n]*{folder}:)", output)
    assert "on a file system that the nodes mount" in output
    assert [len(study.jobs(name)) for name in ("no-clone", "no-results")] == [1, 1]


def test_profile_states_one_policy() -> None:
    """Slurm requeues, Snakemake retries; no rule has a number of retries of its own."""
    profile = yaml.safe_load((ROOT / "profiles" / "default" / "profile.yaml").read_text())
    assert profile["slurm-requeue"] is True
    assert "slurm-no-requeue" not in profile
    assert profile["retries"] == 2
    for rules in (ROOT / "workflow" / "rules").glob("*.smk"):
        assert "retries:" not in rules.read_text()
