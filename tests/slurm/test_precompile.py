"""What is done before a run: tokenising on a partition of its own, and compiling once a shape."""

import json
from pathlib import Path

import pytest

from tests.slurm.cluster.api import Cluster
from tests.slurm.studies import SlurmStudy, partition

pytestmark = pytest.mark.slurm


def test_two_cells_find_what_one_job_has_compiled(cluster: Cluster, tmp_path: Path) -> None:
    study = SlurmStudy(cluster, tmp_path, "precompile")
    study.study["run"]["distributed"]["compile"] = True
    study.study["run"]["steps"] = 4
    data = {"partition": "miso", "account": "miso", "runtime_min": 7, "mem_gib": 3, "cpus": 2}
    study.study["clusters"]["sphinx"] = partition("sphinx", data=data)
    study.study["grid"] = [{"cluster": "sphinx", "model": "one", "gpus": [1, 2]}]
    flags = [
        str(study.results / f"runs/sphinx/one/gpus-{gpus}/base/seed-42/completed")
        for gpus in (1, 2)
    ]
    output = study.run(*flags)
    assert study.returncode == 0, output
    (flag,) = study.results.glob("precompile/sphinx/one-*/compiled")
    log = flag.with_name("precompile.log").read_text()
    assert "compiled in" in log
    runs = [json.loads(path.read_text()) for path in study.results.rglob("runs/**/run.json")]
    assert sorted(run["gpus"] for run in runs) == [1, 2]
    assert all(run["choices"]["compiled"] for run in runs)
    code = [path for path in tmp_path.glob("results/compile_cache/**/*") if path.is_file()]
    assert code
    assert max(path.stat().st_mtime for path in code) <= flag.stat().st_mtime
    asked = {"rule_tokenize": "miso,miso,7,3G,2", "rule_precompile": "nlp,sphinx,10,4G,1"}
    for rule, expected in asked.items():
        (log,) = (study.results / "slurm_logs" / rule).rglob("*.log")
        fields = ("Account", "Partition", "TimelimitRaw", "ReqMem", "ReqCPUS")
        assert list(cluster.sacct(int(log.stem), *fields).values()) == expected.split(",")
    # A flag that is newer than the runs does not make them run again.
    flag.touch()
    assert "Nothing to be done" in study.run("-n", *flags)
