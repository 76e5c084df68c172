"""The command: python -m trainer.sample --run FOLDER --prompt TEXT"""

import sys

from trainer.commands.sample import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
