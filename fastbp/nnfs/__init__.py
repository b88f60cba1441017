"""The classes of "Neural Networks from Scratch in Python" (Kinsley and Kukieła, 2020) under the book's names.

A script of the book's chapters 9 to 18 runs with `from fastbp.nnfs import ...` in place of its own classes: the same
constructors, attributes, random stream and dtypes. Dense layers and ReLU are computed by fastbp's kernels, the rest by NumPy.
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

__all__ = ["Accuracy", "Accuracy_Categorical", "Accuracy_Regression", "Activation_Linear", "Activation_ReLU",
           "Activation_Sigmoid", "Activation_Softmax", "Activation_Softmax_Loss_CategoricalCrossentropy", "Layer_Dense",
           "Layer_Dropout", "Layer_Input", "Loss", "Loss_BinaryCrossentropy", "Loss_CategoricalCrossentropy",
           "Loss_MeanAbsoluteError", "Loss_MeanSquaredError", "Model", "Optimizer_Adagrad", "Optimizer_Adam",
           "Optimizer_RMSprop", "Optimizer_SGD"]
