"""fastbp.profile: every call and its kernels, from any thread, and nothing while it is not active."""
import json
import re
import threading
from collections import Counter

import numba
import numpy as np
import pytest

import fastbp
from fastbp._runtime import cpu, state
from fastbp.kernels.elementwise.activations import RELU
from fastbp.kernels.schedule.trace import EVENT_BYTES, LOG_BYTES
from fastbp.profiler import log, passes

# (batch, n_inputs, n_neurons): naive, unpacked, skinny, transposed, fused, and separate twice
SHAPES = [(1, 4, 3), (8, 200, 100), (900, 128, 2), (3000, 5, 6), (5000, 40, 24), (300, 70, 50), (6, 700, 33)]


def operands(rng, shape, dtype=np.float32):
    batch, n_inputs, n_neurons = shape
    shapes = (batch, n_inputs), (n_inputs, n_neurons), (batch, n_neurons)
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


def shape_of(found):
    """Return (batch, n_inputs, n_neurons) of a pass."""
    return found.call.rows, found.call.inputs, found.call.neurons


def step(x, weights, dvalues, precision=None):
    y = fastbp.dense_relu_forward(x, weights, precision=precision)
    return y, *fastbp.dense_relu_backward(dvalues, y, x, weights, precision=precision)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernels_of_a_pass_do_its_work_in_its_time(rng, dtype, shape, threads):
    fastbp.set_num_threads(threads)
    x, weights, dvalues = operands(rng, shape, dtype)
    step(x, weights, dvalues)
    with fastbp.profile() as p:
        step(x, weights, dvalues)
    assert [(found.name, shape_of(found), found.dtype) for found in p.passes] == [
        (name, shape, dtype.name) for name in ("forward", "backward")]
    for found in p.passes:
        assert found.call.activation == RELU
        assert found.threads <= threads
        assert sum(k.seconds for k in found.kernels) == pytest.approx(found.seconds, rel=1e-6)
        assert sum(k.work.bytes for k in found.kernels) == pytest.approx(found.work.bytes, rel=0.02)
        # Beyond the least: sums of partial results, and a row of ones for dbiases.
        least, counted = found.work.flops, sum(k.work.flops for k in found.kernels)
        assert least * 0.999 <= counted <= least * 1.3
    forward, backward = ({k.name for k in found.kernels} for found in p.passes)
    assert forward & {"x @ weights", passes.IN_PLACE}
    assert backward & {passes.IN_PLACE, "dz, dinputs, dweights"} or {"dinputs"} < backward


@pytest.mark.filterwarnings("ignore:precision 'bfloat16' is not faster here:RuntimeWarning")
def test_the_factors_of_bfloat16(rng):
    for shape, is_large in ((500, 264, 248), True), ((500, 64, 8), False):
        x, weights, dvalues = operands(rng, shape)
        step(x, weights, dvalues, "bfloat16")
        with fastbp.profile() as p:
            step(x, weights, dvalues, "bfloat16")
        expected = "bfloat16" if is_large and cpu.multiplies_bfloat16() else "float32"
        assert [found.dtype for found in p.passes] == [expected] * 2
    for found in p.passes:
        assert found.work.flops * 0.999 <= sum(k.work.flops for k in found.kernels) <= found.work.flops * 1.3


def test_work_counts_operations_and_bytes(rng):
    x, weights, dvalues = operands(rng, (300, 70, 50))
    with fastbp.profile() as p:
        fastbp.dense_forward(x, weights)
        fastbp.dense_backward(dvalues, x, weights)
        fastbp.relu_forward(x)
    forward, backward, relu = (found.work for found in p.passes)
    assert forward == (2 * 300 * 70 * 50, 4 * (300 * 70 + 70 * 50 + 300 * 50))
    assert backward == (4 * 300 * 70 * 50 + 300 * 50, 4 * (2 * 300 * 70 + 2 * 70 * 50 + 300 * 50))
    assert relu == (0, 4 * 2 * 300 * 70)


