"""The roofline against independent calculations, calculations by hand, and invariants."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.cluster_config import RatesConfig
from study.load import load_study_file
from study.roofline import step_roofline
from trainer.config import ModelConfig
from trainer.flops import flops_per_token

H200 = RatesConfig(
    matmul_tflops=790, copy_tb_s=4.3, attention_forward_tflops=400, attention_backward_tflops=330
)


def shape(**values: Any) -> ModelConfig:
    return ModelConfig.model_validate(values)


SHAPES = {
    "27.5M": (shape(dim=512, n_layers=8, n_heads=8), 258),
    "85M": (shape(dim=768, n_layers=12, n_heads=12), 258),
    "206M": (shape(dim=1024, n_layers=16, n_heads=16), 258),
    "1B": (shape(dim=2048, n_layers=16, n_heads=32), 32_768),
}


@pytest.mark.parametrize(
    ("name", "tokens_per_s"), [("27.5M", 2.0e6), ("85M", 0.75e6), ("206M", 0.36e6), ("1B", 0.107e6)]
)
def test_independently_computed_rooflines(name: str, tokens_per_s: float) -> None:
    """An independent per-operation count for one H200 at these rates, batch 8 x 2048, rounded."""
    model, vocab_size = SHAPES[name]
    roofline = step_roofline(model, vocab_size, 8, 2048, H200)
    assert roofline.tokens_per_s == pytest.approx(tokens_per_s, rel=0.06)


def test_the_smallest_models_step_takes_8_ms() -> None:
    roofline = step_roofline(*SHAPES["27.5M"], 8, 2048, H200)
    assert roofline.step_s == pytest.approx(8.0e-3, rel=0.02)


ONE_A_SECOND = RatesConfig(
    matmul_tflops=1e-12,
    copy_tb_s=1e-12,
    attention_forward_tflops=1e-12,
    attention_backward_tflops=1e-12,
)


def test_a_small_step_by_hand() -> None:
    """d = 4, one layer, 2 heads, h = 16, V = 10, 2 sequences of 8, all rates 1 per second."""
    model = shape(dim=4, n_layers=1, n_heads=2, multiple_of=8)
    assert model.ffn_hidden == 16  # int(32 / 3) = 10, rounded up to a multiple of 8
    roofline = step_roofline(model, 10, 2, 8, ONE_A_SECOND)
    # Weights in matmuls: q, k, v, o 4 * 16, FFN 3 * 64, logits 40; 6 FLOPs per weight and token.
    assert roofline.matmul_s == pytest.approx(6 * (64 + 192 + 40) * 16)
    # A token attends to 4 keys on average: 2 matmuls * 2 FLOPs * width 4; backward 2.5 times that.
    assert roofline.attention_s == pytest.approx(3.5 * 4 * 4 * 4 * 16)
    # 3 norms of 5 tensors, 2 sums of 3, the embedding's 3, queries and keys 8, of width 4;
    # SwiGLU 8 of width 16; 2 bytes a value.
    assert roofline.pointwise_s == pytest.approx(2 * ((15 + 6 + 3 + 8) * 4 + 8 * 16) * 16)
    assert roofline.loss_s == pytest.approx(2 * 10 * 2 * 16)
    # 64 + 192 + 2 * 40 + 3 * 4 parameters: 4 bytes for the norm, 28 for AdamW, 2 for the copy.
    assert roofline.optimizer_s == pytest.approx(348 * 34)
    # In fp32 the weight itself is what matmuls read.
    exact = step_roofline(model, 10, 2, 8, ONE_A_SECOND.model_copy(update={"dtype": "fp32"}))
    assert exact.optimizer_s == pytest.approx(348 * 32)
    # Muon: in the block 4 bytes of state less, read and written. 5 iterations of 4m^2n + 2m^3 for 4
    # matrices of 4 x 4 and 3 of 4 x 16.
    muon = step_roofline(model, 10, 2, 8, ONE_A_SECOND, optimizer="muon")
    flops = 5 * (4 * (4 * 64 + 2 * 64) + 3 * (4 * 256 + 2 * 64))
    assert muon.optimizer_s == pytest.approx(348 * 34 - 256 * 8 + flops)


@pytest.mark.parametrize(
    ("changes", "weights", "values"),
    [
        ({}, 64 + 192 + 40, (24 + 8) * 4 + 8 * 16),
        ({"norm_type": "layernorm"}, 64 + 192 + 40, (24 + 8) * 4 + 8 * 16),
        ({"qk_norm": True}, 64 + 192 + 40, (24 + 10) * 4 + 8 * 16),
        ({"pos_embed": "none"}, 64 + 192 + 40, 24 * 4 + 8 * 16),
        ({"activation": "relu2", "n_kv_heads": 1}, 48 + 128 + 40, 24 * 4 + 4 * 6 + 5 * 16),
    ],
    ids=str,
)
def test_architectures_by_hand(changes: dict[str, Any], weights: int, values: int) -> None:
    """The step above: weights in matmuls, and values that the pointwise operations move."""
    model = shape(dim=4, n_layers=1, n_heads=2, multiple_of=8, **changes)
    roofline = step_roofline(model, 10, 2, 8, ONE_A_SECOND)
    assert roofline.matmul_s == pytest.approx(6 * weights * 16)
    assert roofline.pointwise_s == pytest.approx(2 * values * 16)


@pytest.mark.parametrize(("causal", "backward_tflops"), [(True, 1.25), (False, 0.5)])
def test_its_matmuls_are_those_that_mfu_counts(causal: bool, backward_tflops: float) -> None:
    """Except that MFU counts attention backward as 2 forwards, not 2.5, or without the mask.

    At 1.25 TFLOP/s 2.5 forwards take as long as 2, at 0.5 as long as 5, which makes 12*L*S*q.
    """
    model, vocab_size = SHAPES["206M"]
    rates = RatesConfig(
        matmul_tflops=1,
        copy_tb_s=1e9,
        attention_forward_tflops=1,
        attention_backward_tflops=backward_tflops,
    )
    roofline = step_roofline(model, vocab_size, 1, 2048, rates)
    expected_s = flops_per_token(model, vocab_size, 2048, causal=causal) * 2048 / 1e12
    assert roofline.matmul_s + roofline.attention_s == pytest.approx(expected_s, rel=1e-3)


def test_a_window_limits_the_keys_of_attention() -> None:
    """Counted by token: the i-th attends to min(i, W), half of itself, as without a window."""
    model = shape(dim=64, n_layers=3, n_heads=2, sliding_window=100)
    seen = sum(min(i, 100) for i in range(1000)) / 1000
    found = attention_tera_flops(model, 1000) * 1e12 / 1000
    assert found == pytest.approx(4 * 3 * 64 * seen, rel=0.01)
    whole = shape(dim=64, n_layers=3, n_heads=2)
    assert attention_tera_flops(model, 80) == attention_tera_flops(whole, 80)


def test_a_document_mask_limits_the_keys_to_those_that_the_run_counted() -> None:
    """10 keys a token where S/2 is 500, forward: two matmuls of 2 FLOPs a key and unit of q."""
    model = shape(dim=64, n_layers=3, n_heads=2, head_dim=16)
    assert attention_tera_flops(model, 1000, 10.0) == pytest.approx(4 * 3 * 32 * 10 * 1000 / 1e12)
    assert attention_tera_flops(model, 1000) == attention_tera_flops(model, 1000, 500.0)
    step = step_roofline(model, 258, 1, 1000, H200)
    fewer = step_roofline(model, 258, 1, 1000, H200, context=10.0)
    assert step.matmul_s == fewer.matmul_s
    assert step.pointwise_s == fewer.pointwise_s


def attention_tera_flops(model: ModelConfig, seq_len: int, context: float | None = None) -> float:
    """Return the forward FLOPs of attention over a sequence, 1e12: its seconds at 1 TFLOP/s."""
    rates = RatesConfig(
        matmul_tflops=1, copy_tb_s=1, attention_forward_tflops=1, attention_backward_tflops=1e30
    )
    return step_roofline(model, 258, 1, seq_len, rates, context=context).attention_s


def test_fewer_key_and_value_heads_and_a_tied_output_by_hand() -> None:
    """d = 8, one layer, 4 heads of 2, h = 16, V = 10, one sequence of 8, all rates 1 per second."""
    values = {"dim": 8, "n_layers": 1, "n_heads": 4, "multiple_of": 16, "ffn_dim_multiplier": 0.5}
    all_heads = step_roofline(shape(**values), 10, 1, 8, ONE_A_SECOND)
    one_head = step_roofline(shape(**values, n_kv_heads=1), 10, 1, 8, ONE_A_SECOND)
    tied = step_roofline(shape(**values, weight_tying=True), 10, 1, 8, ONE_A_SECOND)
    # wk and wv have 8 * 2 weights each in place of 8 * 8; rotary positions move 6 values a token
    # fewer, in and out, forward and backward; each query head attends to as many keys.
    assert all_heads.matmul_s - one_head.matmul_s == 6 * 2 * 48 * 8
    assert all_heads.pointwise_s - one_head.pointwise_s == 2 * 4 * 6 * 8
    assert all_heads.optimizer_s - one_head.optimizer_s == 2 * 48 * 34
    assert all_heads.attention_s == one_head.attention_s
    # A tied output is the same matmul, without separate weights to update.
    assert tied.matmul_s == all_heads.matmul_s
    assert all_heads.optimizer_s - tied.optimizer_s == 80 * 34


def test_another_micro_batch_costs_no_optimizer_step() -> None:
    model, vocab_size = SHAPES["85M"]
    one, three = (step_roofline(model, vocab_size, 8, 2048, H200, passes) for passes in (1, 3))
    assert three.optimizer_s == one.optimizer_s
    assert three.step_s - three.optimizer_s == pytest.approx(3 * (one.step_s - one.optimizer_s))
    assert three.tokens_per_s > one.tokens_per_s


RATE = st.floats(0.01, 1000)


@given(
    dims=st.tuples(*[st.integers(1, 64).map(lambda n: 16 * n)] * 2),
    layers=st.tuples(*[st.integers(1, 48)] * 2),
    vocab_sizes=st.tuples(*[st.integers(2, 200_000)] * 2),
    batches=st.tuples(*[st.integers(1, 64)] * 2),
    lengths=st.tuples(*[st.integers(16, 8192)] * 2),
    rates=st.tuples(RATE, RATE, RATE, RATE),
    faster=st.floats(1, 10),
)
def test_more_work_takes_longer_and_faster_kernels_less(
    dims: tuple[int, int],
    layers: tuple[int, int],
    vocab_sizes: tuple[int, int],
    batches: tuple[int, int],
    lengths: tuple[int, int],
    rates: tuple[float, float, float, float],
    faster: float,
) -> None:
    def step_s(which: int, factor: float = 1) -> float:
        pick = [sorted(pair)[which] for pair in (dims, layers, vocab_sizes, batches, lengths)]
        model = shape(dim=pick[0], n_layers=pick[1], n_heads=2)
        names = [name for name in RatesConfig.model_fields if name != "dtype"]
        given = dict(zip(names, (factor * rate for rate in rates), strict=True))
        return step_roofline(model, *pick[2:], RatesConfig.model_validate(given)).step_s

    assert step_s(1) >= step_s(0) > 0
    assert step_s(0, faster) == pytest.approx(step_s(0) / faster)


def test_both_h200_of_the_clusters_have_the_measured_rates() -> None:
    clusters = load_study_file("config/config.yaml").clusters
    assert clusters["h200"].rates == clusters["miso"].rates == H200
    assert clusters["sphinx"].rates is None
    assert clusters["local"].rates is None


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.roofline", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )


def test_the_script_prints_shapes_of_the_ladder_and_any_other() -> None:
    """The same two figures as above, for a model of the ladder and for its shape."""
    ladder = command("--cluster", "miso", "--model", "small").stdout
    assert "| miso      | H200  | small   |        27.54 |        7.93 |  2,066,173 |" in ladder
    wide = "{dim: 2048, n_layers: 16, head_dim: 64}"
    assert "152.5 |    107,452" in command("--shape", wide, "--vocab-size", "32768").stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--cluster", "sphinx"),
            "sphinx: states no rates; `python -m benchmarks.roofline --measu",
        ),
        (("--cluster", "h20"), "clusters.yaml: 1 problem\n  no entry 'h20'; did you mean 'h200'?"),
        (("--shape", "{dim: 64, n_layer: 2}"), "n_layer: unknown key; did you mean 'n_layers'?"),
        (("--models", "nowhere.yaml"), "nowhere.yaml: 1 problem\n  cannot be read: No such file"),
    ],
)
def test_a_mistake_is_reported(arguments: tuple[str, ...], expected: str) -> None:
    done = command(*arguments)
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_measured_rates_are_those_of_known_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock on which each call takes a second, a rate is the work of a call."""
    from benchmarks import measure_rates

    sizes = measure_rates.Sizes("fp32", square=8, copy_bytes=100, heads=3, seq_len=16, window_s=1)
    seconds = {"both": 3.0}  # forward and backward; all other work takes 1 s
    monkeypatch.setattr(
        measure_rates, "timed_s", lambda work, count: seconds.get(work.__name__, 1.0)
    )
    float32 = measure_rates.torch.float32
    assert measure_rates.matmul_tflops(sizes, "cpu", float32) * 1e12 == 2 * 8**3
    assert measure_rates.copy_tb_s(sizes, "cpu") * 1e12 == pytest.approx(200)
    forward, backward = measure_rates.attention_tflops(sizes, "cpu", float32)
    # 3 heads, scores and mix: 2 matmuls of 2 * 16 * 16 * 64 FLOPs, half of it masked
    assert forward * 1e12 == pytest.approx(3 * 2 * 2 * 16 * 16 * 64 / 2)
    assert backward * 1e12 == pytest.approx(forward * 1e12 * 2.5 / 2)


