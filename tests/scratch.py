"""Every algorithm with guarded scratch memory: python scratch.py prints what each leaves behind; test_scratch.py runs it.

Scratch memory comes from Numba's allocator. In this process compiled code finds other functions in its place: they put canaries
around exactly what is asked for, know what was not given back, and can refuse. Nothing of that is in the package.
"""
import ctypes
import functools
import json
import time
import warnings

import numpy as np
from llvmlite import binding as llvm
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys

import fastbp
from fastbp._compile import link
from fastbp._runtime import state
from fastbp._training.session import TrainingSession
from fastbp.kernels.schedule.arena import ALIGNMENT
from fastbp.kernels.schedule.queue import TASK

THREADS = 3
CANARY = 0xA5                   # The value of each byte around scratch memory.
MARGIN = 1 << 16                # Bytes of canaries behind it, besides as many as further threads might take for theirs.
REQUESTS = 6                    # Memory is refused from each of a call's first requests on, up to this one.
LATE_TASKS = 2 * THREADS        # So many tasks of a job begin late, so that each thread has one, however busy the machine is.
PAUSE = 1e-3                    # Seconds that they begin late.
SLOTS = range(state.SLOTS, state.SLOTS + state.SLOT_COUNT * state.SLOT_WORDS, state.SLOT_WORDS)

_TASK = ctypes.CFUNCTYPE(*[ctypes.c_int64] * 4)


class Allocator:
    """An allocator with canaries.

    `faults` are what it has found, `asked` counts the requests, and from request number `refuse` on it has no memory.
    """

    def __init__(self):
        self._memory, self.faults, self.asked, self.refuse = {}, [], 0, None
        self._functions = (ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64)(self.allocate),
                           ctypes.CFUNCTYPE(None, ctypes.c_int64)(self.free))

    def install(self):
        """Let compiled code that is loaded from here on call this allocator."""
        rtsys.initialize(cpu_target.target_context)             # which names Numba's own, once
        for name, function in zip(("NRT_Allocate", "NRT_Free"), self._functions, strict=True):
            llvm.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)

    def allocate(self, count):
        """Return an aligned address of `count` bytes, the last `ALIGNMENT` of which are canaries: they are to align others."""
        self.asked += 1
        if self.refuse is not None and self.asked >= self.refuse:
            return 0
        size = count - ALIGNMENT
        memory = np.full(2 * ALIGNMENT + THREADS * size + MARGIN, CANARY, np.uint8)
        address = (memory.ctypes.data // ALIGNMENT + 2) * ALIGNMENT
        self._memory[address] = memory, size
        return address

    def free(self, address):
        if address in self._memory:
            self._look(address, *self._memory.pop(address))
        elif address:
            self.faults.append("memory was given back that was not taken")

    def end(self):
        """Return the faults since the last call, among them memory that is still there, and begin anew."""
        faults = [*self.faults, *(f"{size} bytes were not given back" for _, size in self._memory.values())]
        self.faults, self.asked, self.refuse = [], 0, None
        self._memory.clear()
        return faults

    def _look(self, address, memory, size):
        start = address - memory.ctypes.data
        for where, part in (("before", memory[:start]), ("behind", memory[start + size:])):
            changed = np.flatnonzero(part != CANARY)
            if changed.size:
                self.faults.append(f"{changed.size} bytes {where} {size} bytes of scratch memory were written")


class LateTasks:
    """Tasks that begin late; `workers` are the numbers of the threads that had one."""

    def __init__(self):
        self.workers = set()

    def delay(self, call):
        """Make a call, with functions that wait for a moment in the places of all units that do tasks."""
        words = {unit._word: state.words[unit._word] for unit in link._units.values() if unit._signature == TASK}
        late = {word: _TASK(functools.partial(self._late, _TASK(address))) for word, address in words.items() if address}
        try:
            for word, function in late.items():
                state.words[word] = ctypes.cast(function, ctypes.c_void_p).value
            call()
        finally:
            for word in late:
                state.words[word] = words[word]

    def _late(self, work, job, worker, task):
        if task < LATE_TASKS:
            time.sleep(PAUSE)
        self.workers.add(worker)
        return work(job, worker, task)


def passes(rows, inputs, neurons, *, order="C", dinputs=True, **options):
    """Return a function of a dtype: a call of a layer's forward and backward pass on operands of these sizes."""
    def prepare(dtype):
        rng = np.random.default_rng(0)
        x, w, b, d = (rng.standard_normal(shape).astype(dtype) for shape in
                      ((rows, inputs), (inputs, neurons), (1, neurons), (rows, neurons)))
        layer = fastbp.Dense(inputs, neurons, dtype=dtype, rng=0, need_dinputs=dinputs, **options)
        layer.weights, layer.biases, x = w, b, np.asarray(x, order=order)

        def call():
            layer.forward(x)
            layer.backward(d)
        return call
    return prepare


def refused_passes(dtype):
    """Return a call with operands that do not fit, and with results that overlap them: those are computed elsewhere."""
    x, w, b = np.ones((300, 40), dtype), np.ones((40, 300), dtype), np.ones((1, 299), dtype)
    memory = np.ones((300, 300), dtype)

    def call():
        fastbp.dense_forward(memory[:, :40], w, None, memory)
        for wrong in (lambda: fastbp.dense_forward(x, w, b), lambda: fastbp.dense_forward(x, w.T),
                      lambda: fastbp.dense_backward(x, x, w), lambda: fastbp.dense_forward(x, w, precision="int8")):
            try:
                wrong()
            except ValueError:
                continue
            raise AssertionError("operands that do not fit were accepted")
    return call


def network(dtype, inputs, neurons, loss=None, outputs=3, is_transposed=False, **options):
    """A network whose steps are transposed, if it is so small, or not, as a dropout never is."""
    activation, dropouts = ("tanh", []) if is_transposed else ("gelu", [fastbp.Dropout(0.1)])
    layers = [fastbp.Dense(inputs, neurons, activation=activation, dtype=dtype, rng=0, **options), *dropouts,
              fastbp.Dense(neurons, outputs, dtype=dtype, rng=1, **options)]
    return fastbp.Sequential(layers, loss or fastbp.SoftmaxCrossEntropy(), l2=1e-3)


def data(dtype, rows, inputs):
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, inputs)).astype(dtype), rng.integers(0, 3, rows)


