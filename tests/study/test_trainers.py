"""Other trainers in a grid: their commands, configs, refusals and identity, and their tables."""

import json
import shlex
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from study.clones import clone_version
from study.config import Study
from study.described import find_version
from study.estimate.estimate import Estimator, estimate_table
from study.estimate.time_table import to_markdown as time_table
from study.grid import Cell, Grid
from study.jobs.foreign_job import describe_job, read_job, write_job
from study.jobs.launch import cell_line
from study.jobs.precompile import precompile_folder
from study.load import load_grid_file
from study.measure.comparison import Side, compare, split
from study.measure.evidence import read_evidence
from study.measure.measurement import read_measurements
from study.measure.throughput import throughput_rows
from study.measure.throughput_table import to_frame, to_markdown, write_table
from study.show.plan import format_plan, plan_table
from study.templates import render_config
from study.terms import TERMS
from study.trainer_command import command, fill
from study.trainers import OURS, TrainerConfig
from tests.study.conftest import write_run
from trainer.git import ask_git
from trainer.layers import merge
from trainer.problems import ConfigError
from trainer.yaml_files import dump_yaml

TEMPLATE = """\
# one cell
name: {{ name }}
dump_dir: {{ run }}
seed: {{ seed }}
model: {dim: {{ dim }}, n_layers: {{ n_layers }}, ffn: {{ ffn_hidden }}, vocab: {{ vocab_size }}}
batch: {{ micro_batch }} x {{ grad_acc_steps }} x {{ gpus }} = {{ global_batch }}
{% for source, weight in sources.items() %}
{{ source }}: {{ weight }}
{% endfor %}
lr: {{ lr }} {{ run_config.optim.scheduler }} {{ epsilon }}
"""

FORK: dict[str, Any] = {
    "workdir": "/srv/lingua-fork",
    "launcher": "uv run torchrun",
    "module": "apps.main.train",
    "config": "templates/fork.yaml",
    "arguments": ["config={config}"],
    "log": {"format": "lingua", "file": "{run}/metrics.jsonl"},
    "resumes": True,
}

STUDY: dict[str, Any] = {
    "study": "mixed",
    "models": {"small": {"dim": 512, "n_layers": 8, "n_heads": 8}, "tiny": {"dim": 64,
        "n_layers": 2, "n_heads": 2}},
    "clusters": {
        "miso": {"gpu_name": "H200", "peak_tflops": 989.5, "gpus_per_node": 8, "slurm":
            {"partition": "miso", "gpu_request": "gpus-per-task", "max_nodes": 2}},
        "here": {"device": "cpu", "gpu_name": "CPU core", "gpus_per_node": 4},
    },
    "corpora": ["python_stdlib"],
    "run": {
        "steps": 40,
        "data": {"root_dir": "data", "sources": {"python_stdlib": 1.0}, "batch_size": 8},
    },
    "trainers": {"fork": FORK, "plain": {"script": "train.sh", "launcher": "none",
        "log": {"format": "regex", "patterns": [r"it (?P<step>\d+)"]}}},
    "grid": [{"cluster": "here", "model": "tiny", "gpus": [1, 2], "trainer": ["ours", "fork"]}],
}  # fmt: skip

