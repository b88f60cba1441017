"""Compiled loops: from the register tile (tile.py) up to the training of a network (training.py)."""
