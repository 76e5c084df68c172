"""The time of a run outside its start-up and steps: saves, evaluations, its end."""

import math

from study.grid import Cell
from trainer.model.optimizers import optimizer_costs


def count_saves(cell: Cell, steps: int) -> int:
    """Return how often a run saves in `steps` steps: periodically, and at its end."""
    checkpoint = cell.run.checkpoint
    if checkpoint is None:
        return 0
    periods = checkpoint.periods
    # If both kinds are due at a step, it saves once.
    due = sum(steps // period for period in periods)
    if len(periods) == 2:
        due -= steps // math.lcm(*periods)
    ends_with_one = any(steps % period == 0 for period in periods)
    return due + (0 if ends_with_one else 1)


def count_evaluations(cell: Cell, steps: int) -> int:
    """Return how often a run computes its validation loss in `steps` steps."""
    run = cell.run
    if run.eval is None:
        return 0
    every = run.evaluation_period
    if every is None:
        return 1
    return steps // every + (1 if steps % every else 0)


def pauses(cell: Cell, steps: int) -> tuple[object, ...]:
    """Return what interrupts or ends a run of `steps` steps: runs of one speed with the same pauses
    take equally long."""
    saves, evaluations = count_saves(cell, steps), count_evaluations(cell, steps)
    checkpoint, evaluation = cell.run.checkpoint, cell.run.eval
    return (
        saves,
        checkpoint.async_save if checkpoint else None,
        evaluations,
        evaluation.validation if evaluation else None,
    )


def rest_terms(cell: Cell, steps: int, step_s: float) -> dict[str, float]:
    """Return the parts of a run outside its start-up and steps, s at nominal rates.

    saves: at 1 GB/s. evaluations: a third of a step's time for as many tokens, since they have no
    backward pass. end: 1 s. `step_s` is the mean step time.
    """
    run = cell.run
    costs = optimizer_costs(run.optim.name, run.model, run.data.tokenizer.vocab_size)
    saved = costs.checkpoint_bytes * cell.params / 1e9
    sequences = (run.eval.validation.max_sequences if run.eval else None) or 0
    evaluation = sequences * run.data.seq_len / cell.tokens_per_step * step_s / 3
    return {
        "saves": count_saves(cell, steps) * saved,
        "evaluations": count_evaluations(cell, steps) * evaluation,
        "end": 1.0,
    }
