"""One training run, from its config to its end: who trains, from where. The steps: train.py."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from trainer import failure, run_folder
from trainer.config import RunConfig
from trainer.layout import check_layout
from trainer.metrics import Startup
from trainer.model import Transformer
from trainer.parallel import (
    World,
    agree,
    barrier,
    get_world,
    process_group,
)
from trainer.session import build_model, content_keys, open_session, set_up_process
from trainer.shards import open_shards
from trainer.trackers import check_trackers
from trainer.train import train

LOCK_POLL_S = 1.0
"""Seconds between two looks at a folder that another process trains in."""

ACTIONS: tuple[run_folder.Action, ...] = ("start", "resume", "done")


def run(config: RunConfig, startup: Startup) -> int:
    """Train, or go on with, or find completed the run of a config; return the exit code."""
    check_trackers(config)
    world = get_world(config.distributed.tp_size)
    check_layout(config, world.size)
    set_up_process(config, world)
    folder = Path(config.dump_dir)
    with (
        failure.reported(config, world),
        process_group(world, config.distributed.timeout_s) as wait_for_others,
    ):
        model = None
        if world.size > 1 and not run_folder.is_completed(folder):
            model = build_model(config, world)  # meanwhile the processes meet
            startup.mark("model")
        wait_for_others()
        startup.mark("process_group")
        with _alone(folder, world):
            return _run(config, startup, world, folder, model)


@contextlib.contextmanager
def _alone(folder: Path, world: World) -> Iterator[None]:
    """Hold the run's folder; wait where another process trains there.

    All ranks wait together: a collective that waits for rank 0 alone would time out.
    """
    lock = run_folder.Lock(folder) if world.is_main else None
    waited = False
    while not agree(int(lock is not None and lock.try_acquire()), world):
        if world.is_main and not waited:
            print(f"{folder}: another process trains here; waiting for it", flush=True)
        waited = True
        time.sleep(LOCK_POLL_S)
    try:
        if world.is_main:
            failure.forget(folder)
        barrier(world)
        yield
    finally:
        if lock is not None:
            lock.release()


def _run(
    config: RunConfig, startup: Startup, world: World, folder: Path, model: Transformer | None
) -> int:
    if world.is_main:
        open_shards(config.data)  # made once, by one process, where they do not exist yet
    barrier(world)
    shards = open_shards(config.data)
    startup.mark("data")
    action: run_folder.Action = "done"
    if world.is_main:
        action = run_folder.choose_action(folder, config, world.size, content_keys(shards))
    action = ACTIONS[agree(ACTIONS.index(action), world)]
    if action == "done":
        if world.is_main:
            print(f"{folder}: the run is complete already", flush=True)
        return 0
    session = open_session(config, startup, world, folder, shards, action, model)
    try:
        return train(session)
    except BaseException:
        session.end("failed")
        raise
    finally:
        session.close()
