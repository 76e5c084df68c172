"""The numbers of docs/from_lingua.md, from lingua's formulas written anew, and from our code."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.distributed.fsdp import MixedPrecisionPolicy

from trainer.config import ModelConfig, OptimConfig, RunConfig
from trainer.execution.choices import Machine, choose
from trainer.execution.precision import precision
from trainer.flops import flops_per_token
from trainer.loop.learner import build_model
from trainer.model.adamw import AdamW
from trainer.model.learning_rate import learning_rate
from trainer.model.model import Transformer
from trainer.model.rotary import rotary_table
from trainer.yaml_files import parse_yaml

PAGE = Path(__file__).parents[2] / "docs" / "from_lingua.md"
CPU = torch.device("cpu")
MINIMAL = {
    "dump_dir": "out",
    "device": "cpu",
    "steps": 2,
    "model": {"dim": 32, "n_layers": 2, "n_heads": 2},
    "data": {"root_dir": "data", "sources": {"text": 1.0}, "seq_len": 16},
}


def table(*head: str) -> list[list[str]]:
    """Return the rows of the page's table with a head, as text."""
    marked = f"| {' | '.join(head)} |"
    rows = PAGE.read_text().split(f"{marked}\n|{'---|' * len(head)}\n")[1].split("\n\n")[0]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]


def lingua_factor(config: OptimConfig, step: int, steps: int) -> float:
    """Return lingua's learning rate / lr at a count of steps from 0."""
    warmup, low, cycle = config.warmup, config.lr_min_ratio, config.cycle_length
    if config.scheduler == "constant":
        return 1.0
    if step < warmup:
        return step / warmup
    past = (step - warmup) / (steps - warmup)
    if config.scheduler == "linear":
        return past * low + 1 - past
    if config.scheduler == "inv_sqrt":
        return max((warmup / step) ** config.exp_factor, low)
    if config.scheduler == "cosine":
        sign = -1 if step // (steps * cycle) % 2 else 1
        angle = math.pi * past**config.cosine_theta / cycle
        return low + (1 - low) / 2 * (1 + sign * math.cos(angle))
    length = int(steps * cycle)
    end = (step // length + 1) * length
    decay = int(end * config.decay_fraction)
    if step <= end - decay:
        return 1.0
    done = (step - end + decay) / decay
    return 1 / (done / low + 1 - done)


@given(
    st.sampled_from(["cosine", "linear", "constant", "inv_sqrt", "wsd"]),
    st.integers(2, 300),
    st.integers(1, 300),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.floats(0.5, 2.0),
)
@settings(max_examples=60)
def test_a_steps_rate_is_linguas_one_step_later(
    scheduler: str, steps: int, warmup: int, cycle: float, theta: float
) -> None:
    """Except at the ends of cycles, and the last step, which lingua never uses."""
    assume(warmup <= 0.8 * int(steps * cycle))  # the first cycle begins at its peak
    config = OptimConfig.model_validate(
        {
            "lr": 1.0,
            "scheduler": scheduler,
            "warmup": warmup,
            "cycle_length": cycle,
            "cosine_theta": theta,
            "decay_fraction": 0.1,
        }
    )
    ours = [learning_rate(config, step, steps) for step in range(1, steps)]
    theirs = [lingua_factor(config, step, steps) for step in range(1, steps)]
    if scheduler == "cosine":
        ends = [step for step in range(1, steps) if step / (steps * cycle) % 1 == 0]
        for step in ends:  # the other sign, of the cycle that ends here
            assert ours[step - 1] + theirs[step - 1] == pytest.approx(1.1)
            theirs[step - 1] = ours[step - 1]
    if scheduler == "wsd":
        length = int(steps * cycle)
        for step in range(length, steps, length):  # the end of this cycle's decay, if it has one
            theirs[step - 1] = 0.1 if step >= 10 else 1.0
        whole = steps // length * length  # lingua begins one more cycle, which the run's end cuts
        ours, theirs = ours[:whole], theirs[:whole]
    assert ours == pytest.approx(theirs)


def test_the_pages_learning_rates() -> None:
    config = OptimConfig(lr=3e-4, warmup=100, lr_min_ratio=0.1)
    rows = table("step", "lingua", "here")
    assert [int(step) for step, *_ in rows] == [1, 2, 3, 4, 5, 100, 101, 500]
    for step, theirs, ours in rows:
        assert float(ours) == pytest.approx(learning_rate(config, int(step), 500), rel=1e-6)
        used = config.lr * lingua_factor(config, int(step) - 1, 500)
        assert float(theirs) == pytest.approx(used, rel=1e-6)


def test_the_pages_end_of_a_cycle() -> None:
    config = OptimConfig(lr=1.0, cycle_length=0.5, lr_min_ratio=0.1)
    assert lingua_factor(OptimConfig(), 500, 500) == 1.0  # a run with more steps goes on there
    assert "the formula at step 500 of 500 is 1" in said()
    for step, theirs, ours in table("step", "lingua's formula", "ours"):
        assert float(ours) == pytest.approx(learning_rate(config, int(step), 100), abs=1e-6)
        assert float(theirs) == pytest.approx(lingua_factor(config, int(step), 100), abs=1e-6)


def test_the_pages_cycle_that_the_runs_end_cuts() -> None:
    config = OptimConfig(scheduler="wsd", lr=1.0, cycle_length=0.25, lr_min_ratio=0.1)
    assert "`cycle_length: 0.25`, 42 steps" in said()
    for step, theirs, ours in table("step", "lingua's", "here"):
        assert float(ours) == pytest.approx(learning_rate(config, int(step), 42), abs=1e-6)
        assert float(theirs) == pytest.approx(lingua_factor(config, int(step) - 1, 42), abs=1e-6)


def test_the_pages_defaults() -> None:
    """lingua's column was read from its dataclasses."""
    values = {**MINIMAL, "data": {"root_dir": "data", "sources": {"text": 1.0}}}
    dumped = RunConfig.model_validate({**values, "checkpoint": {}}).model_dump(mode="json")
    for key, theirs, ours in table("key", "lingua", "here"):
        value: Any = dumped
        for part in key.strip("`").split("."):
            value = value[part]
        assert parse_yaml(f"is: {ours}", "page")["is"] == value, key
        assert theirs != ours


@pytest.mark.parametrize(
    ("factor", "dim", "theirs", "ours"), table("`init_std_factor`", "d", "lingua's wo", "our wo")
)
def test_the_pages_deviations_of_wo(factor: str, dim: str, theirs: str, ours: str) -> None:
    """lingua draws N(0, s / factor) cut at 3 s: the variance by the formula of a cut normal."""
    width = int(dim)
    sigma, edge = width**-0.5 / (width / 4096), 3 * width**-0.5
    assert float(theirs) == pytest.approx(deviation(sigma, edge), rel=1e-3)
    assert float(ours) == pytest.approx(deviation(sigma, 3 * sigma), rel=1e-3)
    assert factor == "dim_ratio"


def test_wo_is_cut_at_three_of_its_own_deviations() -> None:
    shape = {"dim": 64, "n_layers": 1, "n_heads": 2, "init_std_factor": "dim_ratio"}
    model = Transformer(ModelConfig.model_validate({**shape, "multiple_of": 32}), 2, 4)
    model.init_weights(1)
    drawn = model.state_dict()["layers.0.attention.wo.weight"]
    sigma = 64**-0.5 / (64 / 4096)
    assert drawn.std().item() == pytest.approx(deviation(sigma, 3 * sigma), rel=0.05)
    assert 2.5 * sigma < drawn.abs().max() <= 3 * sigma


def deviation(sigma: float, edge: float) -> float:
    """Return the standard deviation of N(0, sigma) cut at +-edge."""
    cut = edge / sigma
    density = math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi)
    return sigma * math.sqrt(1 - 2 * cut * density / math.erf(cut / math.sqrt(2)))