def test_a_first_layer_has_no_dinputs(rng):
    layer = fastbp.DenseReLU(70, 50, need_dinputs=False)
    layer.forward(np.ones((300, 70), np.float32))
    layer.backward(np.ones((300, 50), np.float32))
    with fastbp.profile() as p:
        layer.backward(np.ones((300, 50), np.float32))
    assert p.passes[0].work.flops == 2 * 300 * 70 * 50 + 300 * 50
    assert "dinputs" not in {k.name for k in p.passes[0].kernels}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("inputs, batch, back, shards, depth", [
    (300, 48, "dinputs", 1, 48), (300, 128, "backward", 2, 0), (40, 48, "backward", 1, 0), (40, 128, "backward", 2, 0)])
def test_the_kernels_of_a_training_step(rng, dtype, threads, inputs, batch, back, shards, depth):
    """Where dweights are computed in blocks, they are part of the update; of two shards each has passes of its own.

    The network of 40 inputs is so small that shards are transposed.
    """
    fastbp.set_num_threads(threads)
    network = fastbp.Sequential([fastbp.DenseReLU(inputs, 70, dtype=dtype), fastbp.Dense(70, 5, dtype=dtype)],
                                fastbp.SoftmaxCrossEntropy())
    x, y = rng.standard_normal((batch, inputs)), rng.integers(0, 5, batch)

    def fit():
        network.fit(x, y, epochs=1, batch_size=batch, optimizer=fastbp.Adam(), progress=False)

    fit()       # binds lazy units: a step that asks for one begins again
    with fastbp.profile() as p:
        fit()
    assert Counter(found.name for found in p.passes) == {"forward": 2 * shards, back: 2 * shards, "update": 1}
    for found in p.passes:
        assert sum(k.seconds for k in found.kernels) == pytest.approx(found.seconds, rel=1e-6)
        assert sum(k.work.bytes for k in found.kernels) == pytest.approx(found.work.bytes, rel=0.02)
        assert found.work.flops * 0.999 <= sum(k.work.flops for k in found.kernels) <= found.work.flops * 1.3
    count = inputs * 70 + 70 + 70 * 5 + 5
    gradients = 0 if depth else 1
    assert p.passes[-1].work == (2 * depth * count, dtype.itemsize * count * (6 + gradients))
    assert f"update of {count:,} parameters" in p.table()


