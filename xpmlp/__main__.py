"""``python -m xpmlp``."""

import sys

from xpmlp.commands import main

if __name__ == "__main__":
    sys.exit(main())
