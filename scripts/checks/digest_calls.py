"""Calls of the functions, layers, losses and optimisers for digests.py: each follows from its number alone."""
import numpy as np

import fastbp

from .digest_arrays import LAYOUTS, SEED, Case, Operands, between, laid_out, numbers, one, threads_of
from .digest_shapes import HUGE, SHAPES, shape_of

# What the cases draw from: dtypes, activations and losses. A new one goes to the end, and changes the cases.
FLOATS = "float32", "float64"
ACTIVATIONS = "identity", "relu", "leaky_relu", "sigmoid", "tanh", "gelu"
LOSSES = fastbp.SoftmaxCrossEntropy, fastbp.BinaryCrossEntropy, fastbp.MeanSquaredError


def case(number):
    """Return a Case of any kind."""
    rng = np.random.default_rng([SEED, number])
    kind, threads = KINDS[number % len(KINDS)], threads_of(rng)
    name, run = STRATA[kind](rng) if kind in STRATA else _of_shape(rng, kind)
    return Case(f"call {number:04} {kind}: {name}, on {threads}", run, threads)


# ---- dense layers


def drawn_dtype(rng):
    """Return (dtype of the operands, precision)."""
    draw = rng.random()
    if draw < 0.2:
        return "float32", "bfloat16"
    return ("float32" if draw < 0.55 else "float64" if draw < 0.85 else "float16" if draw < 0.9 else "mixed"), None


def _function(rng, kind):
    """Return (name, run) of a call of one of the four functions of a dense layer."""
    batch, inputs, neurons = shape_of(rng, kind)
    dtype, precision = ("float32", "bfloat16") if kind == "blocks of bfloat16" else drawn_dtype(rng)
    if kind in HUGE and dtype not in FLOATS:
        dtype = "float32"
    make = Operands(rng, dtype, is_plain=rng.random() < 0.5)
    name = one(rng, ["dense_forward", "dense_relu_forward", "dense_backward", "dense_relu_backward"])
    if kind.startswith("blocks") or kind == "one pass":
        name = name.replace("forward", "backward") if rng.random() < 0.7 else name
    rows = (batch,) if batch != 1 or rng.random() < 0.6 else ()
    x, w = make("inputs", (*rows, inputs)), make("weights", (inputs, neurons))
    if name.endswith("forward"):
        biases = None if rng.random() < 0.25 else make("biases", one(rng, [(neurons,), (1, neurons)]))
        arguments, shapes = [x, w, biases], [(batch, neurons)]
    else:
        arguments, shapes = [make("dvalues", (*rows, neurons)), x, w], [(batch, inputs), (inputs, neurons), (1, neurons)]
        if "relu" in name:
            arguments.insert(1, make("output", (*rows, neurons)))
    outs, memory, said = _outs(rng, arguments, shapes)
    options = {} if precision is None else {"precision": precision}

    def run():
        out = None if all(o is None for o in outs) else outs[0] if len(outs) == 1 else tuple(outs)
        return getattr(fastbp, name)(*arguments, out=out, **options), memory

    return f"{name} {precision or dtype} ({make}){said}", run


def _outs(rng, arguments, shapes):
    """Return (an array or None for each result, the memory that is to be digested, what they are)."""
    outs, memory, said = [], [], ""
    dtypes = [a.dtype for a in arguments if a is not None]
    dtype = np.result_type(*dtypes)
    dtype = np.dtype(np.float64) if dtype.kind != "f" else max(dtype.newbyteorder("="), np.dtype(np.float32))
    if rng.random() < 0.75:
        return [None] * len(shapes), memory, said
    free = list(arguments)
    for shape in shapes:
        draw, out = rng.random(), None
        if draw < 0.25:
            said += ", no out"
        elif draw < 0.5:
            out, whole = _overlapping(free, shape, dtype)
            free = [a for a in free if a is not whole]
            said += ", out over an argument" if out is not None else ", no out"
            memory += [whole] * (out is not None)
        else:
            layout = one(rng, LAYOUTS[9:-3])
            out, whole = laid_out(np.full(shape, 7, dtype), layout)
            said += f", out {layout}"
            memory.append(whole)
        outs.append(out)
    return outs, memory, said


def _overlapping(arguments, shape, dtype):
    """Return (an array of that shape in the memory of an argument that is large enough, the argument), or None twice."""
    for array in arguments:
        count = int(np.prod(shape))
        if (array is not None and array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable
                and 0 < count <= array.size):
            return array.reshape(-1)[array.size - count:].reshape(shape), array
    return None, None


