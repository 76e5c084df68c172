"""run.json at the start of an attempt."""

import json
import os
from dataclasses import fields

from tests.trainer.conftest import Runs, read_records
from trainer.execution.choices import Choices
from trainer.records import UsedChoices


def test_run_json_records_the_choices(runs: Runs) -> None:
    runs.run("steps=2", "eval=null", "distributed={model_dtype: auto}")
    facts = json.loads((runs.out() / "run.json").read_text())
    assert facts["device"] == "cpu"
    assert facts["cores_per_rank"] >= 1
    assert facts["machine_cores"] == len(os.sched_getaffinity(0))
    assert facts["gpus"] == facts["nodes"] == 1
    assert facts["layout"] == {"dp_replicate": 1, "dp_shard": 1, "tp_size": 1}
    assert len(facts["hosts"]) == len(facts["addresses"]) == 1
    assert facts["attempts"][0]["hosts"] == facts["hosts"]
    assert facts["choices"]["compiled"] is False
    assert facts["choices"]["model_dtype"] in ("bf16", "fp32")
    assert None not in facts["choices"].values()
    assert [record["global_step"] for record in read_records(runs.out())] == [1, 2]


def test_run_json_has_each_choice() -> None:
    """A key that it does not declare would be left out silently."""
    assert UsedChoices.model_fields.keys() == {choice.name for choice in fields(Choices)}
