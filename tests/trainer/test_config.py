import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import ModelConfig, RunConfig, load_run_config
from trainer.layers import merge, nest
from trainer.problems import ConfigError

MINIMAL = """
dump_dir: out
steps: 10
model: {dim: 64, n_layers: 2, n_heads: 2}
data: {root_dir: data, sources: {text: 1.0}}
"""

GUIDE = Path(__file__).parent / "data" / "guide.yaml"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path


def load(path: Path, *arguments: str) -> RunConfig:
    return load_run_config([f"config={path}", *arguments])


def problems(path: Path, *arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, *arguments)
    return [str(problem) for problem in caught.value.problems]


def test_the_groups_own_configuration_is_read_unchanged() -> None:
    config = load(GUIDE)
    assert config.tokens_per_step(gpus=8) == 131_072
    assert config.optim.lr == 3e-4
    assert config.eval is None


def test_a_mistake_is_reported_with_file_and_line(config_file: Path) -> None:
    config_file.write_text(MINIMAL + "optim: {lrr: 1}\nseed: yes\n")
    with pytest.raises(ConfigError) as caught:
        load(config_file, "steps=0", "optim.scheduler=5")
    assert str(caught.value).splitlines() == [
        f"{config_file}: 2 problems",
        "  line 6: optim.lrr: unknown key; did you mean 'lr'?",
        "  line 7: seed: found 'yes'; expected a number",
        "command line: 2 problems",
        "  steps: found 0; expected a number above 0",
        "  optim.scheduler: found 5; expected 'cosine', 'linear', 'constant', 'inv_sqrt' or 'wsd'",
    ]


def test_command_line_overrides_the_file(config_file: Path) -> None:
    config = load(config_file, "optim.lr=1e-3", "model.dim=128", "eval={}")
    assert config.optim.lr == 1e-3
    assert config.model.dim == 128
    assert config.eval is not None


@pytest.mark.parametrize(("heads", "derived"), [("n_heads", "head_dim"), ("head_dim", "n_heads")])
def test_heads_that_do_not_divide_are_reported_beside_other_mistakes(
    config_file: Path, heads: str, derived: str
) -> None:
    model = f"model={{{heads}: 7, {derived}: null, n_kv_heads: 4, n_layers: many, norm: 1}}"
    found = problems(config_file, model)
    assert sorted(found) == [
        f"model.{heads} = 7 does not divide dim = 64; try 8",
        "model.n_layers: found 'many'; expected a number",
        "model.norm: unknown key; did you mean 'norm_type'?",
    ]


@pytest.mark.parametrize(
    ("shape", "wrong"),
    [("dim: x, n_heads: 2", "dim"), ("dim: 64, n_heads: x", "n_heads"), ("head_dim: 2", "dim")],
)
def test_a_count_that_would_be_derived_is_not_missing(
    tmp_path: Path, shape: str, wrong: str
) -> None:
    """`head_dim: missing; this key is required` stood beside what was wrong with dim."""
    file = tmp_path / "run.yaml"
    file.write_text(MINIMAL.replace("dim: 64, n_layers: 2, n_heads: 2", f"{shape}, n_layers: 2"))
    (problem,) = problems(file)
    assert f"model.{wrong}: " in problem


def test_heads_follow_from_a_width_with_an_exponent(config_file: Path) -> None:
    model = load(config_file, "model={dim: 1e3, n_layers: 2, n_heads: 1e1}").model
    assert (model.dim, model.n_heads, model.head_dim) == (1000, 10, 100)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (
            "profiling.run=true",
            "profiling.run: profile_warmup = 102 leaves none of steps = 10 to trace; ",
        ),
        ("optim.lrr=1", "optim.lrr: unknown key; did you mean 'lr'?"),
        ("modle={}", "modle: unknown key; did you mean 'model'?"),
        ("model.n_heads=7", "model.n_heads = 7 does not divide dim = 64; try 8"),
        ("model.n_kv_heads=3", "model.n_kv_heads = 3 does not divide n_heads = 2; try 2"),
        ("optim.warmup=11", "optim.warmup = 11 is more than steps = 10"),
        ("steps=many", "steps: found 'many'; "),
        ("data.sources=[]", "data.sources: found an empty list; expected a mapping"),
        ("optim.lr=[", "optim.lr: '[' is not a YAML value"),
        ("optim.lr=true", "optim.lr: found true; expected a number"),
        ("optim.lr='3e-4'", "optim.lr: found '3e-4'; expected a number"),
        ("steps=1_000", "steps: found '1_000'; expected a number, written without underscores"),
        ("steps='10'", "steps: found '10'; expected a number, written without quotes"),
        ("optim.fused=yes", "optim.fused: found 'yes'; expected true or false"),
        ("optim.clip=no", "optim.clip: found 'no'; expected a number"),
        ("optim.scheduler=on", "optim.scheduler: found 'on'; expected 'cosine', 'linear', 'cons"),
        ("optim.beta1=1", "optim.beta1: found 1; expected a number below 1"),
        ("optim.beta2=1.0", "optim.beta2: found 1.0; expected a number below 1"),
        ("optim.momentum=1", "optim.momentum: found 1; expected a number below 1"),
        (
            "distributed.compile=yes",
            "distributed.compile: found 'yes'; expected true, false or 'auto'",
        ),
        (
            "distributed.loss_chunk=true",
            "distributed.loss_chunk: found true; expected a number or 'auto'",
        ),
        ("distributed.loss_chunk=-3", "distributed.loss_chunk: found -3; expected a number of"),
        ("name=5", "name: found 5; expected a string"),
        ("logging.wandb=true", "logging.wandb: found true; expected a mapping"),
        ("logging.wandb=5", "logging.wandb: found 5; expected a mapping"),
        ("data.sources={text: true}", "data.sources.text: found true; expected a number"),
        ("data.sources={text: '1'}", "data.sources.text: found '1'; expected a number"),
        ("data.tokenizer={1: 2}", "data.tokenizer.1: unknown key; expected one of: name"),
        ("nonsense", "nonsense: expected key=value"),
    ],
)
def test_a_mistake_is_reported_with_its_key_and_remedy(
    config_file: Path, argument: str, expected: str
) -> None:
    (problem,) = problems(config_file, argument)
    assert problem.startswith(expected)


