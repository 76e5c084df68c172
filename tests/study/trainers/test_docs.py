"""docs/trainers.md: its trainer runs by its description alone, from the grid to the tables."""

import re
import shlex
from pathlib import Path

from study.jobs.foreign_job import write_job
from study.jobs.foreign_run import main
from study.load import load_grid_file
from study.measure.throughput import throughput_rows
from study.trainer_command import command

ROOT = Path(__file__).parents[3]


def test_the_worked_example_runs(tmp_path: Path) -> None:
    """A step of 25 tokens at 1234 tokens/s takes 20 ms."""
    text = (ROOT / "docs/trainers.md").read_text().replace("/tmp/mine", str(tmp_path))
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    kinds = ("yaml", "bash", "jinja", "yaml", "")
    assert tuple(kind for kind, _ in blocks[:5]) == kinds
    _, script, template, study, shown = (block for _, block in blocks[:5])
    (tmp_path / "train.sh").write_text(script)
    (tmp_path / "mine.sh").write_text(template)
    path = tmp_path / "mine.yaml"
    path.write_text(f"results_dir: {tmp_path}/results\n{study}")
    grid = load_grid_file(str(path))
    (cell,) = grid
    folder = Path(cell.folder)
    words = [word.replace("RUN", str(folder.absolute())) for word in shlex.split(shown)]
    assert command(cell.placed) == shlex.join(words)
    folder.mkdir(parents=True)
    (folder / "settings.yaml").write_text(cell.run.to_yaml())
    write_job(cell)
    assert main([str(folder), "--", *shlex.split(command(cell.placed))]) == 0
    (row,) = throughput_rows(grid)
    assert (row.trainer, row.status, row.steps, row.steady_steps) == ("mine", "completed", 40, 30)
    assert row.tokens_per_s is not None
    assert abs(row.tokens_per_s - 1234) < 1e-6
    assert row.step_ms_p50 is not None
    assert abs(row.step_ms_p50 - 1e3 * 25 / 1234) < 1e-6
    assert row.startup_s is not None
    assert row.loss_last is None
