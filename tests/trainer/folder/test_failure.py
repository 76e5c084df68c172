import errno
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from tests.trainer.small_runs import ALONE, run_config
from tests.waiting import PATIENCE_S
from trainer.files import FileGoneError
from trainer.folder.failure import (
    describe,
    find_full_disk,
    forget,
    reason_of,
    refusals_noted,
    reported,
    write_first,
)
from trainer.problems import ConfigError
from trainer.records import FAILURE as FILE
from trainer.records import Failure
from trainer.world import World


def fail(folder: Path, error: Exception, **data: object) -> dict[str, object]:
    config = run_config(folder, grad_acc_steps=2, data={"batch_size": 8, "seq_len": 64, **data})
    with pytest.raises(SystemExit) as ended, reported(config, ALONE):
        raise error
    assert ended.value.code == 1
    return json.loads((folder / FILE).read_text())


def test_gpu_out_of_memory_names_the_remedy_and_is_not_retried(tmp_path: Path, capsys) -> None:
    facts = fail(tmp_path, torch.OutOfMemoryError("CUDA out of memory."))
    assert facts["retry"] is False
    assert facts["kind"] == "gpu_out_of_memory"
    # Half of the 8 sequences, twice the 2 micro-batches: 16 sequences per step as before.
    assert "data.batch_size=4 grad_acc_steps=4" in str(facts["message"])
    assert "global batch of 16" in str(facts["message"])
    assert "rank 0 of 1" in capsys.readouterr().err


def test_a_deleted_file_of_the_run_is_told_without_a_traceback(tmp_path: Path, capsys) -> None:
    facts = fail(tmp_path, FileGoneError(Path("/results/run.json")))
    assert str(facts["message"]).endswith("deleted or moved during the run: '/results/run.json'")
    assert capsys.readouterr().err == f"{facts['message']}\n"


def test_a_tensor_that_the_machine_has_no_memory_for_is_told_without_a_traceback(
    tmp_path: Path, capsys
) -> None:
    """By the exception that torch raises; other processes may have used the memory."""
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 60, dtype=torch.uint8)
    facts = fail(tmp_path, refused.value)
    assert facts["retry"] is True
    assert str(facts["message"]).startswith("rank 0 of 1 on ")
    assert " is out of memory. data.batch_size = 8 sequences of 64 " in str(facts["message"])
    assert "tried to allocate 1152921504606846976 bytes" in str(facts["message"])
    assert capsys.readouterr().err == f"{facts['message']}\n"


def test_one_sequence_cannot_be_halved(tmp_path: Path) -> None:
    message = str(fail(tmp_path, torch.OutOfMemoryError(), batch_size=1)["message"])
    assert "batch_size=0" not in message
    assert "shorter data.seq_len" in message


def test_out_of_memory_on_one_of_several_ranks(tmp_path: Path) -> None:
    """Eight ranks of 8 sequences and 2 micro-batches: 128 sequences per step."""
    config = run_config(tmp_path, grad_acc_steps=2, data={"batch_size": 8, "seq_len": 64})
    world = World(3, 8, 3, 8, torch.device("cpu"))
    failure = describe(torch.OutOfMemoryError(), config, world)
    assert (failure.rank, failure.kind) == (3, "gpu_out_of_memory")
    assert failure.message.startswith("rank 3 of 8 on ")
    assert "global batch of 128 sequences" in failure.message


class Closed(io.StringIO):
    """A terminal that is gone."""

    def flush(self) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_failure_is_noted_if_nobody_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", Closed())
    monkeypatch.setattr(sys, "stderr", Closed())
    assert str(fail(tmp_path, ValueError("a broken link"))["message"]).endswith("a broken link")


def caused(cause: OSError, link: str) -> RuntimeError:
    """Return an error that was raised from another one, or while that was handled."""
    error = RuntimeError("unexpected pos 64 vs 0")
    setattr(error, link, cause)
    return error


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_a_full_disk_is_told_instead_of_what_it_led_to(tmp_path: Path, capsys, link: str) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/scratch/0.distcp")
    message = str(fail(tmp_path, caused(full, link))["message"])
    assert message.endswith(" failed: /scratch/0.distcp: No space left on device")
    assert capsys.readouterr().err == f"{message}\n"
    nameless = OSError(errno.EDQUOT, "Disk quota exceeded")
    forget(tmp_path)
    message = str(fail(tmp_path, caused(nameless, link))["message"])
    assert message.endswith(f" failed: {tmp_path}: Disk quota exceeded")


