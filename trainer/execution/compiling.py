"""torch.compile: what is compiled, and the folder and keys of its cache.

Each block is compiled for static shapes. Equal blocks share one compilation, so the first step
waits for one block only.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainer.config import DistributedConfig
from trainer.execution import sdpa
from trainer.model import linear, pointwise
from trainer.model.model import Transformer
from trainer.problems import ConfigError, Problem
from trainer.settings import suggest

VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Cache folders of torch and Triton; values that the user has set take precedence."""


def use_cache(folder: str | None) -> None:
    """Cache compiled code in a folder, unless the environment names one. Call before compiling.

    Raises ConfigError if the folder cannot be one.
    """
    if folder is None:
        return
    path = Path(folder).absolute()
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        key = ("distributed", "compile_cache")
        raise ConfigError(str(nearest), [Problem(key, "a file; expected a folder, or a free path")])
    for variable, name in zip(VARIABLES, ("inductor", "triton"), strict=True):
        os.environ.setdefault(variable, str(path / name))


def use_workers(count: int) -> None:
    """Compile in `count` processes, unless the environment says how many. Call before compiling.

    torch's default is one for each core of the machine, on each rank.
    """
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(count))


def tag_cache(device: torch.device) -> None:
    """Add to the cache keys what compiled code depends on but torch's keys leave out.

    torch compiles one of the enabled attention kernels into the code, but its key is the graph
    before that choice (pytorch/pytorch#185449). It also leaves out the code of autograd functions.
    CPU code also depends on the vector instructions and on the number of threads, which torch's
    keys include from 2.13 on. Call it after all of these are set and before anything is compiled.
    """
    user = os.environ.get("TORCH_COMPILE_CACHE_KEY_TAG", "")
    tag = " ".join([user, *_dependencies(device)]).strip()
    if tag == torch.compiler.config.cache_key_tag:
        return
    torch.compiler.config.cache_key_tag = tag
    # Code that this process has already compiled is reused without a key.
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def _dependencies(device: torch.device) -> list[str]:
    """Return what code for a device depends on besides its graph, each as name=value."""
    files = (pointwise.__file__, linear.__file__)
    source = hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()[:16]
    found = [
        f"attention={'+'.join(sdpa.enabled())}",
        f"flash={sdpa.flash_package() or 'FA2'}",
        f"functions={source}",
    ]
    if device.type == "cpu":
        vectors = torch.backends.cpu.get_cpu_capability()
        found += [f"vectors={vectors}", f"threads={torch.get_num_threads()}"]
    return found


def check(options: Mapping[str, Any], source: str) -> None:
    """Raise ConfigError if torch.compile has no such option, or not with such a value.

    `source`: where the options are from, for the message.
    """
    if not options:  # the import takes a second
        return
    known = torch._inductor.list_options()
    problems = []
    for name, value in options.items():
        option: dict[str, Any] = {name: value}
        try:
            torch.compile(lambda: None, options=option)  # compiles nothing before its call
        except RuntimeError as error:
            problem = str(error) if name in known else f"not an option; {suggest(name, known)}"
            problems.append(f"distributed.compile_options.{name}: {problem}")
    if problems:
        raise ConfigError(source, problems)


def compile_blocks(model: Transformer, config: DistributedConfig, with_loss: bool) -> None:
    """Compile each block, and the loss, at its first call; equal blocks share one compilation."""
    torch._dynamo.config.recompile_limit = config.compile_cache_size_limit
    # It would split a block's graph; DDP reduces the gradients of blocks one by one without it.
    torch._dynamo.config.optimize_ddp = False
    # Without it, a warm start traces the blocks again: pointwise.py has autograd functions, whose
    # code torch leaves out of its key and `tag_cache` adds.
    if hasattr(torch._functorch.config, "autograd_cache_allow_custom_autograd_functions"):
        torch._functorch.config.autograd_cache_allow_custom_autograd_functions = True
    options: dict[str, Any] | None = dict(config.compile_options) or None
    model.calls_alike = True
    for layer in model.layers:
        layer.compile(dynamic=False, options=options)
    if with_loss and not model.one_kernel:
        model.compile_loss(dynamic=False, options=options)


def uncompiled() -> contextlib.AbstractContextManager:
    """Return a context in which blocks run eagerly, for work that is too rare to compile."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and the import takes seconds
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")
