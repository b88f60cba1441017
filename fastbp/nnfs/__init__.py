"""The classes of "Neural Networks from Scratch in Python" (Kinsley and Kukieła, 2020) under the book's names.

A script of the book's chapters 9 to 22 runs with `from fastbp.nnfs import ...` in place of its own classes. Constructors,
attributes, random stream and dtypes are the same. fastbp's kernels compute dense layers and ReLU, and NumPy the rest.

nnfs.init(), at the top of the book's scripts, replaces np.dot. Where np.dot was replaced, dense layers use it and np.sum, so
that every digit printed is the book's. The packages may be imported in any order. `exact` overrides this for all later calls:
`fastbp.nnfs.exact = False` always uses fastbp's kernels, which are faster and add in another order, and therefore round
differently; `fastbp.nnfs.exact = True` always computes as the book's classes do, also without nnfs.init().
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

# True: compute as the book's classes do. False: use fastbp's kernels. None: do the former if np.dot is not NumPy's own.
exact: bool | None = None

__all__ = ["Accuracy", "Accuracy_Categorical", "Accuracy_Regression", "Activation_Linear", "Activation_ReLU",
           "Activation_Sigmoid", "Activation_Softmax", "Activation_Softmax_Loss_CategoricalCrossentropy", "Layer_Dense",
           "Layer_Dropout", "Layer_Input", "Loss", "Loss_BinaryCrossentropy", "Loss_CategoricalCrossentropy",
           "Loss_MeanAbsoluteError", "Loss_MeanSquaredError", "Model", "Optimizer_Adagrad", "Optimizer_Adam",
           "Optimizer_RMSprop", "Optimizer_SGD"]
