"""What the trainer's commands and failures say."""

import contextlib
import errno
import gc
import io
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import trainer.commands.autotune
import trainer.commands.export
import trainer.commands.precompile
import trainer.tokens.shards
from study.__main__ import main as study_main
from tests.trainer.conftest import make_record
from tests.trainer.small_runs import ALONE, run_config, save_now
from trainer import __main__ as train
from trainer.config import ModelConfig, OptimConfig
from trainer.environment import check
from trainer.files import write_atomically
from trainer.folder import checkpoint
from trainer.folder.checkpoint_state import CheckpointError, Position, find_steps, of_step
from trainer.folder.failure import find_full_disk, reason_of, reported
from trainer.folder.record_file import RecordFile
from trainer.json_files import parse_json
from trainer.model.model import Transformer
from trainer.model.optimizer import Optimizer, build_optimizer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize(
    ("main", "name"),
    [
        (train.main, "trainer"),
        (trainer.commands.autotune.main, "trainer.commands.autotune"),
        (trainer.commands.precompile.main, "trainer.commands.precompile"),
        (trainer.commands.export.main, "trainer.commands.export"),
        (trainer.tokens.shards.main, "trainer.tokens.shards"),
        (study_main, "study"),
    ],
)
def test_help_is_a_usage_on_stdout(
    main: Callable[[list[str]], int], name: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: Any = main([option])
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert not code
    assert said.out.startswith(f"usage: python -m {name} ")
    assert said.err == ""


def test_a_missing_package_is_one_line(tmp_path: Path) -> None:
    """On a Python without the project's packages, as `python3` outside the environment is."""
    for command in (["study", "plan", "--study", "x"], ["trainer", "config=x"]):
        done = subprocess.run(
            [sys.executable, "-S", "-m", *command],
            cwd=ROOT, capture_output=True, text=True, check=False,
            env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stdout == ""
        assert "pydantic, yaml: not installed for this Python; run `make setup`" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_package_that_is_missing_later_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match="torch: not installed for this Python; run `make setup`"):
        check("torch", "numpy")
    monkeypatch.setitem(sys.modules, "study.show.plan", None)
    study = tmp_path / "study.yaml"
    study.write_text("study: x\n")
    assert study_main(["plan", "--study", str(study)]) == 1
    assert "study.show.plan" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_mistake(tmp_path: Path) -> None:
    """As `| head` closes the pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        done = subprocess.run(
            [sys.executable, "-m", "study", "plan", "--study", "config/studies/lingua.yaml"],
            cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == ""


def test_a_full_disk_is_one_line_for_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with full_disk():
        code = study_main(["schemas", "--output", str(tmp_path)])
    assert code == 1
    assert capsys.readouterr().err == f"{tmp_path}/models.schema.json: File too large\n"
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def full_disk(room: int = 100) -> Iterator[None]:
    """Have writes beyond `room` bytes of a file fail, as on a full disk or at a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_stays_as_it_was_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_atomically(path, "before")
    with full_disk(), pytest.raises(OSError, match="File too large") as caught:
        write_atomically(path, "x" * 1000)
    assert caught.value.filename == str(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_no_record_is_half_written_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    records = RecordFile(path, 0)
    records.write(make_record(1))
    before = path.read_bytes()
    with full_disk(len(before) + 50), pytest.raises(OSError, match="too large") as caught:
        records.write(make_record(2))
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    records.write(make_record(2))  # there is room again
    records.close()
    assert [json.loads(line)["global_step"] for line in path.read_text().splitlines()] == [1, 2]


def make_model(vocab_size: int) -> tuple[Transformer, Optimizer]:
    shape = ModelConfig(dim=64, n_layers=1, n_heads=2)  # type: ignore[call-arg]
    model = Transformer(shape, vocab_size, 16)
    model.init_weights(1)
    return model, build_optimizer(model, OptimConfig())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_checkpoint_is_whole_or_not_there_on_a_full_disk(tmp_path: Path, capsys: Any) -> None:
    """On Python 3.14 the file is written when it is closed, and then its name is not known; torch's
    writer complains once more when it is collected."""
    model, optimizer = make_model(258)
    first, second = (Position(step, 0.0, "t") for step in (1, 2))
    save_now(tmp_path, first, ["dump"], model, optimizer)
    config = run_config(tmp_path)
    with full_disk(20_000), pytest.raises(SystemExit) as ended, reported(config, ALONE):
        save_now(tmp_path, second, ["dump"], model, optimizer)
    assert ended.value.code == 1
    assert find_steps(tmp_path) == [1]
    assert not list(tmp_path.glob(".*"))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"rank 0 of 1 on {os.uname().nodename} failed: {tmp_path}" in said
    assert said.endswith("File too large\n")
    del ended  # with its traceback, which holds the writer
    gc.collect()


def test_a_checkpoint_of_another_shape_is_one_line(tmp_path: Path) -> None:
    model, optimizer = make_model(258)
    save_now(tmp_path, Position(1, 0.0, "t"), ["dump"], model, optimizer)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(of_step(tmp_path, 1), *make_model(300))
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    assert "[258, 64]" in text and "[300, 64]" in text and "model.tok_embeddings.weight" in text


class Odd(BaseException):
    """As torch's CheckpointException: not an Exception."""


@pytest.mark.parametrize("error", [Odd("a\nb"), KeyboardInterrupt(), MemoryError()])
def test_every_exception_is_named_with_its_rank(
    error: BaseException, tmp_path: Path, capsys: Any
) -> None:
    with pytest.raises(SystemExit) as ended, reported(run_config(tmp_path), ALONE):
        raise error
    assert ended.value.code == 1
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("rank 0 of 1 on ") and f"failed: {type(error).__name__}" in first
    assert json.loads((tmp_path / "failure.json").read_text())["message"] == first


def test_a_checkpoint_exception_says_what_its_first_rank_raised() -> None:
    from torch.distributed.checkpoint.api import CheckpointException, _wrap_exception

    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError as cause:
        sent = pickle.loads(pickle.dumps(_wrap_exception(cause)))  # to the other ranks
    error = CheckpointException("write", {3: sent})
    assert reason_of(error) == (
        "CheckpointException of rank 3: OSError: [Errno 28] No space left on device"
    )
    found = find_full_disk(error)
    assert found is not None and found.errno == errno.ENOSPC


def test_a_closed_terminal_is_one_line(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit), reported(run_config(tmp_path), ALONE):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"\xff\xfe", "utf-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "4300"),
        (b"", "Expecting value"),
    ],
)
def test_json_that_is_none_is_a_value_error(content: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_json(content)


def test_numbers_that_json_lacks_are_none() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": NaN, "b": [-Infinity, "\\ud83d\\ude00"]}') == {
        "a": None,
        "b": [None, "😀"],
    }


def test_help_needs_no_config_and_no_torch() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert train.main(["config=nowhere.yaml", "--help"]) == 0
    assert "config=FILE" in said.getvalue()