def _of_shape(rng, kind):
    """Return (name, run) of a call of a function, or of the steps of a layer, of a shape of that kind."""
    return _layer(rng, kind) if kind not in HUGE and rng.random() < 0.3 else _function(rng, kind)


def _layer(rng, kind):
    """Return (name, run) of two steps of a Dense. The second step overwrites the results of the first."""
    batch, inputs, neurons = shape_of(rng, kind)
    dtype, precision = drawn_dtype(rng)
    dtype = dtype if dtype in FLOATS else "float64"
    activation, bias, wants = one(rng, ACTIVATIONS), rng.random() < 0.8, rng.random() < 0.7
    make, seed = Operands(rng, dtype, is_plain=rng.random() < 0.7), between(rng, 0, 999)
    steps = [(make("inputs", (batch, inputs)), make("dvalues", (batch, neurons))) for _ in range(2)]

    def run():
        layer = fastbp.Dense(inputs, neurons, activation=activation, bias=bias, dtype=dtype, rng=seed, need_dinputs=wants,
                             precision=precision)
        results = []
        for x, dvalues in steps:
            results.append(layer.forward(x).copy())
            dinputs = layer.backward(dvalues)
            results += [None if a is None else a.copy() for a in (dinputs, layer.dweights, layer.dbiases)]
        return results

    return (f"Dense {activation} {precision or dtype} {batch} rows {inputs} to {neurons}{'' if bias else ', no biases'}"
            f"{'' if wants else ', no dinputs'} ({make})"), run


# ---- what is no dense layer


def _relu(rng):
    """Return (name, run) of a ReLU, by its functions and by its layer."""
    shape = one(rng, [(), (0,), (1,), (between(rng, 2, 700),), (between(rng, 1, 40), between(rng, 1, 90)), (3, 5, 7),
                      (120_001,), (300, 301)])
    dtype = one(rng, [*FLOATS, *FLOATS, "float16", "mixed"])
    make = Operands(rng, dtype)
    z, dvalues = make("z", shape), make("dvalues", shape)
    out = laid_out(np.full(shape, 7, z.dtype), one(rng, LAYOUTS[8:12])) if rng.random() < 0.3 else None

    def run():
        return (fastbp.relu_forward(z, out=out and out[0]), out and out[1].copy(), fastbp.relu_backward(dvalues, z),
                fastbp.ReLU().forward(z))

    return f"relu ({make}){', out' if out else ''}", run


def _dropout(rng):
    """Return (name, run) of a Dropout, in training and not, and of a softmax."""
    make, rate, seed = Operands(rng, one(rng, FLOATS)), one(rng, [0.0, 0.1, 0.5, 0.9]), between(rng, 0, 99)
    shape = one(rng, [(3, 5), (64, 70), (200, 300)])
    x, dvalues = make("inputs", shape), make("dvalues", shape)

    def run():
        layer = fastbp.Dropout(rate, rng=seed)
        return layer.forward(x), layer.backward(dvalues), layer.forward(x, training=False), fastbp.softmax(x)

    return f"Dropout {rate} and softmax ({make})", run


def targets_of(rng, loss, rows, outputs, dtype):
    """Return (targets as a loss takes them, what they are)."""
    if loss is fastbp.SoftmaxCrossEntropy:
        if rng.random() < 0.6:
            return rng.integers(0, outputs, rows), "classes"
        return rng.random((rows, outputs)).astype(dtype), "shares"
    if loss is fastbp.BinaryCrossEntropy:
        return (rng.random((rows, outputs)) < 0.5).astype(one(rng, [dtype, "int64"])), "yes or no"
    return rng.standard_normal((rows, outputs)).astype(dtype), "numbers"


def _loss(rng):
    """Return (name, run) of a loss with its gradient and predictions."""
    loss, dtype = one(rng, LOSSES), one(rng, FLOATS)
    rows, outputs = one(rng, [1, 2, 31, 32, 33, 63, 64, 65, 200, 1000]), one(rng, [1, 2, 3, 7, 8, 9, 16, 17, 33, 100])
    make = Operands(rng, dtype)
    scores, (targets, what) = make("scores", (rows, outputs)), targets_of(rng, loss, rows, outputs, dtype)
    weights = rng.random(rows) if rng.random() < 0.4 else None

    def run():
        return (loss().evaluate(scores, targets, weights), loss().predictions(scores),
                loss().value_and_gradient(scores, targets, weights))

    return f"{loss.__name__} ({make}, {what}{'' if weights is None else ', weights'})", run