def fit(batch, inputs, neurons, optimizer=fastbp.Adam, value=0.0, is_refused=False, **options):
    """Return a function of a dtype: a call of an epoch. One with a NaN in its data or an endless rate is refused."""
    def prepare(dtype):
        x, y = data(dtype, 2 * batch, inputs)
        x[-1, 0] += value
        trained = network(dtype, inputs, neurons, **options)

        def call():
            try:
                trained.fit(x, y, epochs=1, batch_size=batch, optimizer=optimizer(), rng=0, progress=False)
            except FloatingPointError:
                assert is_refused
            else:
                assert not is_refused
        return call
    return prepare


def apart(batch):
    """Return a function of a dtype: a call of steps made apart, of a large batch and of a small one."""
    def prepare(dtype):
        whole = network(dtype, 20, 30)
        run = TrainingSession(whole._specs(), 20, whole.loss, fastbp.Adam(), batch, l2=1e-3, apart=True)

        def call():
            for rows in (batch, 3):
                run.use(*data(dtype, rows, 20), None)
                run.start()
                run.advance(1)
                run.gradient()
                run.update()
        return call
    return prepare


def losses(dtype):
    scores, labels = data(dtype, 5000, 10)

    def call():
        fastbp.softmax(scores)
        fastbp.SoftmaxCrossEntropy().evaluate(scores, labels)
        fastbp.BinaryCrossEntropy().evaluate(scores, scores > 0)
        fastbp.MeanSquaredError().evaluate(scores, scores)
    return call


def update(dtype):
    parameters = [np.ones((900, 500), dtype), np.ones((1, 500), dtype)]
    optimizer = fastbp.AdamW()
    return lambda: optimizer.update(parameters, parameters)


def relu(dtype):
    z = np.ones((1000, 1000), dtype)
    return lambda: fastbp.relu_backward(z, z)


def predict(dtype):
    whole, (x, y) = network(dtype, 20, 200), data(dtype, 3000, 20)
    return lambda: (whole.predict(x), whole.evaluate(x, y), whole.predict(x[:9]), whole.frozen()(x))


