"""A compile cache that is shared: each run gets code with the kernel that it asked for."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._inductor.config import decide_compile_threads

from tests.trainer.conftest import Runs
from trainer.execution import kernels, sdpa
from trainer.execution.choices import Choices
from trainer.execution.compiling import tag_cache, use_workers

FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"
BATCHED_PRODUCT = "aten::bmm"
"""Called by attention with plain matmuls, `math`, and not by the rest of a block."""

COMPILED = ("distributed={compile: true, cpu_matmul: mkl}", "model.n_layers=1")
TRACED = ("profiling={run: true, profile_warmup: 1, profile_steps: 1}", "steps=3")


@pytest.fixture
def torch_state() -> Iterator[None]:
    """Leave torch as it was for the tests that come after."""
    threads, tag = torch.get_num_threads(), torch.compiler.config.cache_key_tag
    yield
    sdpa.allow_all()
    torch.set_num_threads(threads)
    torch.compiler.config.cache_key_tag = tag
    torch.compiler.reset()


def test_each_rank_compiles_with_its_own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with one process for each core of the machine, and as many as the user says."""
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "7")  # restored after the test
    use_workers(3)
    assert decide_compile_threads() == 7
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS")
    use_workers(3)
    assert decide_compile_threads() == 3


def attention_operators(names: set[str]) -> set[str]:
    """Return which kernel's operators are among those that ran."""
    return names & {FLASH, BATCHED_PRODUCT}


def trace_of(folder: Path) -> set[str]:
    """Return the names of all that a run's traced step did."""
    (file,) = (folder / "profiling").iterdir()
    return {
        event["name"] for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    }


def test_runs_that_share_a_cache_each_have_their_own_kernel(runs: Runs) -> None:
    cache = f"distributed.compile_cache={runs.folder / 'compiled'}"
    found = {}
    for kernel in ("math", "flash"):
        settings = (*COMPILED, *TRACED, cache, "eval=null", "checkpoint=null")
        runs.run(f"dump_dir={runs.out(kernel)}", f"distributed.attention={kernel}", *settings)
        found[kernel] = attention_operators(trace_of(runs.out(kernel)))
    assert found == {"math": {BATCHED_PRODUCT}, "flash": {FLASH}}


CHOICES = Choices("fp32", True, False, 0, "mkl", 1, attention=None)


class SelfAttention(nn.Module):
    def forward(self, x_BHTE: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(x_BHTE, x_BHTE, x_BHTE, is_causal=True)


@pytest.mark.usefixtures("torch_state")
def test_one_process_can_run_several_kernels() -> None:
    x_BHTE = torch.randn(2, 2, 16, 8)
    found = []
    for kernel in ("math", "flash", "math"):
        kernels.use(replace(CHOICES, attention=kernel), nn.Module())
        tag("cpu")
        model = torch.compile(SelfAttention(), backend="aot_eager", dynamic=False)
        model(x_BHTE)
        with torch.profiler.profile() as profile:
            model(x_BHTE)
        found.append(attention_operators({event.key for event in profile.key_averages()}))
    assert found == [{BATCHED_PRODUCT}, {FLASH}, {BATCHED_PRODUCT}]


@pytest.mark.usefixtures("torch_state")
@pytest.mark.parametrize(("device", "changes"), [("cpu", 4), ("cuda", 2)])
def test_what_changes_compiled_code_changes_the_tag(
    device: str, changes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code for a GPU depends on neither threads nor processor: different nodes share it."""
    tags = [tag(device)]
    torch.backends.cuda.enable_flash_sdp(False)
    tags.append(tag(device))
    monkeypatch.setenv("TORCH_COMPILE_CACHE_KEY_TAG", "of the user")
    tags.append(tag(device))
    torch.set_num_threads(torch.get_num_threads() + 1)
    tags.append(tag(device))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "other")
    tags.append(tag(device))
    assert len(set(tags)) == 1 + changes
    assert tags[-1].startswith("of the user attention=cudnn+efficient+math")


def tag(device: str) -> str:
    """Tag the cache as a run on such a device does; return the tag."""
    tag_cache(torch.device(device))
    return torch.compiler.config.cache_key_tag
