"""Measure layers and trainings on local clusters of single-threaded processes, and simulate clusters of many machines.

backward    a layer's backward pass on Dask arrays, beside the same pass written with dask.array's operators
training    an epoch on one worker and on two, in turn, each time on a new cluster
messages    how many messages the workers of a training send for a step, and the time of a sum of two over the loopback address
simulation  steps of 2, 8, 64 and 512 workers: arithmetic and messages take as long as measured here, on a network as given
"""
import argparse
import contextlib
import os
import statistics
import time

import dask.array as da
import numpy as np
import simulation
from distributed import Client, LocalCluster, wait

import fastbp
import fastbp.dask
from fastbp._training.session import TrainingSession
from fastbp.dask.allreduce import AllReduce, Exchange, levels
from fastbp.dask.worker import PIECE

# The rows of the backward pass's data, its inputs and neurons, and the rows of a chunk.
ROWS, NEURONS, CHUNK = 4_000_000, 64, 125_000

# The sizes of the networks that are trained, and the rows of a batch.
TRAININGS = [((64, 64, 10), 65_536), ((64, 256, 256, 10), 8192), ((64, 256, 256, 10), 32_768), ((784, 128, 10), 8192),
             ((784, 512, 256, 10), 2048), ((784, 512, 256, 10), 8192)]

# About this many seconds is an epoch of a training for one worker.
EPOCH = 3.0

# Bytes of the arrays that two workers sum.
SIZES = [1_000, 100_000, 1_000_000, 4_000_000, 16_000_000]

# The sizes of the networks whose steps are simulated, the rows of a batch, and the numbers of workers.
SIMULATED = [(64, 256, 256, 10), (784, 512, 256, 10), (784, 2048, 2048, 10)]
BATCHES = 2048, 16_384, 131_072
COUNTS = 2, 8, 64, 512


@contextlib.contextmanager
def workers(count):
    """Yield the client of a new cluster of single-threaded workers, with the kernels compiled."""
    with (LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=":0", silence_logs="CRITICAL") as cluster,
          Client(cluster) as client):
        fastbp.dask.warmup(client, np.float32)
        yield client


# ---- a backward pass


def with_fastbp(dvalues, output, x, weights):
    return fastbp.dask.dense_relu_backward(dvalues, output, x, weights)


def with_operators(dvalues, output, x, weights):
    """Return the gradients of a dense layer with ReLU, computed by dask.array's operators."""
    dz = da.where(output > 0, dvalues, 0)
    return dz @ da.from_array(weights.T, -1), x.T @ dz, dz.sum(axis=0, keepdims=True)


def reset_peak():
    """Make peak() count from now on."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak():
    """Return the largest number of bytes that this process has had in memory since reset_peak()."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def backward(turns):
    """Measure and print the backward pass."""
    seconds, peaks = {with_fastbp: [], with_operators: []}, {with_fastbp: [], with_operators: []}
    weights = np.random.default_rng(0).standard_normal((NEURONS, NEURONS)).astype(np.float32)
    with workers(2) as client:
        x, dvalues = (da.random.default_rng(seed).standard_normal((ROWS, NEURONS), dtype=np.float32, chunks=(CHUNK, -1))
                      for seed in (1, 2))
        data = client.persist([dvalues, fastbp.dask.dense_relu_forward(x, weights), x])
        wait(data)
        for _ in range(turns + 1):                      # The first turn is not counted.
            for function in seconds:
                client.run(reset_peak)
                start = time.perf_counter()
                gradients = client.persist(list(function(*data, weights)))
                wait(gradients)
                seconds[function].append(time.perf_counter() - start)
                peaks[function].append(sum(client.run(peak).values()))
                del gradients
                time.sleep(0.5)
    held = sum(array.nbytes for array in data)
    print(f"backward of {ROWS} × {NEURONS} → {NEURONS}, float32, chunks of {CHUNK} rows, 2 workers; "
          f"{held / 2**30:.2f} GiB of data in memory")
    for name, function in (("fastbp", with_fastbp), ("dask.array's operators", with_operators)):
        middle = statistics.median(seconds[function][1:])
        more = statistics.median(peaks[function][1:]) - held
        print(f"  {name:22} {middle:6.2f} s, {more / 2**30:5.2f} GiB more at the most")
    pairs = zip(seconds[with_fastbp][1:], seconds[with_operators][1:], strict=True)
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    print(f"  {ratio:.2f} times as fast", flush=True)