def test_sustained_rates_name_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU on which a call takes 1 s, and 2 s after the first half of the work."""
    from benchmarks import measure_rates
    from trainer import gpu_state

    calls: list[int] = []

    def timed_s(work: Callable[[], object], count: int) -> float:
        calls.append(count)
        slow = 2.0 if len(calls) % 3 == 0 else 1.0
        return slow * (3 if work.__name__ == "both" else 1)

    state = gpu_state.GpuState(1620, 700.0, ("power limit",))
    monkeypatch.setattr(measure_rates, "timed_s", timed_s)
    monkeypatch.setattr(gpu_state, "read", lambda uuid: state)
    monkeypatch.setattr(
        measure_rates.torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="x")
    )
    sizes = measure_rates.Sizes("fp32", square=100, copy_bytes=100, heads=1, seq_len=4, window_s=1)
    lines = measure_rates.sustained_lines(sizes, "cpu", measure_rates.torch.float32)
    assert lines[0] == "#   matmul_tflops: 1e-06 at 1620 MHz (power limit)"  # 2 * 100^3 in 2 s
    assert lines[1] == "#   copy_tb_s: 1e-10 at 1620 MHz (power limit)"
    # 4 * 4^2 * 64 / 2 FLOPs in 2 s, and 2.5 times as many in 6 - 2 s
    assert lines[2].startswith(
        "#   attention_forward_tflops, attention_backward_tflops: 1.02e-09, "
    )
    assert lines[2].endswith(", 1.28e-09 at 1620 MHz (power limit)")
    assert calls == [1, 2, 2, 1, 2, 2, 1, 2, 2, 1, 1, 1]


def test_rates_measured_here_are_valid_rates_of_a_cluster() -> None:
    from study.cluster_config import ClusterConfig
    from trainer.yaml_files import parse_yaml

    text = command("--measure").stdout
    rates = ClusterConfig.model_validate(
        {"gpu_name": "here", "gpus_per_node": 1, **parse_yaml(text, "--measure")}
    ).rates
    assert rates is not None
