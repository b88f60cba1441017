"""Compiled loops: from the register tile (simd/tile.py) up to the training of a network (train/run.py)."""