def test_the_pages_share_of_global_depth() -> None:
    sigma, factor = 512**-0.5, math.sqrt(2 * (8 + 1))
    ratio = deviation(sigma / factor, 3 * sigma) / deviation(sigma / factor, 3 * sigma / factor)
    assert f"With `global_depth` and 8 layers, lingua's is {ratio - 1:.1%} larger." in said()


def test_weight_decay_spares_the_norms() -> None:
    model = make_model()
    optimizer = AdamW(model, OptimConfig(lr=0.5, weight_decay=0.1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, after in model.state_dict().items():
        kept = 1.0 if "norm" in name else 1 - 0.5 * 0.1
        torch.testing.assert_close(after, before[name] * kept)
    assert f"{(2 * 8 + 1) * 512:,} of 27,535,872 parameters at d = 512, 8 layers" in said()


def test_the_residual_stream_is_fp32_under_autocast() -> None:
    model = make_model()
    seen: list[torch.dtype] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output[0].dtype))
        layer.attention.wo.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    with precision("bf16", CPU):
        model(torch.zeros((1, 8), dtype=torch.int64))
    assert seen == [torch.bfloat16, torch.float32] * 2


def make_model() -> Transformer:
    model = Transformer(RunConfig.model_validate(MINIMAL).model, 258, 16)
    model.init_weights(1)
    return model


def test_the_models_seed_draws_the_weights() -> None:
    def drawn(seed: int, own: int | None) -> torch.Tensor:
        config = RunConfig.model_validate(
            {**MINIMAL, "seed": seed, "model": {**MINIMAL["model"], "seed": own}}  # type: ignore[dict-item]
        )
        machine = Machine(has_bf16=False, mkl_is_slow=False, has_onednn=False, cores=1, ranks=1)
        return build_model(config, choose(config, 1, machine), CPU).tok_embeddings.weight

    assert torch.equal(drawn(777, 42), drawn(42, None))
    assert torch.equal(drawn(777, 42), drawn(7, 42))
    assert not torch.equal(drawn(777, None), drawn(42, None))


def test_the_pages_flops_and_shares() -> None:
    """6 N + 12 L S d, N without the input embedding; and tokens by documents of two lengths."""
    model = ModelConfig(dim=512, n_layers=8, n_heads=8)
    expected = 6 * (27_535_872 - 258 * 512) + 12 * 8 * 2048 * 512
    assert flops_per_token(model, 258, 2048, context=1024) == expected
    tokens = [80 * 1000, 20 * 4000]
    assert f"lingua trains on {tokens[0] / sum(tokens):.0%} of tokens from each source" in said()


def test_what_fsdp2_does_to_linguas_rotary_tables() -> None:
    """lingua passes them to each block and keeps the policy's default. bf16 has 8 binary digits."""
    assert MixedPrecisionPolicy(param_dtype=torch.bfloat16).cast_forward_inputs
    cos, sin = rotary_table(2048, 64, 10000.0)
    errors = [(table - table.bfloat16().float()).abs().max().item() for table in (cos, sin)]
    assert errors == [2**-9, 2**-9]
    assert "by which cos and sin are off by up to 0.002" in said()


def said() -> str:
    """Return the page's text on one line."""
    return re.sub(r"\s+", " ", PAGE.read_text())
