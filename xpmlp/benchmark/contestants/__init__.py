"""The contestants, a file each. A process imports one of them."""
