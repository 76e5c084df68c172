"""A cell is Verified by runs with the same settings, of those that can change the speed."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.estimate.estimate import Estimate, estimate_table
from study.estimate.time_table import to_markdown
from study.grid import Grid
from study.load import load_study
from study.measure.evidence import earlier_measurements, known_measurements
from study.measure.measurement import read_measurements
from study.measure.throughput import throughput_rows
from study.measure.throughput_table import write_table
from tests.study.conftest import CONTINUED, MakeGrid, write_run
from tests.study.measure.speed_settings import OTHER_SPEED, SAME_SPEED, run_with

BEFORE = ("3d837b7af9a8854c", "0059636cfec4f976", "c28cf472cfe55bf3")
"""Fingerprint, speed key and trajectory of `RUN` on 4 GPUs."""


@pytest.mark.parametrize("key", OTHER_SPEED)
def test_a_setting_that_can_change_the_speed_changes_the_key(key: str) -> None:
    changed = run_with({key: OTHER_SPEED[key]})
    assert changed.speed_key(4) != run_with({}).speed_key(4)


@pytest.mark.parametrize("key", SAME_SPEED)
def test_a_setting_that_cannot_change_the_speed_keeps_the_key(key: str) -> None:
    assert run_with({key: SAME_SPEED[key]}).speed_key(4) == run_with({}).speed_key(4)


@given(st.dictionaries(st.sampled_from(list(SAME_SPEED)), st.none(), min_size=1))
def test_any_combination_of_them_keeps_the_key(keys: dict[str, None]) -> None:
    changed = run_with({key: SAME_SPEED[key] for key in keys})
    assert changed.speed_key(1) == run_with({}).speed_key(1)


def test_digests_of_the_default_architecture_are_those_of_before_it_had_keys() -> None:
    """Computed before the keys existed, so that earlier runs stay measured."""
    run = run_with({})
    found = (run.fingerprint(4), run.speed_key(4), run.trajectory(4))
    assert found == BEFORE
    usual = {"qk_norm": False, "norm_type": "rmsnorm", "activation": "swiglu", "pos_embed": "rope"}
    written = run_with({f"model.{key}": value for key, value in usual.items()})
    assert (written.fingerprint(4), written.speed_key(4), written.trajectory(4)) == BEFORE


def masked(sources: dict[str, float]) -> str:
    """Return the speed key of a run with a document mask and these sources added to `RUN`'s."""
    return run_with({"data.document_mask": True, "data.sources": sources}).speed_key(4)


def test_with_a_document_mask_other_text_has_another_speed() -> None:
    """Attention skips more if documents are shorter. Only the shares of the sources count."""
    assert len({masked({}), masked({"other": 1.0}), masked({"other": 3.0})}) == 3
    assert masked({"text": 7.0}) == masked({})
    assert masked({"text": 2.0, "other": 6.0}) == masked({"other": 3.0})


def test_threads_of_a_cpu_run_change_its_speed() -> None:
    one, two = (run_with({"device": "cpu", "distributed.threads": n}) for n in (1, 2))
    assert one.speed_key(1) != two.speed_key(1)


def test_a_key_depends_on_the_layout_and_not_on_how_it_is_written() -> None:
    written = {"distributed.fsdp_type": "full_shard"}
    explicit = {**written, "distributed.dp_shard": 4, "distributed.dp_replicate": 1}
    assert run_with(written).speed_key(4) == run_with(explicit).speed_key(4)
    hybrid = {**written, "distributed.dp_shard": 2, "distributed.dp_replicate": 2}
    assert run_with(hybrid).speed_key(4) != run_with(explicit).speed_key(4)


def estimates(study: dict[str, Any]) -> dict[str, Estimate]:
    grid = Grid(load_study(study, "study.yaml"))
    rows = estimate_table(grid, known_measurements(grid))
    return {f"{row.model}/{row.gpus}": row for row in rows}


