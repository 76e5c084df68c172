"""Whether a run on a CPU can fit into the memory of its machine."""

from trainer import host
from trainer.config import RunConfig
from trainer.flops import count_parameters
from trainer.model.optimizers import optimizer_costs
from trainer.problems import ConfigError
from trainer.ranks import Ranks


def check(config: RunConfig, ranks: Ranks) -> None:
    """Raise ConfigError if weights, gradients and optimizer state exceed this machine's memory.

    Linux would let such a run begin, and kill it without a message once it uses what it has asked
    for. Activations come on top, so a run that passes may still not fit.
    """
    there = host.memory_bytes()
    if config.device != "cpu" or there is None:
        return
    model, vocab_size = config.model, config.data.tokenizer.vocab_size
    count = count_parameters(model, vocab_size).total
    costs = optimizer_costs(config.optim.name, model, vocab_size)
    copies = float(ranks.local_size)
    if config.distributed.is_sharded(ranks.size):
        replicas, _ = config.distributed.data_parallel(ranks.size)
        copies *= replicas / ranks.size
    needed = count * costs.memory_bytes * copies
    if needed > there:
        raise ConfigError(
            "run",
            [
                f"model: found {count:,} parameters, whose weights, gradients and optimizer state "
                f"take {needed / 2**30:,.1f} GiB here; expected at most this machine's "
                f"{there / 2**30:,.1f} GiB"
            ],
        )
