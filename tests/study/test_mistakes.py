"""Mistakes in a study file: one message each, with the file, the line and the key."""

import copy
import re
import time
from pathlib import Path
from typing import Any

import pytest

from study.cluster_config import minutes_of
from study.config import Study
from study.grid import Grid
from study.jobs.launch import launch_line
from study.load import load_study_file
from study.markdown import markdown_table
from trainer.config import RunConfig
from trainer.layers import merge, nest
from trainer.problems import ConfigError, format_path
from trainer.settings import Settings, group_in, validate
from trainer.yaml_files import dump_yaml

STUDY: dict[str, Any] = {
    "study": "small",
    "models": {"one": {"dim": 32, "n_layers": 1, "n_heads": 2}},
    "clusters": {
        "here": {"device": "cpu", "gpu_name": "CPU", "gpus_per_node": 2},
        "fast": {
            "gpu_name": "H200",
            "gpus_per_node": 8,
            "scratch": "/scratch/$USER",
            "slurm": {"partition": "p", "gpu_request": "gres"},
        },
    },
    "corpora": ["python_stdlib"],
    "run": {
        "steps": 10,
        "data": {"root_dir": "data", "sources": {"python_stdlib": 1.0}, "batch_size": 8},
    },
    "grid": [{"cluster": "here", "model": "one", "gpus": [1, 2]}],
}


def write(folder: Path, changes: dict[str, Any] | str) -> str:
    """Write the study with changes, or a text after it; return its path."""
    values = merge(STUDY, changes) if isinstance(changes, dict) else STUDY
    path = folder / "study.yaml"
    path.write_text(dump_yaml(values) + (changes if isinstance(changes, str) else ""))
    return str(path)


def message(path: str) -> str:
    """Return the message about a study file, without its line numbers."""
    with pytest.raises(ConfigError) as caught:
        Grid(load_study_file(path))
    return str(caught.value)


