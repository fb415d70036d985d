"""The registry as a process: `python -m mempool.membership.registry --bind tcp://127.0.0.1:0`."""

import sys

from mempool.membership.cli import main

if __name__ == "__main__":
    sys.exit(main())
