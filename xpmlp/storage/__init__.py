"""Files: whole or not at all, locked, with tensors or pictures in them."""