ONE = STUDY["grid"][0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"grid": [{**ONE, "sweep": {"optim": {"lr": [1e-3, 2e-3]}}}]},
            ["grid[0].sweep.optim: found a mapping of lists; expected `optim.lr: [...]`"],
        ),
        (
            {"run": {"optim": {"lr": [1e-3, 2e-3]}}},
            [
                "run.optim.lr: found a list; expected a number; to vary it, write "
                "`sweep: {optim.lr: [...]}` in a block of the grid"
            ],
        ),
        (
            {"run": {"optim": {"warmup": "10%"}}},
            ["run.optim.warmup: a percentage of what? expected e.g. `10% of steps` (in '10%')"],
        ),
        (
            {"grid": [{**ONE, "gpus": 1, "flops": 1e30}]},
            ["grid[0].flops[0] = 1e+30 is 6.1e+19 steps; expected 1e+15 at most"],
        ),
        (
            {"evidence": [{"file": "a.csv", "run": {"optim": {"lr": "high"}, "stepz": 5}}]},
            [
                "evidence[0].run.optim.lr: found 'high'; expected a number",
                "evidence[0].run.stepz: unknown key; did you mean 'steps'?",
            ],
        ),
        (
            {
                "evidence": [
                    {"file": "a.csv", "trainer": "our"},
                    {
                        "file": "a.log",
                        "format": "nanogpt",
                        "cluster": "fist",
                        "model": "onne",
                        "gpus": 1,
                        "variant": "bass",
                    },
                ]
            },
            [
                "evidence[0].trainer: unknown trainer 'our'; did you mean 'ours'?",
                "evidence[1].cluster: unknown cluster 'fist'; did you mean 'fast'?",
                "evidence[1].model: unknown model 'onne'; did you mean 'one'?",
                "evidence[1].variant: unknown variant 'bass'; did you mean 'base'?",
            ],
        ),
        (
            {"run": {"distributed": {"float8_filter": "layers["}}},
            ["run.distributed.float8_filter: found 'layers['; expected a regular expression: "],
        ),
        (
            {"run": {"checkpoint": {"path": ""}}},
            ["run.checkpoint.path: found ''; expected a string that is not empty"],
        ),
        (
            {"clusters": {"fast": {"slurm": {"runtime_min": 30, "warn_s": 1800}}}},
            [
                "clusters.fast.slurm.warn_s = 1800 is all of runtime_min = 30; a run would stop at "
                "once"
            ],
        ),
        (
            {"clusters": {"fast": {"slurm": {"gpu_request": "none", "gpu_type": "a100"}}}},
            [
                "clusters.fast.slurm.gpu_type = a100 is of a request that `gpu_request: none` "
                "leaves out"
            ],
        ),
        (
            {"clusters": {"fast": {"slurm": {"partition": "gpu\n", "account": ""}}}},
            [
                "clusters.fast.slurm.partition: found 'gpu\\n'; expected a value without white",
                "clusters.fast.slurm.account: found ''; expected a value without white space, or ",
            ],
        ),
        (
            {"study": "s" * 256, "results_dir": "r" * 256},
            [
                "study: found 'sss",
                "results_dir: found a path with a name of 256 bytes; expected 255 at most",
            ],
        ),
        (
            {"models": "m" * 256},
            ["cannot be read: found a path with a name of 256 bytes; expected 255 at most"],
        ),
        # In the words of a study file: pydantic's are those of a Python program.
        (
            {"study": "größe", "corpora": "python_stdlib", "grid": [{**ONE, "gpus": []}]},
            [
                "study: found 'größe'; expected letters, digits and . _ - only, the first a letter",
                "corpora: found 'python_stdlib'; expected a list",
                "grid[0].gpus: found an empty list; expected at least 1",
            ],
        ),
        (
            {"run": {"steps": 20.5, "logging": {"freq": 0}, "data": {"tokenizer": {"name": "hf"}}}},
            [
                "run.steps: found 20.5; expected a whole number",
                "run.data.tokenizer.name = hf needs `path`, the file of the tokenizer",
                "run.logging.freq: found 0; expected a number above 0",
            ],
        ),
        # A variant that no block names yet, which no model of the grid takes.
        (
            {"variants": {"mine": {"optim": {"lr": -4}, "nonsense": 3}}},
            [
                "variants.mine.optim.lr: found -4; expected a number above 0",
                "variants.mine.nonsense: unknown key; expected one of: ",
            ],
        ),
    ],
)
def test_what_newcomers_write(tmp_path: Path, changes: dict[str, Any], told: list[str]) -> None:
    _, *lines = message(write(tmp_path, changes)).splitlines()
    assert len(lines) == len(told)
    for line, expected in zip(lines, told, strict=True):
        assert re.sub(r"^  line \d+: ", "", line).strip().startswith(expected)