def optimizer_of(rng):
    """Return (a function that makes an optimiser, what it is)."""
    kind = one(rng, [fastbp.SGD, fastbp.SGD, fastbp.Adam, fastbp.AdamW])
    settings = {"learning_rate": one(rng, [0.001, 0.01, 0.1]), "decay": one(rng, [0.0, 0.0, 1e-2])}
    if kind is fastbp.SGD:
        settings |= one(rng, [{}, {"momentum": 0.9}, {"momentum": 0.8, "nesterov": True}])
    else:
        settings |= one(rng, [{}, {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-4}])
        settings |= {"weight_decay": 0.05} if kind is fastbp.AdamW else {}
    said = ", ".join(f"{name} {value}" for name, value in settings.items())
    return lambda: kind(**settings), f"{kind.__name__}({said})"


def _optimizer(rng):
    """Return (name, run) of three steps of an optimiser."""
    make, (new, said) = Operands(rng, one(rng, FLOATS), is_plain=rng.random() < 0.6), optimizer_of(rng)
    shapes = [one(rng, [(3, 5), (1, 5), (0, 4), (70, 90), (300, 200), (1, 1000), (7,)]) for _ in range(between(rng, 1, 3))]
    values = [make(f"parameters[{i}]", shape) for i, shape in enumerate(shapes)]
    gradients = [[make(f"gradients[{i}]", shape) for i, shape in enumerate(shapes)] for _ in range(3)]

    def run():
        optimizer = new()
        for step in gradients:
            optimizer.update(values, step)
        return values, optimizer.iterations, optimizer.current_learning_rate

    return f"{said} 3 steps ({make})", run


def _error(rng):
    """Return (name, run) of a call with an argument that is wrong in one way."""
    name = one(rng, ["dense_forward", "dense_relu_forward", "dense_backward", "dense_relu_backward", "relu_forward",
                     "relu_backward"])
    dtype = one(rng, FLOATS)
    rows, inputs, neurons = (between(rng, 1, 9) for _ in range(3))
    shapes = {"inputs": (rows, inputs), "weights": (inputs, neurons), "biases": (neurons,), "z": (rows, neurons)}
    names = {"dense_forward": "inputs weights biases", "dense_relu_forward": "inputs weights biases",
             "dense_backward": "dvalues inputs weights", "dense_relu_backward": "dvalues output inputs weights",
             "relu_forward": "z", "relu_backward": "dvalues z"}[name].split()
    arguments = {argument: numbers(rng, shapes.get(argument, (rows, neurons)), dtype) for argument in names}
    spoilt, ways = one(rng, names), {
        "complex": lambda a: a.astype(np.complex64), "of objects": lambda a: a.astype(object), "a text": lambda a: "text",
        "of three dimensions": lambda a: a[None, None], "masked": np.ma.array, "ragged": lambda a: [[1, 2], [3]],
        "one wider": lambda a: np.zeros((*a.shape[:-1], a.shape[-1] + 1), dtype), "none": lambda a: None}
    options = {"out of another shape": {"out": np.zeros((99, 99), dtype)}, "out a text": {"out": "text"},
               "out of another dtype": {"out": np.zeros(1, np.int8)}, "an unknown precision": {"precision": "float8"},
               "an out too few": {"out": (None, None)}}
    if rng.random() < 0.6:
        what = one(rng, list(ways))
        what, arguments[spoilt] = f"{spoilt} {what}", ways[what](arguments[spoilt])
        given = {}
    else:
        what = one(rng, list(options))
        given = options[what]
    return (f"{name} {dtype} with {what}, {rows} rows {inputs} to {neurons}",
            lambda: getattr(fastbp, name)(**arguments, **given))


# The kinds of calls that are of no shape of a dense layer, and of a hundred calls how many are of each kind.
STRATA = {"relu": _relu, "dropout": _dropout, "loss": _loss, "optimizer": _optimizer, "error": _error}
_COUNTS = {"naive": 7, "empty": 3, "few neurons": 9, "few numbers": 9, "few rows": 6, "few inputs": 5, "B in place": 6,
           "few inputs in place": 5, "deep": 9, "any": 9, "edges": 6, "many rows": 3, "one pass": 4, "memory": 1, "far": 1,
           "blocks of dz": 1, "blocks of bfloat16": 1, "relu": 3, "dropout": 1, "loss": 4, "optimizer": 3, "error": 4}
# A kind for each of a hundred numbers, the frequent ones spread among the others.
KINDS = [kind for kind, _ in sorted(
    ((kind, (i + 0.5) / count) for kind, count in _COUNTS.items() for i in range(count)), key=lambda place: place[1])]
assert {*STRATA, *SHAPES} == set(KINDS)
