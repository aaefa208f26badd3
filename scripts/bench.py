"""Time xpmlp and its peers: ``python scripts/bench.py --help``; the same as ``xpmlp bench``."""

import sys

from xpmlp.commands import main
from xpmlp.commands.bench import bench

if __name__ == "__main__":
    sys.exit(main(command=bench, program="bench.py"))