# ---- trainings


def network(sizes):
    layers = [fastbp.DenseReLU(*ends, rng=i) for i, ends in enumerate(zip(sizes[:-2], sizes[1:-1], strict=True))]
    return fastbp.Sequential([*layers, fastbp.Dense(*sizes[-2:], rng=9)], fastbp.SoftmaxCrossEntropy())


def gradient_bytes(sizes):
    return 4 * sum(a * b + b for a, b in zip(sizes, sizes[1:], strict=False))


def step_seconds(client, sizes, batch, steps):
    """Return the seconds of a step: an epoch of so many steps is timed by how much longer four epochs take than one."""
    rows = steps * batch
    x = da.random.default_rng(1).standard_normal((rows, sizes[0]), dtype=np.float32, chunks=(rows // 8, -1))
    y = da.random.default_rng(2).integers(0, sizes[-1], rows, chunks=rows // 8)
    x, y = client.persist([x, y])
    wait([x, y])

    def fit(epochs):
        start = time.perf_counter()
        fastbp.dask.fit(network(sizes), x, y, optimizer=fastbp.Adam(), epochs=epochs, batch_size=batch, client=client,
                        progress=False)
        return time.perf_counter() - start

    fit(1)                                              # It loads the data and compiles.
    one = fit(1)
    return (fit(4) - one) / (3 * steps)


def training(turns):
    """Measure and print trainings on one worker and on two."""
    print(f"an epoch of training, 1 and 2 workers, settings of {os.environ.get('DASK_CONFIG', 'Dask')}; ms a step, and how "
          "many times as fast")
    for sizes, batch in TRAININGS:
        steps = max(8, int(EPOCH / arithmetic(sizes, batch)) // 8 * 8)
        seconds = {1: [], 2: []}
        for _ in range(turns):
            for count in seconds:
                with workers(count) as client:
                    seconds[count].append(step_seconds(client, sizes, batch, steps))
        one, two = (statistics.median(seconds[count]) for count in seconds)
        print(f"  {'-'.join(map(str, sizes)):18} batch {batch:6}, gradient of {gradient_bytes(sizes) / 1e6:5.2f} MB: "
              f"{1e3 * one:7.2f} {1e3 * two:7.2f} {one / two:5.2f}", flush=True)


def arithmetic(sizes, rows):
    """Return the seconds that one thread takes for a step on so many rows, messages apart."""
    fastbp.set_num_threads(1)
    model = network(sizes)
    run = TrainingSession(model._specs(), sizes[0], model.loss, fastbp.Adam(), rows, apart=True)
    x = np.random.default_rng(0).standard_normal((rows, sizes[0]), dtype=np.float32)
    run.use(x, model.loss.as_targets(np.arange(rows) % sizes[-1], rows, sizes[-1], x.dtype), None)
    times, begin = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < 0.3:
        start = time.perf_counter()
        run.start()
        run.advance(1)
        run.gradient()
        run.update()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# ---- messages


def sums(attempt, owners, own_address, size, count):
    """Return the seconds of a sum of arrays of so many bytes, of `count` sums one after another. This is a task of Dask."""
    array, out, times = np.ones(size // 4, np.float32), np.empty(size // 4, np.float32), []
    with AllReduce(attempt, owners, own_address) as all_reduce:
        for step in range(count):
            start = time.perf_counter()
            all_reduce.put(step, 0, owners.index(own_address), (1.0,), array)
            all_reduce.begin(step, 0, out)
            all_reduce.finish()
            times.append(time.perf_counter() - start)
            assert out[0] == len(owners)
    return statistics.median(times)


def exchange_seconds():
    """Return {bytes: seconds} of a sum of two workers."""
    seconds = {}
    with workers(2) as client:
        client.register_plugin(Exchange())
        owners = sorted(client.nthreads())
        for size in SIZES:
            attempt = f"of {size}", 0
            futures = [client.submit(sums, attempt, owners, owner, size, 60, workers=[owner], pure=False) for owner in owners]
            seconds[size] = max(client.gather(futures))
    return seconds


def line(sum_seconds):
    """Return (seconds of a message, seconds of a byte), from a line through what was measured."""
    sizes, seconds = np.array(list(sum_seconds)), np.array(list(sum_seconds.values()))
    slope, intercept = np.polyfit(sizes, seconds, 1, w=1 / seconds)
    return max(intercept, 0.0), max(slope, 0.0)


def print_messages(sum_seconds):
    print("a sum of two workers over the loopback address")
    for size, seconds in sum_seconds.items():
        print(f"  {size / 1e6:7.3f} MB {1e3 * seconds:7.2f} ms")
    print("messages of a step: of a worker at most, in bytes of the gradient, and of all")
    for count in (2, 3, 8, 64, 512):
        tree, sent = levels([str(n) for n in range(count)]), np.zeros(count, int)
        for message in (message for level in tree for message in level):
            sent[int(message.sender)] += 1
        print(f"  {count:4} workers: {len(tree)} received, {sent.max()} sent; {sent.sum()} in all")


# ---- many machines


def simulate(sum_seconds, latency, bandwidth, spread):
    message, byte = line(sum_seconds)
    cost = simulation.Cost(message=message, byte=byte, latency=latency, bandwidth=bandwidth, spread=spread)
    print(f"simulated steps, {1e6 * latency:.0f} µs from machine to machine, {bandwidth * 8e-9:.1f} Gb/s; of a worker "
          f"{1e3 * cost.message:.2f} ms a message, {1e9 * cost.byte:.2f} ms a MB, arithmetic + {100 * spread:.0f} %")
    print(f"  {'':38}{'ms, 1':>9}" + "".join(f"{f'ms, {count}':>10}{'times':>7}" for count in COUNTS))
    for sizes in SIMULATED:
        for batch in BATCHES:
            one = arithmetic(sizes, batch)
            times = [simulation.step(count, arithmetic(sizes, batch // count), pieces(sizes, batch // count), cost)
                     for count in COUNTS]
            print(f"  {'-'.join(map(str, sizes)):18} batch {batch:7}       {1e3 * one:9.1f}"
                  + "".join(f"{1e3 * seconds:10.2f}{one / seconds:7.1f}" for seconds in times), flush=True)


def pieces(sizes, rows):
    """Return [(bytes, fraction)] of the pieces of a gradient: how much of a step's arithmetic is done when each is computed."""
    model = network(sizes)
    run = TrainingSession(model._specs(), sizes[0], model.loss, fastbp.Adam(), rows, apart=True)
    work = np.cumsum([a * b for a, b in zip(sizes, sizes[1:], strict=False)])
    total = 3 * work[-1] - work[0]                      # A step is forward, and backward without the first layer's dinputs.
    sizes_and_fractions = []
    for layer, where in run.pieces(PIECE):
        left = 2 * work[layer - 1] - work[0] if layer else 0
        sizes_and_fractions.append((4 * (where.stop - where.start), 1 - left / total))
    return sizes_and_fractions


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[[], "backward", "training", "messages", "simulation"], help="default: all")
    parser.add_argument("--turns", type=int, default=3, help="of each measurement (default: 3)")
    parser.add_argument("--latency", type=float, default=50e-6, help="seconds from machine to machine (default: 50e-6)")
    parser.add_argument("--bandwidth", type=float, default=1.25e9, help="bytes a second (default: 1.25e9, 10 Gb/s)")
    parser.add_argument("--spread", type=float, default=0.05, help="of the workers' times (default: 0.05)")
    chosen = parser.parse_args()
    what = chosen.what or ["backward", "training", "messages", "simulation"]
    if "backward" in what:
        backward(chosen.turns)
    if "training" in what:
        training(chosen.turns)
    sum_seconds = exchange_seconds() if {"messages", "simulation"} & set(what) else {}
    if "messages" in what:
        print_messages(sum_seconds)
    if "simulation" in what:
        simulate(sum_seconds, chosen.latency, chosen.bandwidth, chosen.spread)


if __name__ == "__main__":
    main()
