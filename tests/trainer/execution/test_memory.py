from dataclasses import replace
from pathlib import Path

import pytest

from tests.trainer.small_runs import ALONE, run_config
from trainer import host
from trainer.execution import memory
from trainer.flops import count_parameters
from trainer.problems import ConfigError


def fits(folder: Path, there: int | None, ranks: tuple[int, int], **settings: object) -> bool:
    """`ranks`: all processes, and those of this machine."""
    world = replace(ALONE, size=ranks[0], local_size=ranks[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "memory_bytes", lambda: there)
        try:
            memory.check(run_config(folder, **{"device": "cpu", **settings}), world)
        except ConfigError as error:
            assert "weights, gradients and optimizer state take " in str(error)
            return False
    return True


@pytest.mark.parametrize(
    ("ranks", "distributed", "copies"),
    [
        ((1, 1), {}, 1),
        ((4, 2), {}, 2),
        ((4, 4), {"fsdp_type": "full_shard"}, 1),
        ((4, 2), {"fsdp_type": "full_shard"}, 0.5),
        ((4, 4), {"fsdp_type": "full_shard", "dp_shard": 2}, 2),
        ((4, 2), {"tp_size": 2}, 1),
    ],
)
def test_16_bytes_of_a_parameter_have_to_fit_for_each_copy_of_the_weights(
    tmp_path: Path, ranks: tuple[int, int], distributed: dict[str, object], copies: float
) -> None:
    """fp32 weight, gradient and two moments of AdamW."""
    config = run_config(tmp_path)
    count = count_parameters(config.model, config.data.tokenizer.vocab_size).total
    needed = int(16 * count * copies)
    assert fits(tmp_path, needed, ranks, distributed=distributed)
    assert not fits(tmp_path, needed - 1, ranks, distributed=distributed)


def test_memory_that_is_not_known_is_no_reason(tmp_path: Path) -> None:
    assert fits(tmp_path, None, (1, 1))


def test_memory_of_the_machine_does_not_matter_on_a_gpu(tmp_path: Path) -> None:
    assert fits(tmp_path, 1, (1, 1), device="cuda")
