"""One call of each public name of fastbp on small seeded data, to compare the results in other surroundings.

`python entries.py FILE` replaces NumPy's creation functions, and writes the results to an .npz file.
"""
import sys

import numpy as np

# The creation functions that nnfs.init() replaces. NumPy's own RandomState and scikit-learn work with these: with float32 from
# others, such as np.empty, they write beyond their arrays.
_BY_NNFS = "zeros", "eye"
# The creation functions that are replaced for fastbp.
_CREATE = *_BY_NNFS, "ones", "empty", "full", "array", "arange", "linspace", "identity"


def with_float32_defaults(function):
    """Return a creation function with float32 as the default dtype, as packages that change NumPy's defaults make it."""
    def changed(*args, **kwargs):
        result = function(*args, **kwargs)
        is_given = "dtype" in kwargs or any(isinstance(a, np.dtype | type) for a in args)
        return result if is_given or result.dtype.kind not in "iuf" else result.astype(np.float32)
    return changed


def replace(setattr=setattr, names=_CREATE):
    """Replace NumPy's creation functions of these names, np.random.randn and np.dot, as nnfs.init() does."""
    dot, randn = np.dot, np.random.randn
    for name in names:
        setattr(np, name, with_float32_defaults(getattr(np, name)))
    setattr(np.random, "randn", lambda *shape: randn(*shape).astype(np.float32))
    setattr(np, "dot", lambda *arrays: dot(*(a.astype(np.float64) for a in arrays)).astype(np.float32))


def run():
    """Call each public name; return {call and number of the result: array}."""
    import numba

    import fastbp
    from fastbp.cli.explain import explain

    rng, results = np.random.default_rng(5), {}
    x = rng.standard_normal((300, 6), dtype=np.float32)
    y = rng.integers(0, 3, 300)

    def keep(name, *values):
        for i, value in enumerate(values):
            results[f"{name} {i}"] = np.asarray(value, getattr(value, "dtype", np.float64))

    def layers(outputs=3):
        return [fastbp.Dense(6, 16, activation="gelu", rng=1), fastbp.Dropout(0.2, rng=2), fastbp.DenseReLU(16, 8, rng=3),
                fastbp.Dense(8, outputs, rng=4)]

    w, b = rng.standard_normal((6, 4)), rng.standard_normal(4)
    keep("functions", *(out := fastbp.dense_relu_forward(x, w, b),), *fastbp.dense_relu_backward(out, out, x, w),
         fastbp.dense_forward(x.astype(np.int64), w), *fastbp.dense_backward(out, x, w), fastbp.relu_forward(x),
         fastbp.relu_backward(x, -x), fastbp.softmax(x))
    losses = ((fastbp.SoftmaxCrossEntropy(), y, 3), (fastbp.SoftmaxCrossEntropy(), np.eye(3, dtype=np.float64)[y], 3),
              (fastbp.BinaryCrossEntropy(), y > 1, 1), (fastbp.MeanSquaredError(), x[:, :2], 2))
    for number, (loss, targets, outputs) in enumerate(losses):
        for optimizer in (fastbp.Adam(0.01), fastbp.SGD(0.1, momentum=0.9), fastbp.AdamW(0.01)):
            network = fastbp.Sequential(layers(outputs), loss, l2=1e-4)
            keep(f"loss {number}", *loss.evaluate(x[:, :outputs], targets, np.full(300, 0.5, np.float64)))
            history = network.fit(x, targets, epochs=2, batch_size=32, optimizer=optimizer, rng=0, progress=False,
                                  sample_weight=rng.random(300), validation_data=(x, targets))
            keep(f"{number} {type(optimizer).__name__}", history.loss, history.validation_loss, network.predict(x),
                 *network.evaluate(x, targets)[:1], network.check_gradients(x, targets, places=3))
            value, gradient = loss.value_and_gradient(network.forward(x), targets)
            keep(f"{number} loop", value, network.backward(gradient))
            optimizer.update(network.parameters(), network.gradients())
            keep(f"{number} update", *network.parameters())
    forward, value_and_gradient = network.jitted()
    parameters = tuple(network.parameters())
    keep("jitted", forward(parameters, x), value_and_gradient(parameters, x, x[:, :2])[0])
    keep("njit", *numba.njit(lambda d, x, w: fastbp.dense_backward(d, x, w))(out, x, w))
    fastbp.show_config()
    explain([1.0, -2.0, 3.0], [-3.0, -1.0, 2.0], 1.0, 1.0, 0.001)
    return results


if __name__ == "__main__":
    replace()
    np.savez(sys.argv[1], **run())