def test_results_and_corpora_where_no_folder_can_be_are_refused(tmp_path: Path) -> None:
    """Snakemake ended with a traceback, on its own log."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/scratch-of-yesterday/results")
    for name, found in {
        "file": f"{tmp_path}/file is a file",
        "file/below": f"{tmp_path}/file is a file",
        "link": f"{tmp_path}/link is a link to /scratch-of-yesterday/results, which does not exist",
    }.items():
        told = message(write(tmp_path, {"results_dir": f"{tmp_path}/{name}"}))
        assert told.endswith(f": results_dir: {found}; expected a folder")
        told = message(write(tmp_path, nest("run.data.root_dir", f"{tmp_path}/{name}")))
        assert told.endswith(f": run.data.sources.python_stdlib: {found}; expected a folder")


def test_a_file_of_another_kind_is_one_problem() -> None:
    """Each of its keys was one."""
    told = "found the keys local, h200, sphinx, ...; expected study, models, clusters, run, grid"
    assert message("config/clusters.yaml") == f"config/clusters.yaml: 1 problem\n  {told}"


def test_an_unused_variant_is_valid_if_a_model_takes_it(tmp_path: Path) -> None:
    """The first model of the grid has a width that its heads do not divide."""
    changes = {
        "models": {"wide": {"dim": 96, "n_layers": 1, "n_heads": 2}},
        "variants": {"heads": {"model": {"n_heads": 6}}},
        "grid": [{**ONE, "model": ["one", "wide"]}],
    }
    assert len(Grid(load_study_file(write(tmp_path, changes)))) == 4


def test_one_horizon_needs_no_list(tmp_path: Path) -> None:
    path = write(tmp_path, {"estimate": {"horizons": "chinchilla"}})
    assert load_study_file(path).estimate.horizons == ("chinchilla",)


GLOBAL = [{**STUDY["grid"][0], "global_batch_size": 8}]


@pytest.mark.parametrize("value", ["eight", "", "8", None, True, [8], {"a": 1}, float("inf"), 0.5])
@pytest.mark.parametrize("place", ["run", "variants"])
def test_a_wrong_batch_size_with_a_global_batch(tmp_path: Path, value: Any, place: str) -> None:
    if place == "run":
        changes = merge({"grid": GLOBAL}, nest("run.data.batch_size", value))
        key = "run.data.batch_size: found"
    else:
        grid = [{**GLOBAL[0], "variant": "v"}]
        changes = merge({"grid": grid}, nest("variants.v.data.batch_size", value))
        key = "variants.v.data.batch_size: found"
    lines = message(write(tmp_path, changes)).splitlines()
    assert len(lines) == 2
    assert key in lines[1]


@pytest.mark.parametrize(
    ("source", "remedy"),
    [("mine", ""), ("python_topics", ", or 'python_topics' among corpora")],
)
def test_a_source_without_a_folder(tmp_path: Path, source: str, remedy: str) -> None:
    """Only a source that the workflow creates could be among the corpora."""
    told = message(write(tmp_path, {"run": {"data": {"sources": {source: 1.0}}}}))
    missing = f"the folder data/{source} does not exist; expected *.chunk.*.jsonl files there"
    assert told.endswith(f"run.data.sources.{source}: {missing}{remedy}")


def test_numbers_are_names_of_models_clusters_variants_and_sources(tmp_path: Path) -> None:
    text = dump_yaml(STUDY).replace("one:", "7:").replace("model: one", "model: [7, 0x10]")
    path = tmp_path / "study.yaml"
    path.write_text(text)
    assert "grid[0].model: unknown model '16'; expected one of: 7" in message(str(path))
    path.write_text(text.replace("[7, 0x10]", "7"))
    assert [cell.model for cell in Grid(load_study_file(str(path)))] == ["7", "7"]
    path.write_text(text.replace("7:", "1.5:").replace("[7, 0x10]", "x"))
    assert "models: found 1.5 as a key; expected a name, in quotes" in message(str(path))


@pytest.mark.parametrize("key", ["models", "clusters"])
@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("nowhere.yaml", "cannot be read: No such file"),
        ("config", "cannot be read: Is a directory"),
        ("/dev/zero", "cannot be read: more than 4 MiB"),
        ("a\x01b", "cannot be read: found 'a\\x01b'"),
        ("config/config.yaml", "not a file of "),
        ("config/{other}.yaml", "not a file of "),
        ("config/evidence/guide.csv", "expected a mapping of keys, found text"),
        ("README.md", "not valid YAML"),
    ],
)
def test_a_wrong_table_is_one_problem(tmp_path: Path, key: str, file: str, told: str) -> None:
    other = {"models": "clusters", "clusters": "models"}[key]
    path = tmp_path / "study.yaml"
    grid = [{"cluster": ["here", "there"], "model": ["one", "two"], "gpus": [1, 2]}]
    path.write_text(dump_yaml({**STUDY, "grid": grid, key: file.format(other=other)}))
    lines = message(str(path)).splitlines()
    ours = [line for line in lines if told in line]
    assert len(ours) == 1
    assert f"(named by `{key}` in {path}, line " in ours[0]
    # Only the axis whose table could be read may have problems of its own.
    assert len(lines) <= 2 + 2


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("run.optim.learning_rate", "lr"),
        ("run.optim.max-grad-norm", "clip"),
        ("run.lr", "optim.lr"),
        ("run.learning_rate", "optim.lr"),
        ("run.batch_size", "data.batch_size"),
        ("run.max_steps", "steps"),
        ("run.data.block_size", "seq_len"),
        ("run.checkpoint.every", "dump.every"),
        ("run.distributed.dtype", "model_dtype"),
        ("models.one.hidden_size", "dim"),
        ("clusters.here.gpu_type", "gpu_name"),
        ("clusters.fast.slurm.time", "runtime_min"),
        ("clusters.fast.partition", "clusters.NAME.slurm.partition"),
        ("steps", "run.steps"),
        ("stpes", "run.steps"),
        ("btach_size", "run.data.batch_size"),
        ("learning_rate", "run.optim.lr"),
        ("estimate.step", "steps"),
    ],
)
def test_a_key_by_another_name_gets_the_right_one(tmp_path: Path, key: str, meant: str) -> None:
    values = copy.deepcopy(STUDY)
    values["grid"][0]["cluster"] = ["here"]
    told = message(write(tmp_path, merge(values, nest(key, 1))))
    assert f"{key}: unknown key; did you mean '{meant}'?" in told


def groups(root: type[Settings], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the key of every group of settings that is not in a list or a mapping."""
    found = [path]
    for name, field in root.model_fields.items():
        inner = group_in(field.annotation)
        if inner is not None and not str(field.annotation).startswith(("dict", "tuple", "list")):
            found += groups(inner, (*path, name))
    return found


