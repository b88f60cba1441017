"""Wrong calls: the class of the exception, and a message that names the argument, what it was and what was expected."""
import numpy as np
import pytest

import fastbp
import oracle

BATCH, N_INPUTS, N_NEURONS = 5, 4, 3
DENSE = [name for name in oracle.ARGUMENTS if name.startswith("dense")]
BACKWARD = [name for name in DENSE if name.endswith("backward")]
FORWARD = [name for name in DENSE if name.endswith("forward")]
RELU = [name for name in oracle.ARGUMENTS if name.startswith("relu")]


def good(name):
    return oracle.operands(np.random.default_rng(0), name, BATCH, N_INPUTS, N_NEURONS, np.float32)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def read_only(*shape):
    array = zeros(*shape)
    array.flags.writeable = False
    return array


def gradients(**changed):
    """A right `out` of a backward function, but for the arrays given."""
    right = {"dinputs": zeros(BATCH, N_INPUTS), "dweights": zeros(N_INPUTS, N_NEURONS), "dbiases": zeros(1, N_NEURONS)}
    return tuple((right | changed).values())


# functions, argument, wrong value, exception, the message: argument, then what it was
WRONG = [
    (DENSE, "inputs", zeros(5, 6), ValueError, r"inputs.*\(5, 6\).*4"),
    (DENSE, "inputs", zeros(6), ValueError, r"inputs.*\(1, 6\)|inputs.*\(6,\)"),
    (DENSE, "inputs", zeros(2, 5, 4), ValueError, r"inputs.*\(2, 5, 4\)"),
    (DENSE, "inputs", 1.0, ValueError, r"inputs.*\(\)"),
    (DENSE, "weights", zeros(3, 4), ValueError, r"weights.*\(3, 4\)"),
    (DENSE, "weights", zeros(4), ValueError, r"weights.*\(4,\)"),
    (DENSE, "weights", zeros(4, 3, 1), ValueError, r"weights.*\(4, 3, 1\)"),
    (FORWARD, "biases", zeros(4), ValueError, r"biases.*\(4,\).*3"),
    (FORWARD, "biases", zeros(1), ValueError, r"biases.*\(1,\).*3"),
    (FORWARD, "biases", zeros(1, 4), ValueError, r"biases.*\(1, 4\).*3"),
    (FORWARD, "biases", zeros(1, 1), ValueError, r"biases.*\(1, 1\).*3"),
    (FORWARD, "biases", zeros(3, 1), ValueError, r"biases.*\(3, 1\).*3"),
    (FORWARD, "biases", zeros(5, 3), ValueError, r"biases.*\(5, 3\).*3"),
    (FORWARD, "biases", zeros(0, 3), ValueError, r"biases.*\(0, 3\).*3"),
    (FORWARD, "biases", 0.0, ValueError, r"biases.*\(\).*3"),
    (BACKWARD, "dvalues", zeros(5, 4), ValueError, r"dvalues.*\(5, 4\).*\(5, 3\)"),
    (BACKWARD, "dvalues", zeros(4, 3), ValueError, r"dvalues.*\(4, 3\).*\(5, 3\)"),
    (BACKWARD, "dvalues", zeros(1, 3), ValueError, r"dvalues.*\(1, 3\).*\(5, 3\)"),
    (BACKWARD, "dvalues", zeros(3), ValueError, r"dvalues.*\((1, )?3,?\).*\(5, 3\)"),
    (BACKWARD, "dvalues", zeros(5, 3, 1), ValueError, r"dvalues.*\(5, 3, 1\)"),
    (["dense_relu_backward"], "output", zeros(5, 2), ValueError, r"output.*\(5, 2\).*\(5, 3\)"),
    (["dense_relu_backward"], "output", zeros(1, 3), ValueError, r"output.*\(1, 3\).*\(5, 3\)"),
    (["dense_relu_backward"], "output", None, TypeError, r"output"),
    (["relu_backward"], "dvalues", zeros(5, 2), ValueError, r"dvalues.*\(5, 2\).*\(5, 3\)"),
    (["relu_backward"], "dvalues", zeros(3), ValueError, r"dvalues.*\(3,\).*\(5, 3\)"),
    (["relu_backward"], "dvalues", zeros(1, 5, 3), ValueError, r"dvalues.*\(1, 5, 3\).*\(5, 3\)"),
    (["relu_backward"], "dvalues", 1.0, ValueError, r"dvalues.*\(\).*\(5, 3\)"),
    (FORWARD + RELU, "out", zeros(5, 2), ValueError, r"out.*\(5, 2\).*\(5, 3\)"),
    (FORWARD + RELU, "out", zeros(4, 3), ValueError, r"out.*\(4, 3\).*\(5, 3\)"),
    (FORWARD + RELU, "out", zeros(1, 5, 3), ValueError, r"out.*\(1, 5, 3\).*\(5, 3\)"),
    (FORWARD + RELU, "out", zeros(15), ValueError, r"out.*\(15,\).*\(5, 3\)"),
    (FORWARD + RELU, "out", zeros(5, 3, dtype="f8"), TypeError, r"out.*float64.*float32"),
    (FORWARD + RELU, "out", zeros(5, 3, dtype="i4"), TypeError, r"out.*int32.*float32"),
    (FORWARD + RELU, "out", read_only(5, 3), ValueError, r"out.*read-only"),
    (FORWARD + RELU, "out", [[0.0] * 3] * 5, TypeError, r"out.*list"),
    (FORWARD + RELU, "out", (zeros(5, 3),), TypeError, r"out.*tuple"),
    (BACKWARD, "out", zeros(5, 4), TypeError, r"out.*ndarray.*dinputs, dweights, dbiases"),
    (BACKWARD, "out", gradients()[:2], (TypeError, ValueError), r"out.*dinputs, dweights, dbiases"),
    (BACKWARD, "out", gradients(dinputs=zeros(5, 3)), ValueError, r"out.*\(5, 3\).*\(5, 4\)"),
    (BACKWARD, "out", gradients(dweights=zeros(3, 4)), ValueError, r"out.*\(3, 4\).*\(4, 3\)"),
    (BACKWARD, "out", gradients(dbiases=zeros(1, 4)), ValueError, r"out.*\(1, 4\).*\(1, 3\)"),
    (BACKWARD, "out", gradients(dinputs=zeros(5, 4, dtype="f8")), TypeError, r"out.*float64.*float32"),
    (BACKWARD, "out", gradients(dweights=read_only(4, 3)), ValueError, r"out.*read-only"),
    (BACKWARD, "out", gradients(dbiases=[[0.0] * 3]), TypeError, r"out.*list"),
]


