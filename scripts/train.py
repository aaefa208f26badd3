"""Train a multilayer perceptron: ``python scripts/train.py --help``; the same as ``xpmlp train``."""

import sys

try:
    from xpmlp.commands import main, train
except ModuleNotFoundError as error:
    sys.stderr.write(
        f"train.py: {error.name} is not installed: run `python -m pip install -e .` in the project's folder first\n"
    )
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main(command=train, program="train.py"))
