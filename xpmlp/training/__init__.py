"""Training: what decides a run, one step, one loop, and what is kept of it."""
