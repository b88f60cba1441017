"""The module of a History in older pickles."""
from fastbp._training.loop import History

__all__ = ["History"]