Load = Callable[..., Grid]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function from changes of the study, and its template, to its grid."""

    def load_changed(
        changes: dict[str, Any] | None = None, template: str = TEMPLATE, folder: str = "study"
    ) -> Grid:
        home = tmp_path / folder
        (home / "templates").mkdir(parents=True, exist_ok=True)
        (home / "templates" / "fork.yaml").write_text(template)
        values = merge(STUDY, {"results_dir": str(home / "results"), **(changes or {})})
        (home / "study.yaml").write_text(dump_yaml(values))
        return load_grid_file(str(home / "study.yaml"))

    return load_changed


def on(cluster: str, gpus: int, trainer: str = "fork") -> dict[str, Any]:
    """Return changes of the study: a grid of one cell."""
    return {"grid": [{"cluster": cluster, "model": "tiny", "gpus": gpus, "trainer": trainer}]}


def complaint(load: Load, changes: dict[str, Any], template: str = TEMPLATE) -> str:
    """Return the message about a study."""
    with pytest.raises(ConfigError) as caught:
        load(changes, template)
    return str(caught.value)


def test_the_guides_fork_is_started_by_the_guides_line(load: Load) -> None:
    (cell,) = load(on("miso", 8))
    config = shlex.quote(f"config={Path(cell.folder).absolute()}/config.yaml")
    line = "uv run torchrun --nproc_per_node=8 --standalone --local-addr=localhost"
    line += f" -m apps.main.train {config}"
    assert command(cell.placed) == line
    assert cell_line(cell).endswith(
        f" python -m study.jobs.foreign_run {shlex.quote(cell.folder)} -- {line}"
    )


def test_on_several_nodes_each_has_its_share_of_the_run(load: Load) -> None:
    (cell,) = load(on("miso", 16))
    line = cell_line(cell)
    assert "srun --nodes=2 --ntasks=2 --ntasks-per-node=1" in line
    rendezvous = "--rdzv_backend=c10d --rdzv_id=$SLURM_JOB_ID --rdzv_endpoint=$RENDEZVOUS"
    launch = f"uv run torchrun --nproc_per_node=8 --nnodes=2 {rendezvous} -m apps.main.train"
    assert f"foreign_run {shlex.quote(cell.folder)} -- {launch} " in line


def test_setup_and_words_of_a_command_reach_the_program_as_written(
    load: Load, tmp_path: Path
) -> None:
    trainer = {"launcher": "none", "script": "printf '%s |'", "setup": ["it='a b'", "export it"],
               "arguments": ["{world_size} {{}} $it", "'{name}'"]}  # fmt: skip
    (cell,) = load({"trainers": {"fork": {**trainer, "module": None}}, **on("here", 2)})
    words = cell_line(cell).rpartition(" -- ")[2]
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == f"2 {{}} $it |'{cell.run.name}' |"
    assert cell.trainer_config.module is None


def test_a_config_is_rendered_with_the_cells_values(load: Load) -> None:
    cell = load()[3]
    assert cell.name == "here/tiny/gpus-2/fork/seed-42"
    assert render_config(cell.placed) == (
        "# one cell\n"
        "name: mixed/runs/here/tiny/gpus-2/fork/seed-42\n"
        f"dump_dir: {Path(cell.folder).absolute()}\n"
        "seed: 42\n"
        "model: {dim: 64, n_layers: 2, ffn: 256, vocab: 258}\n"
        "batch: 8 x 1 x 2 = 16\n"
        "python_stdlib: 1.0\n"
        "lr: 0.0003 cosine 1.0e-08\n"  # a number also for PyYAML
    )


def test_every_term_has_a_value(load: Load) -> None:
    (cell,) = load({**on("here", 1), "run": {**STUDY["run"], "checkpoint": None}})
    for name in TERMS:
        assert fill(f"{{{name}}}", cell.placed) != "", name


def test_the_job_finds_what_it_needs_in_the_runs_folder(load: Load) -> None:
    (cell,) = load(on("here", 2))
    Path(cell.folder).mkdir(parents=True)
    write_job(cell)
    described = json.loads(Path(cell.folder, "trainer.json").read_text())
    assert Path(cell.folder, "config.yaml").read_text() == described["config"]["text"]
    assert described["log"]["file"] == f"{Path(cell.folder).absolute()}/metrics.jsonl"
    assert described["workdir"] == "/srv/lingua-fork"
    assert described["fingerprint"] == cell.fingerprint
    assert described["tokens_per_step"] == 2 * 8 * cell.run.data.seq_len
    assert read_job(Path(cell.folder)) == describe_job(cell)


def test_a_job_has_the_settings_of_its_cell(load: Load) -> None:
    saving = {"checkpoint": {"dump": {"every": 20}, "eval": {"every": 5}}}
    (cell,) = load({**on("miso", 16), "run": {**STUDY["run"], **saving}})
    job = describe_job(cell)
    assert job.saves_every == 20, "its template is told of no other checkpoints"
    assert (job.trainer, job.resumes, job.stop_signal) == ("fork", True, "SIGTERM")
    assert (job.gpus, job.nodes, job.steps, job.device) == (16, 2, 40, "cuda")
    assert (job.choices.model_dtype, job.choices.compiled) == ("bf16", True)
    assert job.params == cell.params
    assert job.config is not None
    assert job.config.text == render_config(cell.placed)
    (only_at_the_end,) = load({**on("here", 1), "run": {**STUDY["run"], "checkpoint": None}})
    assert describe_job(only_at_the_end).saves_every is None


def test_a_job_that_this_version_does_not_know_is_refused(load: Load) -> None:
    (cell,) = load(on("here", 2))
    Path(cell.folder).mkdir(parents=True)
    write_job(cell)
    path = Path(cell.folder, "trainer.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "save_every": 20}))
    with pytest.raises(ConfigError, match="save_every: unknown key; did you mean 'saves_every'"):
        read_job(path.parent)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a\nb: {{ dimm }}\n", "line 2: unknown name 'dimm'; did you mean 'dim'?"),
        ("{% if false %}\n{{ frobs }}\n{% endif %}\n", "line 2: unknown name 'frobs'"),
        ("a\n{{ run_config.optim.beta7 }}\n", "line 2: cannot be rendered: UndefinedError: "),
        ("a\n\n{{ dim // 0 }}\n", "line 3: cannot be rendered: ZeroDivisionError: "),
        ("a\n{% for %}\n", "line 2: not a template: "),
    ],
)
def test_a_mistake_in_a_template_is_reported_with_its_line(
    load: Load, template: str, expected: str
) -> None:
    text = complaint(load, {}, template)
    assert "templates/fork.yaml: 1 problem" in text
    assert expected in text


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ({"arguments": ["{configg}"]},
         "trainers.fork.arguments[0]: unknown name 'configg'; did you mean 'config'?"),
        ({"environment": {"A": "{b c}"}}, "trainers.fork.environment.A: unknown name 'b c'"),
        ({"log": {"file": "{rum}"}}, "trainers.fork.log.file: unknown name 'rum'"),
        ({"config": "missing.yaml"}, "trainers.fork.config: the template "),
        ({"cannot": ["tp_sise"]}, "cannot[0]: unknown ability 'tp_sise'; did you mean 'tp_size'?"),
        ({"script": "a.py"}, "trainers.fork.module: expected one of module and script"),
        ({"log": {"format": "regex"}}, "log.format: patterns: missing; format regex needs it"),
        ({"log": {"fields": {"step": "it"}}}, "log.fields: only for format json; found lingua"),
        ({"log": {"format": "litgpt", "file": None}},
         "log.file: missing; format litgpt is of a file"),
        ({"version": {}}, "version.package: expected one of package and command"),
        ({"resume": True}, "trainers.fork.resume: unknown key; did you mean 'resumes'?"),
        ({"launcher": ""}, "trainers.fork.launcher: found ''; expected a command"),
        ({"launcher": "uv 'run"}, "launcher: found \"uv 'run\": No closing quotation"),
        ({"module": ""}, "trainers.fork.module: found ''; expected a string that is not empty"),
        ({"module": None, "script": " "}, "trainers.fork.script: found ' '; expected a command"),
        ({"version": "svn"}, "trainers.fork.version: found 'svn'; expected a mapping or 'git'"),
        ({"version": {"packag": "a"}}, "version.packag: unknown key; did you mean 'package'?"),
        ({"log": {"format": "json", "fields": {"step": "it", "los": "x"}}},
         "log.fields.los: found 'los'; expected 'step', 'loss', 'lr',"),
        ({"environment": {"A": True}}, "environment.A: found true; expected a string"),
        ({"version": {"package": ""}}, "version.package: found ''; expected a string that is not"),
        ({"version": {"command": ""}}, "version.command: found ''; expected a string that is not"),
        ({"log": {"file": ""}}, "log.file: found ''; expected a string that is not empty"),
        ({"environment": {"A=B": "x"}},
         "environment.A=B: found 'A=B'; expected letters, digits and _ only"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_description_names_its_key(
    load: Load, description: dict[str, Any], expected: str
) -> None:
    text = complaint(load, {"trainers": {"fork": merge(FORK, description)}})
    assert expected in text
    assert text.count("line ") == 1


@pytest.mark.parametrize(
    ("word", "changes", "expected"),
    [
        ("tp_size", {"run": {"distributed": {"tp_size": 2}}}, "run.distributed.tp_size: found 2"),
        ("optim.name", {"run": {"optim": {"name": "muon"}}}, "run.optim.name: found muon"),
        ("accumulation", {"run": {"grad_acc_steps": 4}}, "run.grad_acc_steps: found 4"),
        ("validation", {"run": {"eval": {}, "checkpoint": {"eval": {"every": 10}}}},
         "run.eval: found a validation loss"),
        ("several_gpus", {}, "grid[0].gpus: found 2 GPUs"),
        ("several_nodes", on("miso", 16), "grid[0].gpus: found 16 GPUs on 2 nodes"),
        ("strong_scaling", {"grid": [{**on("here", 2)["grid"][0], "global_batch_size": 8}]},
         "grid[0].global_batch_size: found 8"),
    ],
)  # fmt: skip
def test_cells_that_a_trainer_cannot_train_are_refused_by_name(
    load: Load, word: str, changes: dict[str, Any], expected: str
) -> None:
    values = merge({"run": STUDY["run"], **on("here", 2)}, changes)
    assert load(values)
    text = complaint(load, {**values, "trainers": {"fork": {**FORK, "cannot": [word]}}})
    assert f"{expected}; trainer 'fork' cannot do that ({word}, by its description)" in text


def test_unknown_trainers_and_branches_are_refused(load: Load) -> None:
    text = complaint(load, on("here", 1, "frok"))
    assert "grid[0].trainer: unknown trainer 'frok'; did you mean 'fork'?" in text
    trunk, branch = ({**on("here", 1)["grid"][0]} for _ in range(2))
    branch |= {"variant": "more", "from": {"cell": "fork"}, "steps": 50}
    text = complaint(load, {"grid": [trunk, branch], "variants": {"more": {}}})
    assert "trainer 'fork' cannot start from another cell's checkpoint" in text


def test_cells_of_ours_are_what_they_are_without_other_trainers(load: Load) -> None:
    mixed = [cell for cell in load() if cell.trainer == "ours"]
    alone = list(load({**on("here", 1, "ours"), "grid": [{**STUDY["grid"][0], "trainer": "ours"}]}))
    for cell, other in zip(mixed, alone, strict=True):
        assert cell.name == other.name
        assert cell.fingerprint == other.fingerprint == cell.run.fingerprint(cell.gpus)
        assert cell.speed_key == other.speed_key == cell.run.speed_key(cell.gpus)
        assert cell_line(cell) == cell_line(other)


def keys(cell: Cell) -> tuple[str, str]:
    return cell.fingerprint, cell.speed_key


def test_the_identity_of_a_cell_includes_its_trainer(load: Load) -> None:
    first, trained = load(on("here", 1)), load(on("here", 1, "plain"))[0]
    known = keys(first[0])
    assert known != keys(trained)
    elsewhere = load(on("here", 1), folder="elsewhere")[0]
    assert keys(elsewhere) == known, "folders do not count"
    assert not set(known) & set(keys(load(on("here", 1), TEMPLATE + "fused: true\n")[0]))
    versioned = {"trainers": {"fork": {**FORK, "workdir": "/", "version": {"command": "echo 1.2"}}}}
    other = load({**on("here", 1), **versioned})[0]
    assert other.trainer_config.found_version == "1.2"
    assert not set(known) & set(keys(other))
    seeded = load({"grid": [{**on("here", 1)["grid"][0], "seed": 7}]})[0]
    assert seeded.fingerprint != known[0]
    assert seeded.speed_key == known[1], "a seed does not change the speed"


def test_study_yaml_is_complete_by_itself(load: Load, tmp_path: Path) -> None:
    grid = load(
        {"trainers": {"fork": {**FORK, "workdir": "/", "version": {"command": "echo 1.2"}}}}
    )
    text = grid.study.to_yaml()
    (tmp_path / "study" / "templates" / "fork.yaml").unlink()
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "study.yaml").write_text(text.replace("echo 1.2", "exit 1"))
    again = load_grid_file(str(tmp_path / "alone" / "study.yaml"))
    assert [keys(cell) for cell in again] == [keys(cell) for cell in grid]
    assert set(again.study.trainers) == {"ours", "fork"}, "those in use"


def test_a_study_with_ours_alone_has_the_file_it_always_had(load: Load) -> None:
    text = load(on("here", 1, "ours")).study.to_yaml()
    assert "trainer" not in text


def test_the_shipped_description_of_ours_is_the_default() -> None:
    shipped = load_grid_file("config/config.yaml").study
    assert shipped.trainers["ours"] == OURS


def clone(folder: Path) -> str:
    """Make a folder a repository with its files in a commit; return that."""
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", f"user.email={folder.name}@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "1"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return head.stdout.strip()


def test_the_version_of_a_clone_is_its_commit_and_what_was_changed_since(tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    (folder / "apps").mkdir(parents=True)
    trainer = {**FORK, "workdir": str(folder / "apps"), "version": "git"}
    found = partial(find_version, TrainerConfig.model_validate(trainer))
    assert found() is None
    source, link = folder / "train.py", folder / "link.py"
    source.write_text("1")
    link.symlink_to("train.py")
    commit = clone(folder)
    assert found() == commit
    versions = {commit}
    for content in ("2", "3"):
        source.write_text(content)
        version = found()
        assert version is not None and version.startswith(f"{commit}-dirty-")
        assert version == found()
        assert version not in versions
        versions.add(version)
    source.unlink()
    link.unlink()
    link.symlink_to("apps")
    assert found() not in {*versions, None}
    subprocess.run(["git", "-C", str(folder), "checkout", "-q", "."], check=True)
    assert found() == commit


def test_the_version_is_that_of_the_clone_also_below_a_hook_of_another_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git tells a hook by variables which repository it works in."""
    ours, other = tmp_path / "ours", tmp_path / "other"
    for folder in (ours, other):
        folder.mkdir()
        (folder / "code.py").write_text(folder.name)
    commit, foreign = clone(ours), clone(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    assert commit != foreign
    assert clone_version(ours) == commit
    assert ask_git(ours, "rev-parse", "HEAD", timeout_s=60).decode() == commit


def test_what_a_trainer_or_a_study_writes_into_a_clone_changes_no_version(tmp_path: Path) -> None:
    trainer = TrainerConfig.model_validate({**FORK, "workdir": str(tmp_path), "version": "git"})
    results = tmp_path / "results"
    (results / "published").mkdir(parents=True)
    table = results / "published" / "throughput.csv"
    (tmp_path / "train.py").touch()
    table.touch()
    commit = clone(tmp_path)
    (tmp_path / "train.log").write_text("step 1")
    (results / "demo").mkdir()
    (results / "demo" / "metrics.jsonl").write_text("{}")
    assert find_version(trainer) == commit
    table.write_text("model")  # in the commit too
    assert find_version(trainer, str(results)) == commit
    assert find_version(trainer) != commit


def test_a_submodule_belongs_to_a_clone(tmp_path: Path) -> None:
    library, outer = tmp_path / "library", tmp_path / "outer"
    for folder in (library, outer):
        folder.mkdir()
        (folder / "code.py").write_text("1")
    clone(library)
    clone(outer)
    words = ["submodule", "--quiet", "add", str(library), "library"]
    subprocess.run(
        ["git", "-C", str(outer), "-c", "protocol.file.allow=always", *words], check=True
    )
    commit = clone(outer)
    (outer / "library" / "train.log").touch()
    assert clone_version(outer) == commit
    versions = set()
    for content in ("2", "3"):
        (outer / "library" / "code.py").write_text(content)
        versions.add(clone_version(outer))
    assert len(versions) == 2
    assert {commit, None}.isdisjoint(versions)


def test_a_changed_source_trains_again_and_a_new_log_does_not(load: Load, tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "train.py").touch()
    clone(folder)
    changes = {"trainers": {"fork": {**FORK, "workdir": str(folder), "version": "git"}}}
    before = keys(load({**on("here", 1), **changes})[0])
    (folder / "train.log").touch()
    assert keys(load({**on("here", 1), **changes})[0]) == before
    (folder / "train.py").write_text("faster")
    assert not set(before) & set(keys(load({**on("here", 1), **changes})[0]))


def test_only_our_trainer_is_precompiled(load: Load) -> None:
    grid = load({"grid": [{**on("miso", 1)["grid"][0], "trainer": ["ours", "fork"]}]})
    ours, fork = map(precompile_folder, grid)
    assert ours is not None and fork is None


def test_the_plan_has_the_commands_of_other_trainers(load: Load) -> None:
    from study.estimate.forecast import Forecast

    grid = load()
    forecast = Forecast(grid)
    assert "cannot be found" not in format_plan(grid, plan_table(grid, forecast), forecast)
    grid = load({"trainers": {"fork": {**FORK, "version": "git"}}})
    forecast = Forecast(grid)
    text = format_plan(grid, plan_table(grid, forecast), forecast)
    for cell in grid:
        assert (f"{cell.name}: {command(cell.placed)}\n" in text) == (cell.trainer == "fork")
    assert "The version of trainer fork cannot be found here." in text


def test_where_can_choose_by_trainer(load: Load) -> None:
    grid = load({"grid": [{**STUDY["grid"][0], "where": 'trainer == "fork" or gpus == 1'}]})
    assert [(cell.gpus, cell.trainer) for cell in grid] == [(1, "ours"), (1, "fork"), (2, "fork")]


@pytest.fixture
def measured(load: Load) -> Grid:
    """A grid whose runs of ours take 0.1 s a step, and those of the fork 0.2 s."""
    grid = load()
    for cell in grid:
        if (cell.trainer, cell.gpus) != ("fork", 2):
            write_run(cell, step_s=0.1 if cell.trainer == "ours" else 0.2)
    return grid


def test_tables_have_a_trainer_column(measured: Grid, tmp_path: Path) -> None:
    rows = throughput_rows(measured)
    assert [(row.trainer, row.variant, row.plain_variant) for row in rows] == [
        ("ours", "base", "base"), ("fork", "fork", "base"), ("ours", "base", "base"),
    ]  # fmt: skip
    assert [row.scaling_efficiency for row in rows] == [1.0, 1.0, pytest.approx(1.0)]
    lines = to_markdown(to_frame(rows)).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")][5:8] == ["GPUs", "Trainer", "Variant"]
    assert [cell.strip() for cell in lines[3].split("|")][6:8] == ["fork", "base"]
    ours = [row for row in rows if row.trainer == "ours"]
    assert "Trainer" not in to_markdown(to_frame(ours))


def test_each_trainer_has_its_own_performance_model(measured: Grid, tmp_path: Path) -> None:
    csv = tmp_path / "throughput.csv"
    write_table(throughput_rows(measured), csv)
    found = read_measurements(csv, measured)
    assert len(found) == 3
    estimates = {(e.trainer, e.gpus): e for e in estimate_table(measured, found)}
    assert estimates["ours", 1].step_s == pytest.approx(0.1)
    assert estimates["fork", 1].step_s == pytest.approx(0.2)
    only_ours = Estimator([item for item in found if item.cell.trainer == "ours"])
    for cell in measured:
        if cell.trainer == "ours":
            assert only_ours.estimate(cell, 500, "500 steps") == estimates["ours", cell.gpus]
    guess = estimates["fork", 2].step_s
    assert guess is not None and guess > 0.13, "from the fork's own runs"
    unmeasured = only_ours.estimate(measured[3], 500)
    assert unmeasured.method.startswith("no measurement of fork on here yet")
    table = time_table(list(estimates.values())).splitlines()
    assert [cell.strip() for cell in table[0].split("|")][1:3] == ["Model Size", "Trainer"]
    assert "(fork)" not in "".join(table)


def test_evidence_counts_for_one_trainer(load: Load, tmp_path: Path) -> None:
    table = tmp_path / "speeds.csv"
    table.write_text("cluster,model,gpus,step_ms\nhere,tiny,1,70\n")
    grid = load({"evidence": [{"file": str(table), "trainer": "fork", "by": "ada"}]})
    estimates = {(e.trainer, e.gpus): e for e in estimate_table(grid, read_evidence(grid.study))}
    assert estimates["fork", 1].step_s == pytest.approx(0.07)
    assert estimates["ours", 1].step_s is None


def test_trainers_are_compared_cell_by_cell(measured: Grid) -> None:
    sides = split(Side("mixed", throughput_rows(measured)), "trainer", None)
    one, _ = compare(sides[0], sides[1:], "trainer")
    assert (one.cell, one.base, one.other) == ("here/tiny/gpus-1/base", "ours", "fork")
    assert one.speed_ratio == pytest.approx(0.5)


def test_a_study_needs_no_descriptions() -> None:
    values = {key: value for key, value in STUDY.items() if key != "trainers"}
    study = Study.model_validate({**values, **on("here", 1, "ours")})
    assert study.trainers == {"ours": OURS}