def test_evidence_verifies_only_equal_settings(tmp_path: Path) -> None:
    """A window of 256, and a document mask with a CUDA graph, have different speeds."""
    header = "cluster,model,gpus,batch_size_per_gpu,seq_len,steps,tokens_per_s_per_gpu\n"
    plain, masked = tmp_path / "plain.csv", tmp_path / "masked.csv"
    plain.write_text(header + "miso,a,1,4,8192,500,110000\n")
    masked.write_text(header + "miso,a,8,4,8192,500,60000\n")
    others = {"data": {"document_mask": True}, "distributed": {"cuda_graphs": True}}
    rows = estimates(
        {
            "study": "win",
            "models": {
                "a": {"dim": 1024, "n_layers": 16, "n_heads": 16},
                "w": {"dim": 1024, "n_layers": 16, "n_heads": 16, "sliding_window": 256},
            },
            "corpora": ["python_stdlib"],
            "results_dir": str(tmp_path),
            "run": {
                "steps": 500,
                "data": {"root_dir": "x", "sources": {"python_stdlib": 1.0}, "batch_size": 4,
                         "seq_len": 8192},
            },
            "grid": [{"cluster": "miso", "model": ["a", "w"], "gpus": [1, 8], "measure": False}],
            "evidence": [
                {"file": str(plain), "by": "me"},
                {"file": str(masked), "by": "documents", "run": others},
            ],
        }
    )  # fmt: skip
    assert {name for name, row in rows.items() if row.basis == "Verified"} == {"a/1"}
    assert rows["a/1"].by == "me"


def test_an_older_table_verifies_only_equal_settings(make_grid: MakeGrid) -> None:
    earlier = make_grid()
    for cell in earlier.measured:
        write_run(cell)
    path = Path(earlier.study.folder, "throughput.csv")
    write_table(throughput_rows(earlier), path)
    path.with_name("study.yaml").write_text(earlier.study.to_yaml())
    entry = {"file": str(path), "format": "throughput"}
    for changes, basis in (
        ({"optim": {"lr": 1e-2}}, "Verified"),
        ({"distributed": {"attention": "math"}}, "Estimated"),
        ({"data": {"document_mask": True}}, "Estimated"),
        ({"optim": {"fused": False}}, "Estimated"),
    ):
        later = make_grid({"study": "later", "evidence": [entry], "run": changes})
        rows = estimate_table(later, known_measurements(later))
        assert {row.basis.split()[0] for row in rows} == {basis}, changes


def test_a_run_on_other_nodes_does_not_verify(make_grid: MakeGrid, tmp_path: Path) -> None:
    """8 GPUs on two nodes of 4 are not those of one node, once `gpus_per_node` is 8: their
    messages crossed the network. Neither in the study that ran them nor as evidence."""

    def study(gpus_per_node: int, name: str = "test") -> Grid:
        fast = {"gpus_per_node": gpus_per_node, "slurm": {"max_nodes": 2}}
        entry = {"file": str(path), "format": "throughput"}
        return make_grid(
            {
                "study": name,
                "clusters": {"fast": fast},
                "grid": [{"cluster": "fast", "model": "tiny", "gpus": 8}],
                "evidence": [entry] if name == "later" else [],
            }
        )

    path = tmp_path / "results" / "test" / "throughput.csv"
    earlier = study(4)
    write_run(earlier[0])
    path.with_name("study.yaml").write_text(earlier.study.to_yaml())
    for grid, basis in ((study(8), "Estimated"), (earlier, "Verified")):
        rows = throughput_rows(grid)
        assert [row.nodes for row in rows] == [2]
        write_table(rows, path)
        for other in (grid, study(grid[0].cluster_config.gpus_per_node, "later")):
            found = estimate_table(other, known_measurements(other))
            assert [row.basis.split()[0] for row in found] == [basis]


def test_a_run_on_another_gpu_does_not_verify(make_grid: MakeGrid, tmp_path: Path) -> None:
    """The cluster has H200s; of its A100s before, the study, its evidence and what it measured
    before an edit tell nothing about them."""
    path = tmp_path / "results" / "test" / "throughput.csv"

    def study(name: str, steps: int = 50) -> Grid:
        entry = {"file": str(path), "format": "throughput"}
        return make_grid(
            {
                "study": name,
                "run": {"steps": steps},
                "grid": [{"cluster": "fast", "model": "tiny", "gpus": 1}],
                "evidence": [entry] if name == "later" else [],
            }
        )

    earlier = study("test")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name("study.yaml").write_text(earlier.study.to_yaml())
    for gpu, counts in (("NVIDIA A100-SXM4-80GB", 0), ("NVIDIA H200", 1)):
        write_run(earlier[0], gpu_name=gpu)
        write_table(throughput_rows(earlier), path)
        for grid in (earlier, study("later")):
            found = known_measurements(grid)
            assert len(found) == counts
            (row,) = estimate_table(grid, found)
            assert (row.basis == "Verified") == bool(counts)
        assert len(earlier_measurements(study("test", steps=60))) == counts


