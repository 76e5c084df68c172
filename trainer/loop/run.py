"""Start, resume or skip one run. The training loop is in train.py."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from trainer.collectives import barrier, found_by_main, share, waiting_for_all
from trainer.config import RunConfig
from trainer.execution.choices import Choices
from trainer.files import write_atomically
from trainer.folder import failure
from trainer.folder.owner import identify
from trainer.folder.run_file import Lock, find_summary, wait_for_lock
from trainer.folder.run_folder import Decision, bring_back, choose_action, is_completed
from trainer.folder.trackers import check_trackers
from trainer.loop.learner import build_model, set_up_process
from trainer.loop.session import open_session
from trainer.loop.summary import open_journal
from trainer.loop.train import train
from trainer.model.model import Transformer
from trainer.records import CONFIG
from trainer.startup import Startup
from trainer.tokens.texts import Texts, open_texts
from trainer.world import World, get_world, process_group


def run(config: RunConfig, startup: Startup) -> int:
    """Start or resume the run, or report that it is complete; return the exit code."""
    folder = Path(config.dump_dir)
    with failure.refusals_noted(folder):
        check_trackers(config)
        settings = config.distributed
        world = get_world(config.device, config.gpu_name, settings.tp_size, settings.timeout_s)
        config.check_processes(world.size)
        choices = set_up_process(config, world)
        with (
            failure.reported(config, world),
            process_group(world) as wait_for_others,
        ):
            model = None
            if world.size > 1 and not is_completed(folder):
                # While the process group is initialised in the background. The weights are
                # shared when it is known that no others are loaded.
                model = build_model(config, choices, world.device, draws=world.is_main)
                startup.mark("model")
            wait_for_others()
            startup.mark("process_group")
            with _locked(folder, world):
                return _start_or_resume(config, choices, startup, world, model)


@contextlib.contextmanager
def _locked(folder: Path, world: World) -> Iterator[None]:
    """Hold the lock of the run's folder; wait while another process trains there.

    All ranks poll together: a collective that waits for rank 0 could time out.
    """
    lock = Lock(folder) if world.is_main else None

    def acquire() -> bool:
        return share(lock is not None and lock.try_acquire(), world)

    wait_for_lock(folder, acquire, tell=world.is_main)
    try:
        if world.is_main:
            failure.forget(folder)
        barrier(world)
        yield
    finally:
        if lock is not None:
            lock.release()


def _decide(config: RunConfig, world: World, texts: Texts) -> Decision:
    """Return what the run does in its folder, which is locked. Raises ConfigError."""
    folder = Path(config.dump_dir)
    summary = find_summary(folder)
    run_id = identify(config, folder, summary)
    content = texts.content, texts.training_content
    action = choose_action(folder, config, world.size, summary, *content)
    if action == "start" and bring_back(folder, config, world.size, *content):
        action = "done"
    return Decision(action, run_id, summary if action == "resume" else None)


def _start_or_resume(
    config: RunConfig,
    choices: Choices,
    startup: Startup,
    world: World,
    model: Transformer | None,
) -> int:
    folder = Path(config.dump_dir)
    # One process makes those that are missing, and says what is wrong with the text.
    texts = found_by_main(lambda: open_texts(config), world)
    with waiting_for_all(world):
        if not world.is_main:
            texts = open_texts(config)  # perhaps on a disk of another machine
    startup.mark("data")
    decision = found_by_main(lambda: _decide(config, world, texts), world)
    if decision.action == "done":
        if world.is_main:
            if not (folder / CONFIG).exists():
                write_atomically(folder / CONFIG, config.to_yaml())
            print(f"{folder}: the run is complete already", flush=True)
        return 0
    session = open_session(config, choices, startup, world, texts, decision, model)
    try:
        open_journal(session)
        return train(session)
    except BaseException:
        with contextlib.suppress(OSError):  # a full disk, for example
            session.journal.end("failed")
        raise
    finally:
        session.close()
