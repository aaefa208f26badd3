"""Training: the settings of a run, its steps, its loop and its records."""
