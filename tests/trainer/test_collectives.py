"""What ranks agree on."""

from typing import NoReturn

import pytest
import torch

from trainer import collectives
from trainer.collectives import found_by_main, mean_over_ranks, sum_over_ranks
from trainer.problems import ConfigError
from trainer.world import World

MAIN, OTHER = (World(rank, 2, rank, 2, torch.device("cpu")) for rank in (0, 1))
ALONE = World(0, 1, 0, 1, torch.device("cpu"))


def refuse() -> NoReturn:
    raise ConfigError("here", ["nothing found"])


def test_the_main_process_alone_looks_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the ranks read the folder, printed its warnings, and might have seen another state of
    a network file system."""
    sent: list[object] = []
    monkeypatch.setattr(collectives, "share", lambda value, _: sent.append(value) or value)
    assert found_by_main(lambda: "found", MAIN) == "found"
    with pytest.raises(ConfigError, match="nothing found"):
        found_by_main(refuse, MAIN)
    assert sent == ["found", None]
    monkeypatch.setattr(collectives, "share", lambda value, _: "found")
    assert found_by_main(refuse, OTHER) == "found"
    monkeypatch.setattr(collectives, "share", lambda value, _: None)
    with pytest.raises(SystemExit) as ended:
        found_by_main(refuse, OTHER)
    assert ended.value.code == 1


def test_a_mean_leaves_the_value_of_a_rank_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of losses go on after a checkpoint has taken their mean. The other rank has 5."""
    monkeypatch.setattr(collectives.dist, "all_reduce", lambda value, op: value.add_(5.0))
    own = torch.tensor(3.0)
    assert mean_over_ranks(own, MAIN).item() == 4
    assert mean_over_ranks(own, ALONE).item() == 3
    assert own.item() == 3
    assert sum_over_ranks(own, ALONE).item() == 3
    assert sum_over_ranks(own, MAIN).item() == 8
