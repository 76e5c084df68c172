"""A mistake is reported with its file, line and key."""

from pathlib import Path

import pytest

from study.jobs.workflow import load_config
from study.load import load_study_file
from trainer.problems import ConfigError

MODELS = """\
small: {dim: 512, n_layers: 8, n_heads: 8}
large: {dim: 768, n_layers: 8, n_heads: 12}
"""

STUDY = """\
study: x
models: {models}
clusters: {{local: {{gpu_name: CPU core, gpus_per_node: 2}}}}
corpora: [python_stdlib]
run:
  steps: 500
  optim: {{lr: 3.0e-4}}
  data: {{root_dir: results/data, sources: {{python_stdlib: 1.0}}}}
variants:
{variants}
grid:
  - {{cluster: local, model: [small], gpus: [1, 2], variant: [{names}]}}
"""

FIRST = STUDY[: STUDY.index("{variants}")].count("\n") + 1
"""Line of the first variant."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(MODELS)
    return path


def write(models: Path, variants: dict[str, str]) -> Path:
    lines = "\n".join(f"  {name}: {text}" for name, text in variants.items())
    path = models.with_name("study.yaml")
    path.write_text(STUDY.format(models=models, variants=lines, names=", ".join(variants)))
    return path


def message(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_study_file(str(path))
    return str(caught.value)


def test_mistakes_in_a_variant_are_reported_under_the_variant(models: Path) -> None:
    path = write(
        models,
        {
            "odd": "{model: {n_heads: 7, head_dim: null}}",
            "wsd": "{optim: {scheduler: wsd, lr_min_ratio: 0}}",
            "dup": "{distributed: {fsdp_type: no_shard, dp_shard: 2}}",
            "long": "{optim: {warmup: 900}}",
        },
    )
    assert message(path).splitlines() == [
        f"{path}: 4 problems",
        f"  line {FIRST}: variants.odd.model.n_heads = 7 does not divide dim = 512; try 8",
        f"  line {FIRST + 1}: variants.wsd.optim.lr_min_ratio = 0, but scheduler wsd divides by "
        "it; expected more than 0",
        f"  line {FIRST + 2}: variants.dup.distributed.dp_shard = 2 needs fsdp_type: full_shard",
        f"  line {FIRST + 3}: variants.long.optim.warmup = 900 is more than steps = 500",
    ]


@pytest.mark.parametrize(
    ("variant", "told"),
    [
        ("{steps: 5}", "variants.v.steps: optim.warmup = 10 is more than steps = 5"),
        ("{optim: {scheduler: wsd}}", "variants.v.optim.scheduler: lr_min_ratio = 0, but sched"),
        ("{model: {n_kv_heads: 3}}", "variants.v.model.n_kv_heads = 3 does not divide n_heads"),
        (
            "{model: {dim: 500, head_dim: null}}",
            "variants.v.model.dim: n_heads = 8 does not divide dim = 500",
        ),
        ("{data: {sources: {none: 1}}}", "variants.v.data.sources.none: the folder"),
        ("{data: {batch_size: yes}}", "variants.v.data.batch_size: found 'yes'; expected a num"),
        ("{logging: {wandb: {name: 5}}}", "variants.v.logging.wandb.name: found 5; expected a str"),
        ("{checkpoint: {dump: {evry: 5}}}", "variants.v.checkpoint.dump.evry: unknown key; did"),
    ],
)
def test_of_contradicting_keys_the_most_specific_one_is_reported(
    models: Path, variant: str, told: str
) -> None:
    path = write(models, {"v": variant})
    text = path.read_text().replace("{lr: 3.0e-4}", "{warmup: 10, lr_min_ratio: 0}")
    path.write_text(text)
    (line,) = message(path).splitlines()[1:]
    assert line.startswith(f"  line {FIRST}: {told}")


def test_all_problems_in_all_files_are_reported_once(models: Path) -> None:
    path = write(models, {"v": "{optim: {lrr: 1}}"})
    text = path.read_text().replace("steps: 500", "steps: 1_000").replace("study: x", "study: a/b")
    path.write_text(text)
    models.write_text(MODELS.replace("n_heads: 12", "n_heads: 7") + "a b: {}\n")
    lines = message(path).splitlines()
    assert lines[0] == f"{path}: 1 problem"
    assert lines[1].startswith("  line 1: study: found 'a/b'; ")
    assert lines[2:5] == [
        f"{models}: 5 problems",
        "  line 2: large.n_heads = 7 does not divide dim = 768; try 8",
        "  line 3: a b: found 'a b'; expected letters, digits and . _ - only, "
        "the first a letter or a digit",
    ]
    told = "missing; this key is required"
    assert lines[5:] == [f"  line 3: a b.{key}: {told}" for key in ("dim", "n_layers", "n_heads")]
    path.write_text(text.replace("a/b", "x"))
    lines = message(path).splitlines()
    assert lines[:3] == [
        f"{path}: 2 problems",
        "  line 6: run.steps: found '1_000'; expected a number, written without underscores",
        f"  line {FIRST}: variants.v.optim.lrr: unknown key; did you mean 'lr'?",
    ]


def test_an_unreadable_table_is_the_only_problem(models: Path) -> None:
    path = write(models, {"v": "{}"})
    models.write_text("small: {dim: 1, dim: 2}\n")
    assert message(path) == f"{models}: 1 problem\n  line 1: small.dim: duplicate key"
    models.unlink()
    text = f"{models}: 1 problem\n  cannot be read: No such file or directory"
    text += f" (named by `models` in {path}, line 2)"
    assert message(path) == text


def test_a_seed_is_reported_under_its_axis(models: Path) -> None:
    path = write(models, {"v": "{}"})
    path.write_text(path.read_text().replace("gpus: [1, 2]", f"gpus: 1, seed: [1, {2**64}]"))
    line = message(path).splitlines()[1]
    assert "grid[0].seed[1]: found 18446744073709551616; expected a 64-bit number" in line


def test_expressions_and_swept_values_are_reported_under_their_lines(models: Path) -> None:
    path = write(models, {"v": "{optim: {lr: 0 * gpus}}"})
    block = "  - {cluster: local, model: small, gpus: 1, "
    path.write_text(
        path.read_text()
        + "  - cluster: local\n    model: small\n    gpus: 1\n"
        + "    sweep:\n      optim.lr:\n        - 1e-3\n        - 1e-3 * parms\n"
        + block + "tokens: 1N, where: gpu > 1}\n"
        + "clusters_run:\n  local:\n    logging: {freq: steps / 0}\n"
    )  # fmt: skip
    block = FIRST + 3  # the second of the grid
    assert message(path).splitlines() == [
        f"{path}: 4 problems",
        f"  line {FIRST}: variants.v.optim.lr: found 0; expected a number above 0 "
        "(the value of '0 * gpus')",
        f"  line {block + 6}: grid[1].sweep.optim.lr[1]: unknown name 'parms'; did you mean "
        "'params'? (in '1e-3 * parms')",
        f"  line {block + 7}: grid[2].where: unknown name 'gpu'; did you mean 'gpus'?",
        f"  line {block + 10}: clusters_run.local.logging.freq: divides by zero (in 'steps / 0')",
    ]


def snakemakes(*files: Path, config: tuple[str, ...] = ()) -> str:
    """Return the message with which the Snakefile exits."""
    with pytest.raises(SystemExit) as caught:
        load_config(files, config)
    return str(caught.value)


def test_problems_name_the_file_or_the_command_line(models: Path, tmp_path: Path) -> None:
    """--configfile study.yaml more.yaml --config ...: each overrides those before it."""
    path = write(models, {"v": "{}"})
    more = tmp_path / "more.yaml"
    more.write_text("run:\n  steps: 50\n  optim: {warmup: 60}\n")
    assert snakemakes(path, more) == (
        f"{more}: 1 problem\n  line 3: run.optim.warmup = 60 is more than steps = 50"
    )
    assert snakemakes(path, more, config=("partial=yes", "evidenc=[]")) == (
        f"{more}: 1 problem\n  line 3: run.optim.warmup = 60 is more than steps = 50\n"
        "command line: 2 problems\n"
        "  partial: found 'yes'; expected true or false\n"
        "  evidenc: unknown key; did you mean 'evidence'?"
    )
    assert snakemakes(path, config=("run={steps: 6, optim: {warmup: 7}}",)) == (
        "command line: 1 problem\n  run.optim.warmup = 7 is more than steps = 6"
    )
    more.write_text("run:\n  optim: {warmup: 60}\n")
    assert snakemakes(path, more, config=("run={steps: 6}",)) == (
        "command line: 1 problem\n  run.steps: optim.warmup = 60 is more than steps = 6"
    )


def test_files_that_do_not_parse_are_reported_together(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("a: 1\na: 2\n")
    second.write_text("b: {c: 1, c: 2}\n")
    assert snakemakes(first, second) == (
        f"{first}: 1 problem\n  line 2: a: duplicate key; first given on line 1\n"
        f"{second}: 1 problem\n  line 1: b.c: duplicate key"
    )


def test_values_on_the_command_line_are_read_like_those_in_files() -> None:
    assigned = ["partial=true", "run={steps: 1e2, optim: {lr: 3e-4, warmup: 0}}"]
    study = load_config([], assigned).study
    assert study.partial is True
    assert study.run["steps"] == 100
    assert study.run["optim"]["lr"] == 3e-4
    assert study.run["data"]["seq_len"] == 256  # of the default study
