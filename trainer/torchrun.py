"""torchrun without its own traceback: python -m trainer.torchrun takes torchrun's arguments.

When a rank fails or torchrun is told to stop, it raises, and Python prints where. That is torch's
source; the ranks have said what happened, also when nothing is wrong and the run has saved.
"""

import signal
import sys

from trainer.environment import check


def run(arguments: list[str]) -> int:
    """Start the ranks and wait for them; return the exit code."""
    check("torch")
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    try:
        main(arguments)
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        return 1
    except SignalException as error:
        print(f"torchrun: ended by {signal.Signals(error.sigval).name}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
