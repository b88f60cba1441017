"""Compiled loops: from the register tile (tile.py) up to one training step of a dense layer (dense.py)."""