def test_all_mistakes_are_reported_together(config_file: Path) -> None:
    assert len(problems(config_file, "optim.lrr=1", "steps=0", "model.n_heads=7")) == 3


def test_run_yaml_reads_back_as_the_same_run(config_file: Path, tmp_path: Path) -> None:
    config = load(config_file, "optim.lr=1e-3")
    path = tmp_path / "again.yaml"
    path.write_text(config.to_yaml())
    assert load(path) == config


def test_fingerprint_ignores_paths(config_file: Path) -> None:
    one, other = load(config_file), load(config_file, "dump_dir=elsewhere", "name=x")
    assert one.fingerprint(1) == other.fingerprint(1)
    assert one.fingerprint(1) != one.fingerprint(2)
    assert one.fingerprint(1) != load(config_file, "distributed.compile=true").fingerprint(1)


def test_trajectory_changes_with_what_the_losses_depend_on(config_file: Path) -> None:
    one = load(config_file, "data.batch_size=8")
    halves = load(config_file, "data.batch_size=4", "logging.freq=1", "checkpoint=null")
    assert one.trajectory(1) == halves.trajectory(2)
    assert one.trajectory(1) != one.trajectory(2)
    assert one.trajectory(1) != load(config_file, "optim.lr=1e-3").trajectory(1)


def test_tensor_parallel_gpus_share_their_sequences(config_file: Path) -> None:
    """4 sequences on each of 8 GPUs, or of 4 pairs, 3 times."""
    keys = ("data.batch_size=4", "grad_acc_steps=3", "data.seq_len=64")
    assert load(config_file, *keys).tokens_per_step(8) == 96 * 64
    assert load(config_file, *keys, "distributed.tp_size=2").tokens_per_step(8) == 48 * 64


def test_a_run_is_not_resumed_in_other_number_formats(config_file: Path) -> None:
    formats = (
        *("model_dtype=bf16", "residual_dtype=bf16", "reduce_dtype=bf16"),
        *("matmul_allow_tf32=true", "float8_recipe=rowwise", "float8_recipe=tensorwise"),
    )
    loaded = [load(config_file, f"distributed.{setting}") for setting in formats]
    found = {config.trajectory(1) for config in (load(config_file), *loaded)}
    assert len(found) == 1 + len(formats)
    unused = load(config_file, "distributed.float8_filter=layers", "distributed.compile=true")
    assert unused.trajectory(1) == load(config_file).trajectory(1)


@pytest.mark.parametrize(("dim", "hidden"), [(512, 1536), (768, 2048), (1024, 2816)])
def test_ffn_hidden_matches_the_guide(dim: int, hidden: int) -> None:
    assert ModelConfig(dim=dim, n_layers=1, n_heads=8).ffn_hidden == hidden


@pytest.mark.parametrize(
    ("dim", "multiple", "hidden"), [(4096, 1024, 14_336), (8192, 4096, 28_672)], ids=["8B", "70B"]
)
def test_ffn_hidden_matches_llama_3(dim: int, multiple: int, hidden: int) -> None:
    """`intermediate_size` of config.json for `ffn_dim_multiplier` of params.json, both Meta's."""
    shape = {"dim": dim, "n_layers": 1, "n_heads": 32, "multiple_of": multiple}
    assert ModelConfig.model_validate({**shape, "ffn_dim_multiplier": 1.3}).ffn_hidden == hidden


@given(dim=st.integers(1, 512), heads=st.integers(1, 16), multiple=st.integers(1, 512))
def test_shapes_are_valid_or_rejected(dim: int, heads: int, multiple: int) -> None:
    try:
        model = ModelConfig(dim=dim, n_layers=1, n_heads=heads, multiple_of=multiple)
    except ValueError:
        assert dim % heads or (dim // heads) % 2
        return
    assert model.ffn_hidden % multiple == 0
    assert model.ffn_hidden >= math.floor(8 * dim / 3)
    assert model.head_dim * heads == dim


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), st.integers())
def test_dotted_keys_are_nested(keys: list[str], value: int) -> None:
    result = nest(".".join(keys), value)
    for key in keys:
        result = result[key]
    assert result == value


def test_merging_keeps_other_keys() -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}}) == {
        "a": {"b": 1, "c": 4},
        "d": 3,
    }
    assert merge({"a": {"b": 1}}, {"a": None}) == {"a": None}