@pytest.mark.parametrize("group", groups(RunConfig), ids=format_path)
def test_a_slip_at_any_depth_gets_the_right_key(group: tuple[str, ...]) -> None:
    owner: Any = RunConfig
    for name in group:
        owner = group_in(owner.model_fields[name].annotation)
    key = max(owner.model_fields, key=len)
    wrong = key[:-1] + "_" + key[-1]
    values: dict[str, Any] = merge(
        {
            "dump_dir": "x",
            "steps": 1,
            "model": STUDY["models"]["one"],
            "data": STUDY["run"]["data"],
        },
        nest(".".join((*group, wrong)), 1),
    )
    with pytest.raises(ConfigError) as caught:
        validate(RunConfig, values, "run.yaml")
    assert f"{format_path((*group, wrong))}: unknown key; did you mean '{key}'?" in str(
        caught.value
    )


# From the man page of sbatch, --time.
@pytest.mark.parametrize(
    ("time", "minutes"),
    [
        *(("30", 30), ("30:00", 30), ("1:30", 2), ("12:00:00", 720), ("00:30:00", 30)),
        *(("0:0:1", 1), ("1-0", 1440), ("1-12", 2160), ("2-00:30", 2910), ("1-00:00:01", 1441)),
    ],
)
def test_slurms_forms_of_a_time(tmp_path: Path, time: str, minutes: int) -> None:
    assert minutes_of(time) == minutes
    limits = {"runtime_min": time, "max_runtime_min": time}
    times = {**limits, "data": {"runtime_min": time}, "warn_s": 0}
    changes = nest("clusters.fast.slurm", times)
    slurm = load_study_file(write(tmp_path, changes)).clusters["fast"].slurm
    assert slurm is not None
    assert {slurm.runtime_min, slurm.max_runtime_min, slurm.data.runtime_min} == {minutes}


@pytest.mark.parametrize("key", ["output", "error"])
@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("out/%x-%j.txt", "%x"),  # the job's name, which has slashes
        ("out/%u-%j.txt", "%u"),
        ("out/%4j.txt", "%4"),
        ("out/%j/log.txt", "%j"),
        ("out/log.txt%", "%"),
        ("out/log-%j.txt", None),
    ],
)
def test_the_path_of_a_log_has_the_jobs_id_and_no_other_pattern(
    tmp_path: Path, key: str, path: str, wrong: str | None
) -> None:
    file = write(tmp_path, nest(f"clusters.fast.slurm.{key}", path))
    if wrong is None:
        slurm = load_study_file(file).clusters["fast"].slurm
        assert getattr(slurm, key) == path
    else:
        told = f"clusters.fast.slurm.{key}: found '{path}', with {wrong}; expected %j alone, in "
        assert told in message(file)


