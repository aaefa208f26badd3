"""The parts of ``scripts/ranks.py``: the launches, what a rank does, the formula, and the picture."""
