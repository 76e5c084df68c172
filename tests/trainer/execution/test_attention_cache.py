"""The attention kernel that a benchmark chose, kept for later runs beside the compiled code."""

import json
from pathlib import Path

import pytest
import torch

from tests.trainer.conftest import Runs
from trainer.config import load_run_config
from trainer.execution import attention_choice, sdpa
from trainer.execution.choices import Choices
from trainer.loop.learner import resolve_choices
from trainer.world import World, get_world


class Benchmarks:
    """Runs that choose among this CPU's kernels; the benchmark's answer is given, and counted."""

    def __init__(self, runs: Runs) -> None:
        self.cache = runs.folder / "compiled"
        self.answer: str | None = "flash"
        self.count = 0
        self._config = runs.config

    def fastest(self, *_: object) -> str | None:
        self.count += 1
        return self.answer

    def choose(
        self, *settings: str, kept: str | None = None, rank: int = 0, named: str | None = None
    ) -> str | None:
        cache = f"distributed.compile_cache={self.cache}"
        config = load_run_config([f"config={self._config}", cache, *settings])
        world = get_world("cpu")
        world = World(rank, 1, rank, 1, world.device)
        choices = Choices(**{**vars(resolve_choices(config, world)), "attention": named})
        return attention_choice.choose_attention(config, choices, world, kept).attention

    @property
    def files(self) -> list[Path]:
        return [path for path in self.cache.rglob("*") if path.is_file()]


@pytest.fixture
def benchmarks(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> Benchmarks:
    benchmarks = Benchmarks(runs)
    monkeypatch.setattr(attention_choice, "_fastest", benchmarks.fastest)
    return benchmarks


def test_the_next_run_of_the_shape_takes_the_answer(benchmarks: Benchmarks) -> None:
    assert benchmarks.choose() == "flash"
    benchmarks.answer = "efficient"  # noise
    assert benchmarks.choose("seed=7", "optim.lr=1e-3", "steps=5") == "flash"
    assert benchmarks.count == 1
    (file,) = benchmarks.files
    assert json.loads(file.read_text())["attention"] == "flash"


@pytest.mark.parametrize(
    "setting",
    [
        "data.batch_size=2",
        "data.seq_len=128",
        "model.n_heads=4",
        "model.n_kv_heads=1",
        "distributed.model_dtype=bf16",
        "model.sliding_window=16",
    ],
)
def test_another_shape_is_benchmarked(benchmarks: Benchmarks, setting: str) -> None:
    benchmarks.choose()
    benchmarks.answer = "efficient"
    assert benchmarks.choose(setting) == "efficient"
    assert benchmarks.choose() == "flash"
    assert benchmarks.count == 2


def test_another_gpu_or_other_software_is_benchmarked(
    benchmarks: Benchmarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmarks.choose()
    benchmarks.answer = "efficient"
    with monkeypatch.context() as patched:
        patched.setattr(attention_choice, "device_name", lambda world: "NVIDIA H200")
        assert benchmarks.choose() == "efficient"
    with monkeypatch.context() as patched:
        patched.setattr(torch, "__version__", "2.99.0")
        assert benchmarks.choose() == "efficient"
    with monkeypatch.context() as patched:  # a package that is installed here stands for FA4
        patched.setitem(sdpa.PACKAGES, "fa4", "numpy")
        assert benchmarks.choose() == "efficient"
    assert benchmarks.choose() == "flash"


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"attention": "slow"}', b"{}", b"null"])
def test_an_answer_that_nobody_wrote_is_benchmarked_again(
    benchmarks: Benchmarks, content: bytes
) -> None:
    benchmarks.choose()
    (file,) = benchmarks.files
    good = file.read_bytes()
    for wrong in (
        content,
        good.replace(b'"flash",\n "q', b'"math",\n "q'),
        good.replace(b"64", b"65"),
    ):
        assert wrong != good
        file.write_bytes(wrong)
        benchmarks.choose()
        assert file.read_bytes() == good
    assert benchmarks.count == 4


def test_a_kernel_whose_package_does_not_load_is_not_taken(
    benchmarks: Benchmarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmarks.answer = "fa3"
    benchmarks.choose()
    benchmarks.answer = "flash"
    assert benchmarks.choose() == "flash"
    monkeypatch.setattr(sdpa, "find_problem", lambda name: None)
    benchmarks.answer = "fa3"
    assert (benchmarks.choose("seed=1"), benchmarks.choose("seed=2")) == ("flash", "flash")


def test_a_resumed_run_keeps_its_own_kernel(benchmarks: Benchmarks) -> None:
    """Unless that is a package's, which is not installed here."""
    benchmarks.choose()
    assert benchmarks.choose(kept="efficient") == "efficient"
    assert benchmarks.choose() == "flash"
    assert benchmarks.choose(kept="fa3") == "flash"


def test_a_kernel_that_the_settings_name_is_not_benchmarked(benchmarks: Benchmarks) -> None:
    assert benchmarks.choose(named="math", kept="efficient") == "math"
    assert benchmarks.count == 0


def test_no_answer_is_kept_if_nothing_ran(benchmarks: Benchmarks) -> None:
    """The benchmark ran out of memory, for example; another run of the shape may not."""
    benchmarks.answer = None
    assert benchmarks.choose() == "torch"
    assert benchmarks.files == []


def test_one_process_writes(benchmarks: Benchmarks) -> None:
    assert benchmarks.choose(rank=1) == "flash"
    assert benchmarks.files == []


def test_without_a_folder_each_run_is_benchmarked(benchmarks: Benchmarks) -> None:
    for _ in range(2):
        assert benchmarks.choose("distributed.compile_cache=null") == "flash"
    assert benchmarks.count == 2


def test_a_folder_that_cannot_be_written_is_no_error(benchmarks: Benchmarks) -> None:
    benchmarks.cache.write_text("a file")
    for _ in range(2):
        assert benchmarks.choose() == "flash"
    assert benchmarks.count == 2