def test_another_error_of_a_disk_is_not_a_full_one() -> None:
    assert find_full_disk(caused(OSError(errno.EIO, "Input/output error"), "__cause__")) is None


def test_the_reason_is_one_line() -> None:
    assert reason_of(ValueError("a\n  b")) == "ValueError: a b"
    assert reason_of(KeyboardInterrupt()) == "KeyboardInterrupt"
    nobody = RuntimeError("nobody failed")
    nobody.failures = {}  # type: ignore[attr-defined]  # as torch's CheckpointException has them
    assert reason_of(nobody) == "RuntimeError: nobody failed"


@pytest.mark.parametrize("ending", [SystemExit(75), GeneratorExit()])
def test_the_end_of_a_process_is_not_a_failure(tmp_path: Path, ending: BaseException) -> None:
    with pytest.raises(type(ending)) as ended, reported(run_config(tmp_path), ALONE):
        raise ending
    assert ended.value is ending
    assert not (tmp_path / FILE).exists()


def test_other_failures_may_be_retried_and_show_their_traceback(tmp_path: Path, capsys) -> None:
    assert fail(tmp_path, ValueError("a broken link"))["retry"] is True
    printed = capsys.readouterr().err
    assert "rank 0 of 1" in printed
    assert "ValueError: a broken link" in printed
    assert "Traceback" in printed


def test_what_torchrun_prints_ends_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch's own reading of the file that it names to each rank."""
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    facts = fail(tmp_path, torch.OutOfMemoryError("CUDA out of memory."))
    failed = ProcessFailure(local_rank=0, pid=1, exitcode=1, error_file=str(file))
    other = ProcessFailure(local_rank=1, pid=2, exitcode=1, error_file="")
    shown = str(ChildFailedError("trainer", {0: failed, 1: other}))
    root = shown.partition("Root Cause")[2]
    assert f"traceback : {facts['message']}\n=====" in root

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "nowhere" / "error.json"))
    fail(tmp_path, ValueError("a full disk, for example"))


def test_the_first_failure_is_kept(tmp_path: Path) -> None:
    for rank in (1, 0):
        write_first(tmp_path, Failure(rank=rank, retry=True, message="lost"))
    assert json.loads((tmp_path / FILE).read_text())["rank"] == 1
    forget(tmp_path)
    assert not (tmp_path / FILE).exists()


def test_a_mistake_in_the_config_is_not_reported_as_a_crash(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), reported(run_config(tmp_path), ALONE):
        raise ConfigError("run.yaml", ["steps: missing"])
    assert not (tmp_path / FILE).exists()


def test_a_mistake_in_the_config_is_never_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    write_first(tmp_path, Failure(retry=True, message="an earlier attempt's"))
    with pytest.raises(ConfigError), refusals_noted(tmp_path):
        raise ConfigError("run.yaml", ["steps: missing"])
    failure = Failure.model_validate_json((tmp_path / FILE).read_bytes())
    assert (failure.kind, failure.retry, failure.rank) == ("configuration", False, 1)
    assert "steps: missing" in failure.message


def test_a_rank_of_several_exits_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if something in the process would block the interpreter's exit; what it has printed is
    not lost."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    program = f"""
import sys, threading, time
sys.path.insert(0, {str(Path.cwd())!r})
from pathlib import Path
import torch
from tests.trainer.small_runs import run_config
from trainer.folder.failure import reported
from trainer.world import World
threading.Thread(target=time.sleep, args=(3600,)).start()
with reported(run_config(Path({str(tmp_path)!r})), World(1, 2, 1, 2, torch.device("cpu"))):
    print("step 7")
    raise RuntimeError("lost")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert ended.returncode == 1
    assert ended.stdout == "step 7\n"
    assert "rank 1 of 2" in ended.stderr
    assert json.loads((tmp_path / FILE).read_text())["rank"] == 1
