"""Faults for the trainer, from outside: nothing of this is in its own sources.

Python imports a `sitecustomize` that it finds on PYTHONPATH. This one wraps the function that takes
a training step, once the trainer is imported; FAULT names what happens in step FAULT_STEP, and
FAULT_FOLDER holds a file `<fault>-happened` afterwards, so that it happens once. Of Hugging Face's
Trainer, only `hold` is known. A process that holds has its rank and arguments in a file
`held-<node>-<pid>` there: each node counts its own processes.
"""

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from pathlib import Path

FAULT = os.environ.get("FAULT", "")
STEP = int(os.environ.get("FAULT_STEP", "9"))
FOLDER = Path(os.environ.get("FAULT_FOLDER", "."))
asked_to_stop = False
RANK = int(os.environ.get("RANK", "0"))


def hold(asked=lambda: asked_to_stop) -> None:
    """Stay in this step until the test lets go, or the run is asked to stop."""
    name = f"{os.environ.get('SLURMD_NODENAME')}-{os.getpid()}"
    held, unfinished = FOLDER / f"held-{name}", FOLDER / f"unfinished-{name}"
    unfinished.write_text(f"{RANK} {sys.argv}")
    unfinished.rename(held)
    while (FOLDER / f"{FAULT}-hold").exists() and not asked():
        time.sleep(0.1)
    held.unlink(missing_ok=True)


def slow() -> None:
    """Take some seconds more, unless asked to stop."""
    until = time.monotonic() + float(os.environ.get("FAULT_SECONDS", "0"))
    while time.monotonic() < until and not asked_to_stop:
        time.sleep(0.1)


def gpu_out_of_memory() -> None:
    import torch

    if RANK == 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def host_out_of_memory() -> None:
    """Need 2.5 GiB more than a run does. Slurm samples the memory once a second."""
    held = bytearray(2560 << 20)
    time.sleep(4)
    del held


def rank_raises() -> None:
    if RANK == 1 and happens_first():
        raise RuntimeError("an injected fault")


def rank_hangs() -> None:
    if RANK == 1 and happens_first():
        os.kill(os.getpid(), signal.SIGSTOP)


def happens_first() -> bool:
    """Say whether this is the first time; the file is made by one process alone."""
    try:
        (FOLDER / f"{FAULT}-happened").open("x").close()
    except FileExistsError:
        return False
    return True


# What is done in each step from STEP on, and what in STEP alone.
EACH_STEP = {"hold": hold, "slow": slow}
AT_STEP = {
    function.__name__: function
    for function in (gpu_out_of_memory, host_out_of_memory, rank_raises, rank_hangs)
}


def wrap(module) -> None:
    take_step = module.take_step
    receive = module.StopSignal._receive

    def receive_and_note(self, number, frame):
        global asked_to_stop
        asked_to_stop = True
        receive(self, number, frame)

    module.StopSignal._receive = receive_and_note

    def step_with_fault(session, stop, step):
        kind = FAULT.partition(":")[0]
        if step == STEP and kind in AT_STEP:
            AT_STEP[kind]()
        if step >= STEP and kind in EACH_STEP:
            EACH_STEP[kind]()
        return take_step(session, stop, step)

    module.take_step = step_with_fault


def wrap_transformers(module) -> None:
    take_step = module.Trainer.training_step

    def step_with_fault(self, *arguments, **options):
        if self.state.global_step + 1 >= STEP and FAULT.startswith("hold"):
            callbacks = self.callback_handler.callbacks
            hold(lambda: any(getattr(callback, "_asked", False) for callback in callbacks))
        return take_step(self, *arguments, **options)

    module.Trainer.training_step = step_with_fault


WRAPPERS = {"trainer.loop.train": wrap, "transformers.trainer": wrap_transformers}


class Finder(importlib.abc.MetaPathFinder):
    """Finds a trainer's module as Python does, and has it wrapped when it is loaded."""

    def find_spec(self, name, path, target=None):
        if name not in WRAPPERS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def load_and_wrap(module) -> None:
            load(module)
            WRAPPERS[name](module)

        spec.loader.exec_module = load_and_wrap
        return spec


if FAULT:
    sys.meta_path.insert(0, Finder())
