"""``python -m xpmlp``."""

import sys

try:
    from xpmlp.commands import main
except ModuleNotFoundError as error:
    sys.stderr.write(
        f"xpmlp: {error.name} is not installed: run `python -m pip install -e .` in the project's folder\n"
    )
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main())
