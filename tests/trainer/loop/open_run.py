"""A run that is set up and has taken no step."""

from pathlib import Path

from tests.trainer.conftest import Runs
from trainer.config import load_run_config
from trainer.folder.run_folder import Decision
from trainer.loop.learner import set_up_process
from trainer.loop.session import Session, open_session
from trainer.startup import Startup
from trainer.tokens.texts import open_texts
from trainer.world import get_world


def open_run(runs: Runs, *settings: str) -> Session:
    config = load_run_config([f"config={runs.config}", *settings])
    Path(config.dump_dir).mkdir(parents=True, exist_ok=True)
    world = get_world("cpu")
    choices = set_up_process(config, world)
    return open_session(config, choices, Startup(), world, open_texts(config), Decision("start"))
