"""What the start of several ranks prints when they end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).parents[2]


def start(*program: str) -> subprocess.Popen[str]:
    options = ("--standalone", "--local-addr=localhost", "--nproc_per_node=2")
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.torchrun", *options, *program],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # or torchrun says that it has set it
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def write(folder: Path, *lines: str) -> str:
    (folder / "ranks.py").write_text("\n".join(lines))
    return str(folder / "ranks.py")


def test_ranks_that_end_well(tmp_path: Path) -> None:
    process = start(write(tmp_path, "print('done\\n', end='')"))
    printed, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert printed == "done\ndone\n"


def test_a_failed_rank_is_named_without_a_traceback(tmp_path: Path) -> None:
    process = start(write(tmp_path, "import os, sys", "sys.exit(7 * int(os.environ['RANK']))"))
    printed, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "Traceback" not in printed
    root = printed.partition("Root Cause")[2]
    assert "rank      : 1" in root and "exitcode  : 7" in root


def test_a_stop_that_ranks_have_handled_is_no_failure_of_torchrun(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        "import os, signal, sys, time",
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('saved', flush=True)))",
        f"open(f'{tmp_path}/' + os.environ['RANK'], 'w').close()",
        "time.sleep(300)",
    )
    process = start(script)
    wait_until(lambda: all((tmp_path / rank).exists() for rank in "01"), "the ranks run", 60)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert printed.count("saved") == 2
    assert "Traceback" not in printed
    assert printed.splitlines()[-1] == "torchrun: ended by SIGTERM"


def test_ranks_of_a_machine_refuse_a_config_at_most_once_before_torchruns_summary() -> None:
    """If another rank is faster, torchrun ends the one that would print."""
    process = start("-m", "trainer", "config=nowhere.yaml")
    printed, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    before, _, summary = printed.partition("trainer FAILED")
    assert before.count("nowhere.yaml: 1 problem\n") <= 1
    assert "nowhere.yaml: 1 problem\n" in summary