def test_calls_of_many_threads_are_told_apart(rng):
    """Each on its own shape, at once; their tasks are done by the same workers."""
    shapes = [(1000 + 8 * i, 96, 64) for i in range(4)]
    everything = [operands(rng, shape) for shape in shapes]
    step(*everything[0])
    barrier, numbers = threading.Barrier(len(shapes)), {}

    def work(shape, arrays):
        numbers[shape] = threading.get_ident()
        barrier.wait()
        for _ in range(20):
            step(*arrays)

    with fastbp.profile() as p:
        threads = [threading.Thread(target=work, args=args) for args in zip(shapes, everything, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(p.passes) == 4 * 20 * 2
    for found in p.passes:
        assert found.thread == numbers[shape_of(found)]
        assert sum(k.work.flops for k in found.kernels) == pytest.approx(found.work.flops, rel=0.3)
        assert all(found.start <= task.start and task.start + task.seconds <= found.start + found.seconds
                   for task in found.tasks)


@numba.njit
def many(x, weights, count):
    for _ in range(count):
        fastbp.dense_relu_forward(x, weights)


def test_calls_in_compiled_code(rng):
    x, weights, _ = operands(rng, (300, 70, 50))
    many(x, weights, 1)
    with fastbp.profile() as p:
        many(x, weights, 7)
    assert [shape_of(found) for found in p.passes] == [(300, 70, 50)] * 7


def test_it_changes_no_result_and_ends_with_the_block(rng):
    arrays = operands(rng, (3000, 40, 24))
    before = step(*arrays)
    with pytest.raises(ZeroDivisionError), fastbp.profile() as p:
        during = step(*arrays)
        raise ZeroDivisionError
    assert all((a == b).all() for a, b in zip(before, during, strict=True))
    assert len(p.passes) == 2
    assert state.words[state.PROFILE] == 0
    step(*arrays)
    with p:
        pass
    assert p.passes == []


def test_one_is_active_at_a_time(rng):
    with fastbp.profile() as p:
        with pytest.raises(RuntimeError, match="a profile is active already"), fastbp.profile():
            pass
        with pytest.raises(RuntimeError, match="this profile is active already"), p:
            pass
        step(*operands(rng, (300, 70, 50)))
    assert len(p.passes) == 2


def test_events_without_room_are_counted(rng):
    arrays = operands(rng, (3000, 40, 24))
    step(*arrays)
    with fastbp.profile() as whole:
        step(*arrays)
    with fastbp.profile(capacity=3) as p:
        step(*arrays)
    assert p.dropped > 0
    assert len(p.passes) < len(whole.passes)
    assert "found no room" in p.table()
    with pytest.raises(ValueError, match="capacity was 0, expected at least 1"):
        fastbp.profile(capacity=0)


def test_a_log_is_used_again_and_nothing_is_written_beyond_it(rng):
    arrays = operands(rng, (3000, 40, 24))
    used = log.Log(4)
    canary = np.full(LOG_BYTES + 8 * EVENT_BYTES, 0xA5, np.uint8)
    canary[:LOG_BYTES + 4 * EVENT_BYTES] = 0
    used._memory = canary[:LOG_BYTES + 4 * EVENT_BYTES]
    used._header, used._events = canary[:LOG_BYTES].view(np.int64), canary[LOG_BYTES:-4 * EVENT_BYTES].view(log.EVENT)
    for _ in range(2):
        used.start()
        step(*arrays)
        events, dropped = used.stop()
        assert len(events) == 4
        assert dropped > 0
    assert (canary[-4 * EVENT_BYTES:] == 0xA5).all()


def test_table(rng):
    with fastbp.profile() as p:
        step(*operands(rng, (1_000, 64, 48)))
        fastbp.relu_forward(np.ones(1_000_000))
    lines = p.table().splitlines()
    assert max(map(len, lines)) <= 100
    assert re.match(r" call +calls +ms +share +GFLOP/s +GB/s$", lines[0])
    assert any(line.startswith(" forward 1,000 x 64 -> 48 ReLU float32 ") for line in lines)
    assert any(line.startswith(" relu 1,000,000 float64 ") for line in lines)
    assert any(line.startswith("   dweights ") for line in lines)
    with fastbp.profile() as p:
        pass
    assert p.table() == "No call of fastbp was recorded."


def test_json(rng, tmp_path):
    with fastbp.profile() as p:
        step(*operands(rng, (1_000, 64, 48)))
    p.to_json(tmp_path / "profile.json")
    read = json.loads((tmp_path / "profile.json").read_text())
    assert read["dropped"] == 0
    assert [found["call"]["neurons"] for found in read["passes"]] == [48, 48]
    assert read["passes"][0]["seconds"] == p.passes[0].seconds


def test_chrome_trace(rng, tmp_path):
    arrays = operands(rng, (5000, 64, 48))
    step(*arrays)
    with fastbp.profile() as p:
        step(*arrays)
    p.export_chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names[0] == threading.current_thread().name
    spans = [event for event in events if event["ph"] == "X"]
    assert {event["tid"] for event in spans} == names.keys()
    calls = [event for event in spans if event["cat"] == "pass"]
    assert [event["name"] for event in calls] == [f"{name} 5,000 x 64 → 48 ReLU float32" for name in ("forward", "backward")]
    kernels = [event for event in spans if event["cat"] == "kernel"]
    assert len(kernels) == sum(len(found.tasks) for found in p.passes) > 10
    ends = [(call["ts"], call["ts"] + call["dur"] + 1e-3) for call in calls]
    for event in kernels:
        assert any(start <= event["ts"] and event["ts"] + event["dur"] <= end for start, end in ends)