@pytest.mark.parametrize("name, argument, value, exception, message", [
    pytest.param(name, argument, value, exception, message, id=f"{name}-{argument}-{message}")
    for names, argument, value, exception, message in WRONG for name in names])
def test_a_wrong_argument(name, argument, value, exception, message):
    with pytest.raises(exception, match=message):
        getattr(fastbp, name)(**good(name) | {argument: value})


NOT_NUMBERS = [(np.complex64, "complex64"), (np.longdouble, str(np.dtype(np.longdouble))), (object, "object"),
               (str, "<U"), (bytes, r"S"), ("M8[s]", "datetime64"), ("m8[s]", "timedelta64"), ("f4,f4", "f0")]


@pytest.mark.parametrize("dtype, message", NOT_NUMBERS)
@pytest.mark.parametrize("name, argument", [(name, argument) for name in oracle.ARGUMENTS for argument in good(name)])
def test_what_is_no_real_number(name, argument, dtype, message):
    arguments = good(name)
    arguments[argument] = np.zeros(arguments[argument].shape, dtype)
    with pytest.raises(TypeError, match=f"{argument}.*{message}"):
        getattr(fastbp, name)(**arguments)


@pytest.mark.parametrize("name, argument", [(name, argument) for name in oracle.ARGUMENTS for argument in good(name)])
@pytest.mark.parametrize("value", ["text", [[1, 2], [3]], {1: 2}])
def test_what_is_no_array(name, argument, value):
    with pytest.raises((TypeError, ValueError), match=argument):
        getattr(fastbp, name)(**good(name) | {argument: value})


@pytest.mark.parametrize("name", BACKWARD)
def test_results_must_not_share_memory(name):
    """Two results in one place cannot both be right."""
    room = zeros(1 + N_INPUTS, N_NEURONS)
    with pytest.raises(ValueError, match="overlap"):
        getattr(fastbp, name)(**good(name), out=(None, room[:N_INPUTS], room[:1]))
    getattr(fastbp, name)(**good(name), out=(None, room[:N_INPUTS], room[N_INPUTS:]))


