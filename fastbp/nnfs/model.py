"""The model of chapters 18 to 22: layers, a loss, an optimizer and an accuracy. One call trains it, and files can hold it."""
import copy
import os
import pickle
from typing import Any

import numpy as np

from .._arrays.operands import check_shape
from .._files import atomic
from .activations import Activation_Softmax
from .layers import Layer_Input
from .losses import Activation_Softmax_Loss_CategoricalCrossentropy, Loss_CategoricalCrossentropy

# The last passes leave these attributes in a layer or a loss. A saved model does not need them.
_OF_A_PASS = "inputs", "output", "dinputs", "dweights", "dbiases", "binary_mask"


class Model:
    """A model of `layers`, of this package or with the same methods, in the order in which they were added.

    finalize sets input_layer, trainable_layers (those with weights), each layer's prev and next, output_layer_activation (the
    last layer, which turns outputs into predictions), and softmax_classifier_output. The latter replaces the backward of the
    last layer and of the loss if these are softmax and categorical cross-entropy; otherwise it is None.
    """

    prints_steps = False        # With True, an epoch without batch_size prints the same lines as one with it (chapter 19).

    def __init__(self) -> None:
        self.layers: list[Any] = []
        self.loss: Any = None
        self.optimizer: Any = None
        self.accuracy: Any = None
        self.input_layer: Any = None
        self.softmax_classifier_output: Activation_Softmax_Loss_CategoricalCrossentropy | None = None

    def add(self, layer: Any) -> None:
        """Append a layer or an activation."""
        self.layers.append(layer)

    def set(self, *, loss: Any = None, optimizer: Any = None, accuracy: Any = None) -> None:
        """Set the loss, the optimizer and the accuracy, those that are given."""
        for name, given in (("loss", loss), ("optimizer", optimizer), ("accuracy", accuracy)):
            if given is not None:
                setattr(self, name, given)

    def finalize(self) -> None:
        """Link the layers. Call it after add and set. Raises RuntimeError if there is no layer."""
        if not self.layers:
            raise RuntimeError("finalize was called before add, expected a layer first")
        self.input_layer = Layer_Input()
        chain = [self.input_layer, *self.layers, self.loss]
        for previous, layer, following in zip(chain, self.layers, chain[2:], strict=False):
            layer.prev, layer.next = previous, following
        self.output_layer_activation = self.layers[-1]
        self.trainable_layers = [layer for layer in self.layers if hasattr(layer, "weights")]
        if self.loss is not None:
            self.loss.remember_trainable_layers(self.trainable_layers)
        classifier = isinstance(self.layers[-1], Activation_Softmax) and isinstance(self.loss, Loss_CategoricalCrossentropy)
        self.softmax_classifier_output = Activation_Softmax_Loss_CategoricalCrossentropy() if classifier else None

    def train(self, X: np.ndarray, y: np.ndarray, *, epochs: int = 1, batch_size: int | None = None, print_every: int = 1,
              validation_data: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        """Train on samples X and targets y, and print the progress. Raises RuntimeError before finalize.

        Without batch_size, an epoch is one step on all samples. Every print_every-th epoch prints a line, and validation_data,
        (X, y), is evaluated after the last epoch (chapter 18). With batch_size, an epoch has a step for every batch_size
        samples. It prints a line for every print_every-th step, for the last step and for the whole epoch, and validates
        (chapter 19). The book's Model of chapter 19 prints these lines also without batch_size. So does this one after
        `Model.prints_steps = True`.
        """
        self._require("input_layer", "loss", "optimizer", "accuracy")
        self.accuracy.init(y)
        in_steps = batch_size is not None or self.prints_steps
        for epoch in range(1, epochs + 1):
            if not in_steps:
                self._step(X, y, f"epoch: {epoch}", epoch % print_every == 0)
            else:
                print(f"epoch: {epoch}")
                self._train_in_batches(X, y, batch_size, print_every)
            if validation_data is not None and (in_steps or epoch == epochs):
                self.evaluate(*validation_data, batch_size=batch_size)

    def evaluate(self, X_val: np.ndarray, y_val: np.ndarray, *, batch_size: int | None = None) -> None:
        """Print the accuracy and the loss of all samples, computed in batches or at once, without training."""
        self._require("input_layer", "loss", "accuracy")
        self._new_pass()
        for X, y in _batches(batch_size, X_val, y_val):
            output = self.forward(X, training=False)
            self.loss.calculate(output, y)
            self._accuracy_of(output, y)
        print(f"validation, acc: {self.accuracy.calculate_accumulated():.3f}, "
              f"loss: {self.loss.calculate_accumulated():.3f}")

    def predict(self, X: np.ndarray, *, batch_size: int | None = None) -> np.ndarray:
        """Return the output of the last layer for each sample, computed in batches or at once."""
        return np.vstack([self.forward(batch, training=False) for (batch,) in _batches(batch_size, X)])

    def forward(self, X: np.ndarray, training: bool = True) -> np.ndarray:
        """Return the output of the last layer. Raises RuntimeError before finalize."""
        self._require("input_layer")
        self.input_layer.forward(X, training)
        for layer in self.layers:
            layer.forward(layer.prev.output, training)
        return layer.output

    def backward(self, output: np.ndarray, y: np.ndarray) -> None:
        """Set the gradients of all layers from the output of forward and the targets y."""
        layers = self.layers
        if self.softmax_classifier_output is None:
            self.loss.backward(output, y)
        else:
            self.softmax_classifier_output.backward(output, y)
            self.layers[-1].dinputs = self.softmax_classifier_output.dinputs
            layers = layers[:-1]
        for layer in reversed(layers):
            layer.backward(layer.next.dinputs)

    def get_parameters(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (weights, biases) of each trainable layer: the arrays themselves, not copies (chapter 20)."""
        self._require("input_layer")
        return [layer.get_parameters() for layer in self.trainable_layers]

    def set_parameters(self, parameters: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Use these arrays as the weights and biases of the trainable layers, without a copy (chapter 20).

        Raises ValueError for another number of layers or other shapes than get_parameters() has, and then changes nothing.
        """
        own, parameters = self.get_parameters(), list(parameters)
        if len(parameters) != len(own):
            raise ValueError(f"parameters has (weights, biases) of {len(parameters)} layers, expected those of {len(own)}")
        for index, (arrays, expected) in enumerate(zip(parameters, own, strict=True)):
            for name, array, values in zip(("weights", "biases"), arrays, expected, strict=True):
                check_shape(f"{name} of parameters[{index}]", np.asarray(array), np.shape(values), "so has the layer's own")
        for layer, arrays in zip(self.trainable_layers, parameters, strict=True):
            layer.set_parameters(*arrays)

    def save_parameters(self, path: str | os.PathLike[str]) -> None:
        """Write get_parameters() to a file, as a pickle (chapter 20). Raises OSError; an old file is then unchanged."""
        atomic.write(path, pickle.dumps(self.get_parameters()))

    def load_parameters(self, path: str | os.PathLike[str]) -> None:
        """Set the parameters that save_parameters wrote, in a model of the same layers (chapter 20).

        Loading a pickle runs the code in it: load only files of people whom you would let use your computer. Raises OSError,
        pickle.UnpicklingError for other files, and ValueError as set_parameters does.
        """
        with open(path, "rb") as file:
            self.set_parameters(pickle.load(file))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a file, as a pickle, without the results of its last passes (chapter 21).

        The file holds the optimizer and its state in the layers, so that training a loaded model can go on. Raises RuntimeError
        before finalize, and OSError; an old file is then unchanged.
        """
        self._require("input_layer")
        model = copy.deepcopy(self)
        for accumulated in (model.loss, model.accuracy):
            if accumulated is not None:
                accumulated.new_pass()
        for part in (model.input_layer, model.loss, model.softmax_classifier_output, *model.layers):
            for name in _OF_A_PASS if part is not None else ():
                vars(part).pop(name, None)
        atomic.write(path, pickle.dumps(model))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Model":
        """Return the model that save wrote (chapter 21).

        Loading a pickle runs the code in it: load only files of people whom you would let use your computer. Raises OSError,
        pickle.UnpicklingError for other files, and TypeError for an object that is no model.
        """
        with open(path, "rb") as file:
            model = pickle.load(file)
        if not isinstance(model, Model):
            raise TypeError(f"{os.fspath(path)} has an object of type {type(model).__name__}, expected a Model; "
                            "load_parameters reads what save_parameters wrote")
        return model

    def _train_in_batches(self, X, y, batch_size, print_every):
        """Train one epoch in batches, as in chapter 19, and print its lines."""
        self._new_pass()
        batches = list(_batches(batch_size, X, y))
        for step, batch in enumerate(batches):
            self._step(*batch, f"step: {step}", step % print_every == 0 or step == len(batches) - 1)
        self._print("training", self.accuracy.calculate_accumulated(),
                    *self.loss.calculate_accumulated(include_regularization=True))

    def _step(self, X, y, name, printed):
        """Make one update. The printed numbers are those before it."""
        output = self.forward(X, training=True)
        losses = self.loss.calculate(output, y, include_regularization=True)
        accuracy = self._accuracy_of(output, y)
        self.backward(output, y)
        self.optimizer.pre_update_params()
        for layer in self.trainable_layers:
            self.optimizer.update_params(layer)
        self.optimizer.post_update_params()
        if printed:
            self._print(name, accuracy, *losses)

    def _require(self, *names):
        for name in names:
            if getattr(self, name) is None:
                raise RuntimeError(f"{name} of the model is None, expected add, set and finalize first")

    def _accuracy_of(self, output, y):
        return self.accuracy.calculate(self.output_layer_activation.predictions(output), y)

    def _new_pass(self):
        self.loss.new_pass()
        self.accuracy.new_pass()

    def _print(self, name, accuracy, data_loss, regularization_loss):
        print(f"{name}, acc: {accuracy:.3f}, loss: {data_loss + regularization_loss:.3f} (data_loss: {data_loss:.3f}, "
              f"reg_loss: {regularization_loss:.3f}), lr: {self.optimizer.current_learning_rate}")


def _batches(batch_size, *arrays):
    """Yield batches: the next batch_size rows of each array. The last batch may have fewer rows. None means all rows."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}, expected 1 or more, or None for all samples at once")
    count = len(arrays[0])
    size = batch_size or max(count, 1)
    for start in range(0, count, size):
        yield [array[start:start + size] for array in arrays]
