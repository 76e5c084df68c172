"""What ranks agree on."""

from typing import NoReturn

import pytest
import torch

from trainer import collectives
from trainer.collectives import found_by_main
from trainer.problems import ConfigError
from trainer.world import World


def refuse() -> NoReturn:
    raise ConfigError("here", ["nothing found"])


def test_the_main_process_alone_looks_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the ranks read the folder, printed its warnings, and might have seen another state of
    a network file system."""
    main, other = (World(rank, 2, rank, 2, torch.device("cpu")) for rank in (0, 1))
    sent: list[object] = []
    monkeypatch.setattr(collectives, "share", lambda value, _: sent.append(value) or value)
    assert found_by_main(lambda: "found", main) == "found"
    with pytest.raises(ConfigError, match="nothing found"):
        found_by_main(refuse, main)
    assert sent == ["found", None]
    monkeypatch.setattr(collectives, "share", lambda value, _: "found")
    assert found_by_main(refuse, other) == "found"
    monkeypatch.setattr(collectives, "share", lambda value, _: None)
    with pytest.raises(SystemExit) as ended:
        found_by_main(refuse, other)
    assert ended.value.code == 1