def test_a_time_needs_no_quotes(tmp_path: Path) -> None:
    """YAML 1.1 would read 43200, a number of seconds."""
    path = write(tmp_path, nest("clusters.fast.slurm.runtime_min", "TIME"))
    Path(path).write_text(Path(path).read_text().replace("TIME", "12:00:00"))
    slurm = load_study_file(path).clusters["fast"].slurm
    assert slurm is not None and slurm.runtime_min == 720


@pytest.mark.parametrize(
    "value", [30.5, -1, 0, True, "12h", "1:2:3:4", "", "1e3", "٣٠", "9" * 50, []]
)
def test_other_times_are_refused(tmp_path: Path, value: Any) -> None:
    told = message(write(tmp_path, nest("clusters.fast.slurm.runtime_min", value)))
    assert "clusters.fast.slurm.runtime_min: found" in told
    assert told.count("\n") == 1


def test_no_size_of_a_number_makes_planning_hang(tmp_path: Path) -> None:
    start = time.process_time()
    for changes in (
        nest("models.one.dim", 64_000_000_001),
        nest("models.one", {"n_heads": 999_999_999_989, "n_kv_heads": 7}),
        {"grid": [{**GLOBAL[0], "global_batch_size": 2 * 999_999_999_989}]},
        {"grid": [{**GLOBAL[0], "gpus": list(range(1, 3000)), "seed": list(range(1000))}]},
        merge({"grid": GLOBAL}, nest("run.data.batch_size", 2**62)),
    ):
        path = write(tmp_path, changes)
        try:
            Grid(load_study_file(path))
        except ConfigError as error:
            assert len(str(error)) < 2000
    assert time.process_time() - start < 30
    assert "found 2,999,000 cells; expected 10,000 or fewer" in message(
        write(
            tmp_path,
            {"grid": [{**GLOBAL[0], "gpus": list(range(1, 3000)), "seed": list(range(1000))}]},
        )
    )


TEXT = "{x} ${HOME} [0-9]{1,2} 'a' \"b\" | %s \\"


def test_any_text_may_stand_in_a_study(tmp_path: Path) -> None:
    pattern = nest("run.distributed.float8_filter", f"{TEXT}\\")
    changes = merge(nest("clusters.here.gpu_name", TEXT), pattern)
    study = load_study_file(write(tmp_path, changes))
    assert study.clusters["here"].gpu_name == TEXT
    assert Study.model_validate(study.model_dump(mode="json")) == study


@pytest.mark.parametrize(
    "key", ["results_dir", "run.data.root_dir", "evidence", "run.data.sources"]
)
def test_braces_in_a_path_of_the_workflow_are_refused(tmp_path: Path, key: str) -> None:
    place = tmp_path / "a{x}"
    place.mkdir()
    values: dict[str, Any] = {
        "evidence": [{"file": f"{place}/e.csv"}],
        "run.data.sources": {"a{x}": 1.0},
    }
    told = message(write(tmp_path, nest(key, values.get(key, str(place)))))
    assert "expected no braces, which are wildcards in Snakemake's" in told


def test_the_document_may_have_braces_in_its_path(tmp_path: Path) -> None:
    """Snakemake is not told of it."""
    document = str(tmp_path / "a{x}" / "guide.md")
    assert load_study_file(write(tmp_path, {"document": document})).document == document


def test_a_name_too_long_for_a_folder_is_named(tmp_path: Path) -> None:
    told = message(write(tmp_path, nest("run.data.sources", {"a" * 300: 1.0})))
    assert "a: cannot be read: File name too long" in told or "does not exist" in told
    assert f"run.data.sources.{'a' * 300}: " in told


def test_a_key_of_a_page_is_cut_in_the_message(tmp_path: Path) -> None:
    told = message(write(tmp_path, nest("run", {"b" * 70_000: 1})))
    assert f"run.{'b' * 1000}...: " in told
    assert len(told) < 3000


