"""A trained network: load, save, predict, score and draw."""