@pytest.mark.parametrize("name", oracle.ARGUMENTS)
def test_out_is_named_as_such(name):
    with pytest.raises(TypeError):
        getattr(fastbp, name)(*good(name).values(), None, None)
    with pytest.raises(TypeError, match="wrong_name"):
        getattr(fastbp, name)(**good(name), wrong_name=1)


@pytest.mark.parametrize("name", BACKWARD)
def test_nothing_is_written_before_everything_is_checked(name):
    """The last array of `out` is wrong; the first two must not have been touched."""
    out = gradients(dbiases=zeros(1, 4))
    for array in out:
        array[...] = 7
    with pytest.raises(ValueError, match="out"):
        getattr(fastbp, name)(**good(name), out=out)
    assert all((array == 7).all() for array in out)


LAYERS = [fastbp.Dense, fastbp.DenseReLU]


@pytest.mark.parametrize("layer_type", LAYERS)
@pytest.mark.parametrize("arguments, options, exception, message", [
    ((-1, 3), {}, ValueError, r"n_inputs.*-1"),
    ((4, -3), {}, ValueError, r"n_neurons.*-3"),
    ((4.0, 3), {}, TypeError, r"n_inputs.*4\.0"),
    ((4, "3"), {}, TypeError, r"n_neurons.*'3'"),
    ((4, None), {}, TypeError, r"n_neurons.*None"),
    ((4, 3), {"dtype": np.float16}, TypeError, r"dtype.*float16"),
    ((4, 3), {"dtype": int}, TypeError, r"dtype.*int"),
    ((4, 3), {"dtype": "c8"}, TypeError, r"dtype.*complex64"),
    ((4, 3), {"dtype": np.longdouble}, TypeError, r"dtype.*float"),
    ((4, 3), {"dtype": "nonsense"}, TypeError, r"nonsense"),
    ((4, 3, True), {}, TypeError, r"positional"),
])
def test_a_wrong_layer(layer_type, arguments, options, exception, message):
    with pytest.raises(exception, match=message):
        layer_type(*arguments, **options)


@pytest.mark.parametrize("layer", [layer(4, 3) for layer in LAYERS] + [fastbp.ReLU()])
def test_backward_before_forward(layer):
    with pytest.raises(RuntimeError, match="backward.*before.*forward"):
        layer.backward(zeros(5, 3))
    with pytest.raises(RuntimeError, match="backward.*before.*forward"):
        layer.backward("what is wrong with dvalues comes later")


@pytest.mark.parametrize("layer_type", LAYERS)
@pytest.mark.parametrize("dvalues, exception, message", [
    (zeros(5, 4), ValueError, r"dvalues.*\(5, 4\).*\(5, 3\)"),
    (zeros(3), ValueError, r"dvalues.*3.*\(5, 3\)"),
    (zeros(5, 3, dtype="c8"), TypeError, r"dvalues.*complex64"),
])
def test_dvalues_that_do_not_fit_the_last_output(layer_type, dvalues, exception, message):
    layer = layer_type(4, 3)
    layer.forward(zeros(5, 4))
    with pytest.raises(exception, match=message):
        layer.backward(dvalues)


@pytest.mark.parametrize("layer_type", LAYERS)
@pytest.mark.parametrize("parameter, value, exception, message", [
    ("weights", zeros(5, 3), ValueError, r"weights.*\(5, 3\)"),
    ("weights", zeros(4), ValueError, r"weights.*\(4,\)"),
    ("weights", zeros(4, 3, dtype="c8"), TypeError, r"weights.*complex64"),
    ("biases", zeros(1, 4), ValueError, r"biases.*\(1, 4\)"),
    ("biases", zeros(1, 3, dtype=object), TypeError, r"biases.*object"),
])
def test_parameters_that_do_not_fit(layer_type, parameter, value, exception, message):
    layer = layer_type(4, 3)
    with pytest.raises(exception, match=message):
        setattr(layer, parameter, value)
        layer.forward(zeros(5, 4))


@pytest.mark.parametrize("value, exception", [(0, ValueError), (-3, ValueError), (1.5, TypeError), (2.0, TypeError),
                                              ("2", TypeError), (None, TypeError)])
def test_a_wrong_number_of_threads(value, exception):
    before = fastbp.get_num_threads()
    with pytest.raises(exception, match=str(value)):
        fastbp.set_num_threads(value)
    assert fastbp.get_num_threads() == before


@pytest.mark.parametrize("value", [1, 2, 3, 1000, np.int64(4)])
def test_any_number_of_threads(value):
    fastbp.set_num_threads(value)
    assert fastbp.get_num_threads() == value
