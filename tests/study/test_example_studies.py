"""The studies of config/: what each promises, and that the presets take minutes on a CPU."""

from itertools import pairwise
from pathlib import Path

import pytest

from study.grid import Cell, Grid
from study.load import load_study_file
from trainer.flops import flops_per_token


def preset(name: str) -> Grid:
    path = Path("config/studies", f"{name}.yaml")
    first, second, *_ = path.read_text().splitlines()
    assert first.endswith("$schema=../../workflow/schemas/study.schema.json")
    assert second.startswith("# ") and "On a cluster:" in path.read_text()
    grid = Grid(load_study_file(str(path)))
    # Minutes on a CPU: at 50 GFLOP/s.
    assert sum(cell.run.steps * cell.tokens_per_step * flops(cell) for cell in grid) < 50e9 * 900
    return grid


def flops(cell: Cell) -> float:
    data = cell.run.data
    return flops_per_token(cell.run.model, data.tokenizer.vocab_size, data.seq_len)


def test_isoflop_has_several_sizes_at_each_budget() -> None:
    grid = preset("isoflop")
    for cell in grid:
        spent = cell.run.steps * cell.tokens_per_step * flops(cell)
        budget = float(cell.variant.removeprefix("flops-"))
        assert spent == pytest.approx(budget, rel=0.02)
    sizes = {cell.variant: {c.params for c in grid if c.variant == cell.variant} for cell in grid}
    assert [len(found) for found in sizes.values()] == [4, 4, 4]


def test_the_ladder_has_each_size_at_1_2_and_5_times() -> None:
    grid = preset("ladder")
    steps = [cell.run.steps for cell in grid]
    for first, double, five in zip(steps[::3], steps[1::3], steps[2::3], strict=True):
        assert (double / first, five / first) == (pytest.approx(2, 0.02), pytest.approx(5, 0.02))
    rates = {cell.params: cell.run.optim.lr for cell in grid}
    (small, high), *_, (large, low) = sorted(rates.items())
    assert high / low == pytest.approx((large / small) ** 0.25)


def test_the_sweep_of_learning_rates_differs_in_nothing_else() -> None:
    grid = preset("lr_sweep")
    first = [cell for cell in grid if cell.seed == 42]
    settings = {
        (
            cell.model,
            cell.run.model_copy(update={"optim": None, "dump_dir": "", "name": ""}).to_yaml(),
        )
        for cell in first
    }
    assert (len(first), len(settings)) == (15, 3)
    rates = sorted({cell.run.optim.lr for cell in first})
    assert [high / low for low, high in pairwise(rates)] == pytest.approx([2] * 4)
    assert len({cell.seed for cell in grid if cell.variant == "tokens-0.5N+lr-0.004"}) == 3


def test_the_wsd_branches_start_where_their_decays_begin() -> None:
    stable, *decays = preset("wsd_branches")
    assert [(cell.start_step, cell.run.steps) for cell in decays] == [
        (80, 100),
        (160, 200),
        (240, 300),
    ]
    assert {cell.trunk for cell in decays} == {stable.folder}
    assert {cell.run.optim.decay_fraction for cell in decays} == {0.2}
    assert stable.run.steps * 0.8 >= decays[-1].start_step


def test_the_mixes_of_the_data_ablation_have_the_same_held_out_text() -> None:
    grid = preset("data_ablation")
    both = ["python_stdlib", "python_topics"]
    assert all(cell.run.held_out_sources == both for cell in grid)
    assert all(grid.source_names(cell) == both for cell in grid)
    assert [*grid[-1].run.data.sources] == ["python_stdlib"]
    shares = {cell.variant: cell.run.data.sources["python_stdlib"] for cell in grid}
    assert shares == {"base": 50, "more_code": 90, "more_prose": 10, "code_alone": 100}
    assert len(grid) == 3 * len(shares)


def test_the_reference_study_is_the_guides_table() -> None:
    """Model, parameters, GPUs, tokens per step, measured: the rows of the group's time table."""
    grid = Grid(load_study_file("config/studies/lingua.yaml"))
    rows = [
        (
            cell.model,
            cell.params,
            cell.gpus,
            cell.cluster_config.gpu_name,
            cell.tokens_per_step,
            cell.measure,
        )
        for cell in grid
        if cell.cluster != "h200"  # what we measured ourselves
    ]
    assert rows == [
        ("small", 27_535_872, 1, "A100", 16_384, True),
        ("small", 27_535_872, 8, "H200", 131_072, True),
        ("40M", 40_122_432, 8, "H200", 131_072, False),
        ("80M", 78_270_720, 8, "H200", 131_072, False),
        ("160M", 161_972_608, 8, "H200", 131_072, False),
    ]
    for label in ("40M", "80M", "160M"):
        params = next(cell.params for cell in grid if cell.model == label)
        assert params == pytest.approx(float(label.removesuffix("M")) * 1e6, rel=0.03)


def test_the_study_of_one_h200_is_the_ladder_at_the_guides_batch() -> None:
    grid = Grid(load_study_file("config/studies/h200.yaml"))
    params = {"small": 27_535_872, "85M": 85_350_144, "206M": 206_083_072, "820M": 823_207_936}
    assert {(cell.model, cell.params) for cell in grid} == set(params.items())
    variants = [(model, "eager") for model in ("small", "85M", "206M")]
    variants += [(model, "compile") for model in params]
    assert sorted((cell.model, cell.variant) for cell in grid) == sorted(variants)
    for cell in grid:
        run = cell.run
        assert (cell.gpus, cell.tokens_per_step, run.steps) == (1, 8 * 2048, 500)
        assert (run.distributed.model_dtype, run.data.tokenizer.name) == ("bf16", "bytes")
        assert cell.cluster_config.slurm is None
        assert cell.measure
        assert run.checkpoint is not None  # otherwise a stopped run would start over
    compiled = {cell.variant: cell.run.distributed.compile for cell in grid}
    assert (compiled["eager"], compiled["compile"]) == (False, True)


def test_each_switch_of_the_trainer_is_a_variant() -> None:
    """Each differs from the default; switches that need several GPUs are left out."""
    grid = Grid(load_study_file("config/studies/switches.yaml"))
    assert len({(cell.cluster, cell.model, cell.gpus) for cell in grid}) == 1
    base = next(cell for cell in grid if cell.variant == "base")
    named = set()
    for cell in grid:
        for key in ("distributed", "optim", "data"):
            default, value = (getattr(c.run, key).model_dump() for c in (base, cell))
            named |= {name for name in default if default[name] != value[name]}
    assert named == {
        *("compile", "cuda_graphs", "fused_projections", "attention", "loss_chunk", "fused"),
        *("float8_recipe", "model_dtype", "matmul_allow_tf32", "activation_checkpointing"),
        *("freeze_gc", "load_async", "fused_pointwise", "residual_dtype", "compile_options"),
    }


def test_the_default_study_has_what_it_promises() -> None:
    grid = Grid(load_study_file("config/config.yaml"))
    assert len({cell.model for cell in grid.measured}) >= 3
    assert {cell.gpus for cell in grid.measured} == {1, 2}
    assert len({cell.seed for cell in grid.measured}) == 2
    assert any(not cell.measure for cell in grid)
    assert any(cell.variant == "strong" for cell in grid)
