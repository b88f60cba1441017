"""The classes of "Neural Networks from Scratch in Python" (Kinsley and Kukieła, 2020) under the book's names.

A script of the book's chapters 9 to 22 runs with `from fastbp.nnfs import ...` in place of its own classes: the same
constructors, attributes, random stream and dtypes. Dense layers and ReLU are computed by fastbp's kernels, the rest by NumPy.

Where another package has replaced np.dot, as nnfs.init() does at the top of the book's scripts, dense layers are computed by
that np.dot and np.sum, so that every digit printed is the book's; it does not matter which package is imported first. `exact`
says otherwise, for what is computed from then on: `fastbp.nnfs.exact = False` takes fastbp's kernels in any case, which are
faster and round sums in another order, `fastbp.nnfs.exact = True` computes as the book's classes without nnfs.init(), too.
"""
from .accuracies import Accuracy, Accuracy_Categorical, Accuracy_Regression
from .activations import Activation_Linear, Activation_ReLU, Activation_Sigmoid, Activation_Softmax
from .layers import Layer_Dense, Layer_Dropout, Layer_Input
from .losses import (
    Activation_Softmax_Loss_CategoricalCrossentropy,
    Loss,
    Loss_BinaryCrossentropy,
    Loss_CategoricalCrossentropy,
    Loss_MeanAbsoluteError,
    Loss_MeanSquaredError,
)
from .model import Model
from .optimizers import Optimizer_Adagrad, Optimizer_Adam, Optimizer_RMSprop, Optimizer_SGD

exact: bool | None = None       # whether to compute as the book's classes do; None: where np.dot is not NumPy's own

__all__ = ["Accuracy", "Accuracy_Categorical", "Accuracy_Regression", "Activation_Linear", "Activation_ReLU",
           "Activation_Sigmoid", "Activation_Softmax", "Activation_Softmax_Loss_CategoricalCrossentropy", "Layer_Dense",
           "Layer_Dropout", "Layer_Input", "Loss", "Loss_BinaryCrossentropy", "Loss_CategoricalCrossentropy",
           "Loss_MeanAbsoluteError", "Loss_MeanSquaredError", "Model", "Optimizer_Adagrad", "Optimizer_Adam",
           "Optimizer_RMSprop", "Optimizer_SGD"]