# Batch, inputs and neurons that take each algorithm of a layer.
SIZES = {"naive": (2, 3, 4), "skinny": (30, 130, 2), "streamed": (9, 400, 500), "swapped": (20, 300, 300),
         "dot": (600, 1, 300), "packed": (600, 90, 70), "blocks": (130, 700, 900), "fused": (8192, 40, 40),
         "narrow": (8192, 5, 4), "narrow, skinny": (8192, 130, 2), "narrow, dot": (2000, 3, 130)}

# Operands in Fortran order have their rows copied. All units must be among what these calls need.
CASES = {
    **{f"{name}, {order}": passes(*sizes, order=order) for name, sizes in SIZES.items() for order in "CF"},
    **{f"{name}, no dinputs": passes(*SIZES[name], dinputs=False) for name in ("packed", "fused", "narrow")},
    **{activation: passes(600, 90, 70, activation=activation) for activation in ("relu", "gelu")},
    "refused": refused_passes, "losses": losses, "update": update, "relu function": relu, "predict": predict,
    "blocks of dweights": fit(64, 300, 200), "shards": fit(300, 20, 30), "apart": apart(300),
    "transposed steps": fit(100, 17, 20, is_transposed=True), "transposed shards": fit(600, 20, 30, is_transposed=True),
    "loss refused": fit(64, 40, 30, value=np.nan, is_refused=True),
    "step refused": fit(64, 40, 30, lambda: fastbp.SGD(1e300), is_refused=True),
    "shards, step refused": fit(300, 20, 30, lambda: fastbp.SGD(1e300), is_refused=True),
}
ROUNDED = {f"{sizes}, bfloat16": passes(*sizes, precision="bfloat16")
           for sizes in (SIZES["streamed"], (390, 211, 255), (1100, 250, 300), (250, 1200, 250))} | {
    "fit, bfloat16": fit(200, 300, 400, precision="bfloat16")}


def faults_of(call, allocator, tasks):
    """Return {how it was called: what was wrong}: with memory of each request's own, as all slots are taken, and with slots."""
    found = {}

    def look(how, busy, first_refused=None, run=call):
        allocator.refuse, is_done = first_refused, True
        try:
            run()
        except MemoryError:
            is_done = False
        is_refused = first_refused is not None and allocator.asked >= first_refused
        if is_done == is_refused:
            allocator.faults.append("a call without memory returned" if is_done else "a call with memory was refused")
        if any(state.words[slot] != busy for slot in SLOTS):
            allocator.faults.append("a slot is not as it was before")
        empty_slots(allocator, busy)
        if faults := allocator.end():
            found[how] = faults
        return is_refused

    for way, busy in (("memory of its own", 1), ("slots", 0)):
        empty_slots(allocator, busy)
        look(way, busy)
        all(look(f"{way}, no memory from request {first} on", busy, first) for first in range(1, REQUESTS + 1))
    empty_slots(allocator, 1)
    look("memory of its own, late tasks", 1, run=lambda: tasks.delay(call))
    empty_slots(allocator, 0)
    return found


def empty_slots(allocator, busy):
    """Give back the memory that the pool keeps, and take all of its slots or none."""
    for slot in SLOTS:
        allocator.free(state.words[slot + 1])
        state.words[slot:slot + state.SLOT_WORDS] = [busy, 0, 0]


def main():
    """Print {case: faults}, the units that no case has bound, and the workers that took part, of how many."""
    warnings.filterwarnings("ignore", "precision 'bfloat16' is not faster here")
    fastbp.set_num_threads(THREADS)
    allocator, tasks, faults = Allocator(), LateTasks(), {}
    allocator.install()
    for dtype in map(np.dtype, ("float32", "float64")):
        for name, prepare in (CASES | (ROUNDED if dtype == np.float32 else {})).items():
            faults[f"{name}, {dtype}"] = faults_of(prepare(dtype), allocator, tasks)
    bound = set(link.bound().values())
    unbound = [unit.name for unit in link._units.values() if unit not in bound]
    print(json.dumps({"faults": {name: found for name, found in faults.items() if found}, "unbound": unbound,
                      "workers": sorted(tasks.workers), "threads": state.words[state.THREADS]}))


if __name__ == "__main__":
    main()
