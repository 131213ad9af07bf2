"""``python -m scalerl`` and ``torchrun -m scalerl``: the command line."""

import sys

from scalerl.cli import main

if __name__ == "__main__":
    sys.exit(main())