def test_a_time_for_far_more_steps_than_measured_has_a_note(make_grid: MakeGrid) -> None:
    """39 steps were in steady state: 390 are ten times as many, 10,000 are far more."""
    grid = make_grid({"estimate": {"steps": 390, "horizons": ["10000 steps"]}})
    write_run(grid[0])
    path = Path(grid.study.folder, "throughput.csv")
    write_table(throughput_rows(grid), path)
    near, *_, far = (
        row
        for row in estimate_table(grid, read_measurements(path, grid))
        if (row.model, row.gpus) == (grid[0].model, 1)
    )
    assert (near.basis, near.measured_steps) == ("Verified", None)
    assert (far.basis, far.measured_steps) == ("Verified", 39)
    text = to_markdown([near]) + to_markdown([far])
    assert text.count("speed over 39 steps, length extrapolated") == 1


def test_the_steps_of_a_note_are_those_that_were_measured(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    """Not those of the settings: of a run that diverged at step 30, in steady state were 2 to 30;
    of a nanoGPT log with iterations 0, 10 and 20, the last two were timed."""
    log, table = tmp_path / "nano.log", tmp_path / "speeds.csv"
    log.write_text("".join(f"iter {i}: loss 3.1, time 250.00ms, mfu 1%\n" for i in (0, 10, 20)))
    table.write_text("cluster,model,gpus,steps,step_ms\nhere,wide,1,,250\nhere,wide,2,50,250\n")
    of_log = {"file": str(log), "format": "nanogpt", "cluster": "here", "model": "tiny", "gpus": 2}
    grid = make_grid({"evidence": [of_log, {"file": str(table)}], "estimate": {"steps": 1000}})
    write_run(grid[0], outcome="diverged", steps_done=30)
    metrics = Path(grid[0].folder, "metrics.jsonl")
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    write_table(throughput_rows(grid), Path(grid.study.folder, "throughput.csv"))
    rows = estimate_table(grid, known_measurements(grid))
    found = {f"{row.model}/{row.gpus}": to_markdown([row]) for row in rows}
    assert "Verified, from a run that diverged at step 30, with only 3 intervals" in found["tiny/1"]
    assert "; speed over 29 steps" in found["tiny/1"]
    assert "; speed over 2 steps" in found["tiny/2"]
    assert "Verified by speeds, start-up predicted, over an unknown number" in found["wide/1"]
    assert "Verified by speeds, start-up predicted; speed over 50 steps" in found["wide/2"]


def test_a_continued_run_has_measured_its_own_steps(make_grid: MakeGrid) -> None:
    """Of 300 steps, 240 are another run's: 50 of its own are in steady state."""
    grid = make_grid({**CONTINUED, "estimate": {"steps": 600}})
    write_run(grid[1])
    metrics = Path(grid[1].folder, "metrics.jsonl")
    own = metrics.read_text().splitlines(keepends=True)[-6:]  # from step 250
    metrics.write_text("".join(own))
    write_table(throughput_rows(grid), Path(grid.study.folder, "throughput.csv"))
    rows = estimate_table(grid, known_measurements(grid))
    assert {row.measured_steps for row in rows} == {50}


def test_a_verified_row_names_the_gpu_that_ran(make_grid: MakeGrid) -> None:
    grid = make_grid({"grid": [{"cluster": ["here", "fast"], "model": "tiny", "gpus": 1}]})
    write_run(grid[0], gpu_name="AMD EPYC")
    write_run(grid[1], gpu_name="NVIDIA H200")
    path = Path(grid.study.folder, "throughput.csv")
    write_table(throughput_rows(grid), path)
    rows = estimate_table(grid, read_measurements(path, grid))
    assert [row.gpu_name for row in rows] == ["CPU core (AMD EPYC)", "H200"]
    assert [row.gpu_name for row in throughput_rows(grid)] == ["AMD EPYC", "NVIDIA H200"]