def test_paths_are_expanded_under_every_key(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/ada")
    changes = {
        "results_dir": "${oc.env:PLACE}/results",
        "document": "~/guide.md",
        "evidence": [{"file": "$PLACE/e.csv", "format": "csv"}],
        "models": "$PLACE/models.yaml",
        "variants": {"v": {"data": {"shards_dir": "${PLACE}/shards"}}},
        "run": {"data": {"root_dir": "~/data"}, "checkpoint": {"path": "$PLACE/c"}},
    }
    (tmp_path / "models.yaml").write_text(dump_yaml(STUDY["models"]))
    path = tmp_path / "study.yaml"
    path.write_text(
        dump_yaml(merge(STUDY, {**changes, "models": None}, {"models": changes["models"]}))
    )
    study = load_study_file(str(path))
    text = study.to_yaml()
    assert "PLACE" not in text and "~" not in text
    assert study.results_dir == f"{tmp_path}/results"
    assert study.document == "/home/ada/guide.md"
    assert Grid(study)[0].run.data.root_dir == "/home/ada/data"


def test_a_variable_or_a_home_that_is_missing_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("NOPE", raising=False)
    for key in ("results_dir", "document", "run.data.root_dir", "run.checkpoint.path"):
        told = message(write(tmp_path, nest(key, "/x/$NOPE/y")))
        assert f"{key}: found '$NOPE', but the variable NOPE is not set" in told
        assert told.count("\n") == 1
    told = message(write(tmp_path, {"results_dir": "~nobody-there/x"}))
    assert "found '~nobody-there/x'; '~nobody-there' has no home folder here" in told


def test_scratch_is_expanded_by_the_job(tmp_path: Path) -> None:
    study = load_study_file(write(tmp_path, nest("clusters.fast.scratch", "~/x/${oc.env:JOB}")))
    line = launch_line(study.clusters["fast"], 1)
    assert 'TMPDIR="${HOME:?}/x/${JOB:?}/tmp"' in line
    assert "with a '$' that is none of" in message(
        write(tmp_path, nest("clusters.fast.scratch", "/x/$(whoami)"))
    )


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("", "found ''; expected a command"),
        ("apptainer exec 'torch.sif", "No closing quotation"),
        ("apptainer exec $(latest)", "'$(latest)', with a '$' that is none of"),
        (["apptainer", "exec"], "found a list"),
    ],
)
def test_a_container_is_a_command(tmp_path: Path, command: object, told: str) -> None:
    said = message(write(tmp_path, nest("clusters.fast.container", command)))
    assert "clusters.fast.container: " in said
    assert told in said


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("confirm: .nan\n", "confirm: found nan; expected a string"),
        ("budget: {gpu_hours: .inf}\n", "budget.gpu_hours: found inf"),
        ("budget: {gpu_hours: 1e999}\n", "budget.gpu_hours: found inf"),
        ('confirm: "\\ud800"\n', "half of a surrogate pair"),
        ("confirm: !!timestamp 2026-01-01\n", "could not determine a constructor"),
        ("confirm: !!binary aGk=\n", "could not determine a constructor"),
        ("confirm: 2026-01-01\n", None),
        ("confirm: " + "[" * 500 + "\n", "more than 64 mappings and lists inside each other"),
        ("variants: &a {v: *a}\n", "an alias of the mapping or list that contains it"),
        ("budget: {gpu_hours: " + "9" * 400 + "}\n", "expected a 64-bit number"),
        ("estimate: {horizons: ['" + "9" * 400 + " steps']}\n", "estimate.horizons"),
    ],
)
def test_values_that_are_none(tmp_path: Path, text: str, told: str | None) -> None:
    path = write(tmp_path, text)
    if told is None:
        assert load_study_file(path).confirm == "2026-01-01"
    else:
        assert told in message(path)


def test_json_writes_a_character_as_a_surrogate_pair(tmp_path: Path) -> None:
    assert load_study_file(write(tmp_path, 'confirm: "\\ud83d\\ude00"\n')).confirm == "😀"


def test_a_bar_in_a_cell_is_not_a_border() -> None:
    lines = markdown_table(["a|b", "c"], [["x | y", "two\nlines"], ["z", ""]]).splitlines()
    assert lines[0].count("|") - lines[0].count("\\|") == 3
    assert all(line.replace("\\|", "").count("|") == 3 for line in lines)
    assert len(lines) == 4
