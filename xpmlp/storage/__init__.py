"""Files: written whole or not at all, locked, with tensors or figures in them."""
