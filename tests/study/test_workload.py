"""What a workload says of its layout."""

import pytest

from study.workload import Workload
from tests.study.estimate.workloads import SMALL


@pytest.mark.parametrize(
    ("shard", "tensor_parallel", "sharding"),
    [
        (1, 1, "none"),
        (4, 1, "hybrid"),
        (8, 1, "full"),
        (1, 2, "none"),
        (2, 2, "hybrid"),
        # four groups of two GPUs share one copy
        (4, 2, "full"),
    ],
)
def test_over_which_of_eight_gpus_a_copy_is_sharded(
    shard: int, tensor_parallel: int, sharding: str
) -> None:
    layout = {"shard": shard, "tensor_parallel": tensor_parallel}
    assert Workload(**{**vars(SMALL), **layout}).sharding == sharding
