"""The module of the optimisers in older pickles of fastbp.sklearn's estimators."""
from fastbp.sklearn.optimizers import SGD, Adam

__all__ = ["SGD", "Adam"]
