"""The trial cluster as a fixture; see cluster/cluster.py for what it is made of."""

import os
from collections.abc import Iterator

import pytest

from tests.slurm.cluster.api import Cluster, CommandError


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster, with SLURM_CONF in the environment.

    One that ran already is used and left running, which saves the start in a series of test runs.
    Where none can run the tests are skipped; with TRIAL_CLUSTER_REQUIRED set, as in CI, they fail.
    """
    trial = Cluster()
    was_up = trial.is_up()
    try:
        trial.up()
    except CommandError as error:
        reason = str(error).strip()
        if os.environ.get("TRIAL_CLUSTER_REQUIRED"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(trial.slurm_conf))
        yield trial
    if not was_up:
        trial.down()
