"""Runs the trainer, or its command `precompile`, with copies of the weights on a CPU.

A run has them on a GPU only.  python -m tests.trainer.with_copies [precompile] config=...
"""

import sys

from trainer.execution import choices

if __name__ == "__main__":
    choices._keeps_copies = lambda config, gpus, dtype: True
    if sys.argv[1] == "precompile":
        from trainer.commands.precompile import main

        sys.exit(main(sys.argv[2:]))
    from trainer.__main__ import main as train

    sys.exit(train(sys.argv[1:]))
