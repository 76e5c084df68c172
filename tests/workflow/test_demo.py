"""The default study trains on real text and learns from it."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from study.corpus import write_python_stdlib
from study.grid import Grid
from study.load import load_study_file
from tests.waiting import PATIENCE_S
from tests.workflow.checkout import ROOT


def unigram_entropy(files: list[Path]) -> float:
    """Return the entropy of a byte drawn from the documents, in nats, by counting."""
    counts: Counter[int] = Counter()
    for path in files:
        for line in path.read_text().splitlines():
            counts.update(json.loads(line)["text"].encode())
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values())


def test_the_smallest_model_beats_the_unigram_entropy(tmp_path: Path) -> None:
    source = tmp_path / "data" / "python_stdlib"
    write_python_stdlib(source)
    cell = Grid(load_study_file("config/config.yaml"))[0]
    config = tmp_path / "run.yaml"
    config.write_text(cell.run.to_yaml())
    overrides = (
        f"dump_dir={tmp_path}/out",
        f"data.root_dir={tmp_path}/data",
        f"data.shards_dir={tmp_path}/shards",
    )
    subprocess.run(
        [sys.executable, "-m", "trainer", f"config={config}", *overrides],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=PATIENCE_S,
    )
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    entropy = unigram_entropy(list(source.glob("*.val.jsonl")))
    assert 2.5 < entropy < 4
    assert facts["loss_validation"] < entropy
