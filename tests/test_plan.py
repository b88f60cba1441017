"""The choice of algorithms: a table of shapes on a fixed machine, what `python -m fastbp plan` prints."""
import numba
import pytest

from fastbp.__main__ import main
from fastbp._compile import compiler
from fastbp._runtime import cpu, threads
from fastbp.cli import plan
from fastbp.kernels import blocking, sizes
from fastbp.kernels.blocking import Machine
from fastbp.kernels.dense import select
from fastbp.kernels.dense.select import ALGORITHMS
from fastbp.kernels.elementwise.activations import RELU, TANH
from fastbp.kernels.matrix import Matrix

# float32 on AVX-512 and float64 on AVX2, with the caches of a server and the sizes of a CPU that nobody has measured.
REST = dict(l1=32 << 10, l2=1 << 20, l3=32 << 20, sizes=sizes.DEFAULT.sizes)
AVX512 = Machine(itemsize=4, lanes=16, step=1, height=6, width=64, edge_width=16, unpacked_height=2, unpacked_width=128, **REST)
AVX2 = Machine(itemsize=8, lanes=4, step=1, height=6, width=8, edge_width=4, unpacked_height=2, unpacked_width=16, **REST)

# (batch, inputs, neurons): forward; backward as a whole, its dinputs and its dweights, first on AVX512, then on AVX2.
TABLE = """
      1,    1,    1:  naive;    naive                      naive;    naive
      8,    4,    4:  naive;    naive                      naive;    naive
      9,    4,    4:  packed;   separate packed packed     packed;   separate packed packed
      1,   16,   26:  packed;   separate packed packed     packed;   separate packed packed
     64,    5,    9:  packed;   narrow packed unpacked     packed;   narrow packed unpacked
     63,    5,    9:  packed;   narrow packed unpacked     packed;   narrow packed unpacked
     64,    4,    4:  packed;   narrow packed unpacked     packed;   narrow packed unpacked
   5000,    8,    8:  packed;   narrow packed unpacked     packed;   narrow packed unpacked
 500000,   16,    8:  packed;   narrow packed skinny       packed;   narrow packed unpacked
 262144,   64,   32:  packed;   narrow packed unpacked     packed;   narrow packed unpacked
   2048,   13,  512:  packed;   narrow packed unpacked     packed;   narrow packed unpacked
   2048,   12,  512:  packed;   narrow packed unpacked     packed;   narrow packed unpacked
   1000,    1,   64:  packed;   narrow dot unpacked        packed;   narrow dot unpacked
   1000,    4,   64:  packed;   narrow dot unpacked        packed;   narrow packed unpacked
   1000,    5,   64:  packed;   narrow packed unpacked     packed;   narrow packed unpacked
   2048,  256,    1:  skinny;   separate packed skinny     skinny;   separate packed skinny
   2048,   31,    1:  packed;   narrow packed skinny       skinny;   narrow packed skinny
   2048,   32,    4:  skinny;   narrow packed skinny       skinny;   narrow packed unpacked
   2048,   32,    5:  packed;   narrow packed skinny       packed;   narrow packed skinny
   4096,   64,    3:  skinny;   narrow packed skinny       skinny;   narrow packed skinny
   4095,   64,    3:  skinny;   narrow packed skinny       skinny;   narrow packed skinny
   4096,  784,  512:  packed;   fused packed packed        packed;   separate packed packed
   4096,  784,  700:  packed;   separate packed packed     packed;   separate packed packed
     32,  784,  128:  streamed; separate swapped packed    streamed; separate swapped packed
     33,  784,  128:  streamed; separate swapped packed    streamed; separate swapped packed
     12,  784,  128:  streamed; separate streamed packed   streamed; separate streamed packed
     12,  784,  127:  streamed; separate streamed packed   streamed; separate streamed packed
     13,  784,  128:  streamed; separate swapped packed    streamed; separate swapped packed
     64,  784,  128:  streamed; separate swapped packed    streamed; separate swapped packed
     65,  784,  128:  packed;   separate swapped packed    packed;   separate swapped packed
    110,  784,  128:  packed;   separate swapped packed    packed;   separate swapped packed
    111,  784,  128:  packed;   separate packed packed     packed;   separate packed packed
    512, 4096, 4096:  packed;   separate swapped packed    packed;   separate swapped packed
    513, 4096, 4096:  packed;   separate packed packed     packed;   separate packed packed
     48,  784,  512:  streamed; separate streamed packed   streamed; separate swapped packed
     49,  784,  512:  streamed; separate swapped packed    streamed; separate streamed packed
     40,   63,  128:  packed;   separate packed packed     packed;   separate packed packed
     40,   64,   63:  packed;   separate swapped packed    streamed; separate swapped packed
     32,    5,    9:  packed;   separate packed packed     packed;   separate packed packed
     33,    5,    9:  packed;   narrow packed unpacked     packed;   narrow packed unpacked
   1000,   20,  300:  packed;   narrow packed unpacked     packed;   narrow packed unpacked
   2048,  255,    1:  skinny;   narrow packed skinny       skinny;   separate packed skinny
   4096,  256,    1:  skinny;   separate packed skinny     skinny;   separate packed skinny
   4096,  255,    4:  skinny;   narrow packed skinny       skinny;   separate packed skinny
    128,  128,   10:  packed;   narrow packed skinny       packed;   narrow packed skinny
   4000,  784,   10:  packed;   narrow packed skinny       packed;   narrow packed skinny
     40, 7000,   10:  packed;   separate swapped packed    streamed; separate swapped packed
   4096,   33,   33:  packed;   fused packed packed        packed;   fused packed packed
   4096,20000,    4:  skinny;   separate packed skinny     skinny;   separate packed skinny
     32, 1000, 1049:  streamed; separate swapped packed    streamed; separate swapped packed
     33, 1000, 1049:  streamed; separate swapped packed    streamed; separate swapped packed
     32, 1000, 1048:  streamed; separate swapped packed    streamed; separate swapped packed
"""


def matrix(machine, rows, cols):
    return Matrix(data=64, rows=rows, cols=cols, row_step=cols * machine.itemsize, col_step=machine.itemsize)


def chosen(machine, batch, inputs, neurons):
    """Return the choice as the table has it."""
    x, weights = matrix(machine, batch, inputs), matrix(machine, inputs, neurons)
    forward, backward = select.forward(machine, x, weights, RELU), select.backward(machine, x, weights, RELU)
    parts = [backward.whole] if backward.whole == select.NAIVE else backward
    return f"{ALGORITHMS[forward].name}; {' '.join(ALGORITHMS[part].name for part in parts)}"


def shape_of(row):
    return tuple(map(int, row.split(":")[0].split(",")))


@pytest.mark.parametrize("row", TABLE.strip().splitlines())
def test_the_algorithms_of_a_shape(row):
    shape = shape_of(row)
    assert f"{chosen(AVX512, *shape)} {chosen(AVX2, *shape)}".split() == row.split(":")[1].split()


@pytest.mark.parametrize("x, weights", [
    (dict(row_step=4, col_step=4 * 2048), {}),                                      # x in Fortran order
    ({}, dict(row_step=4, col_step=4 * 256)),                                       # weights in Fortran order
])
def test_strides_do_not_count_for_a_skinny_layer(x, weights):
    x, weights = matrix(AVX512, 2048, 256)._replace(**x), matrix(AVX512, 256, 4)._replace(**weights)
    assert select.forward(AVX512, x, weights, RELU) == select.SKINNY


def test_an_activation_that_naive_loops_lack_takes_tiles():
    x, weights = matrix(AVX512, 2, 3), matrix(AVX512, 3, 2)
    assert select.forward(AVX512, x, weights, TANH) == select.PACKED
    assert select.backward(AVX512, x, weights, TANH).whole == select.SEPARATE


@pytest.mark.skipif(compiler.DISABLED, reason="NUMBA_DISABLE_JIT is 1")
def test_compiled_code_chooses_the_same():
    machine = blocking.machine(numba.float32)

    @numba.njit
    def choose(x, weights):
        here = blocking.with_caches(machine)
        return here, select.forward(here, x, weights, RELU), select.backward(here, x, weights, RELU)

    threads.prepare()
    caches = cpu.caches()
    here = machine._replace(l1=caches.l1, l2=caches.l2, l3=caches.l3, sizes=sizes.PRESENT.sizes)
    for row in TABLE.strip().splitlines():
        batch, inputs, neurons = shape_of(row)
        x, weights = matrix(machine, batch, inputs), matrix(machine, inputs, neurons)
        assert choose(x, weights) == (here, select.forward(here, x, weights, RELU), select.backward(here, x, weights, RELU))


@pytest.mark.parametrize("options", [[], ["--dtype", "float64"], ["--dtype", "bfloat16"], ["--threads", "1"]])
@pytest.mark.parametrize("row", TABLE.strip().splitlines()[::6])
def test_printed(row, options, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["plan", *map(str, shape_of(row)), *options]) == 0
    printed = capsys.readouterr().out
    words = [line.split()[:2] for line in printed.splitlines() if line]
    names = {algorithm.name for algorithm in ALGORITHMS}
    assert {"forward", "backward"} <= {word[0] for word in words if word[-1] in names}
    assert max(map(len, printed.splitlines())) <= 60
    if "--threads" in options:
        assert "2 threads" not in printed
    for name in {word[1] for word in words if word[0] in ("forward", "backward", "dinputs", "dweights")}:
        assert [name] in [word[:1] for word in words]                               # its reason


def test_tasks_cover_the_product():
    parts = {part.name: part for part in plan.plan(2000, 1000, 2000, "float32", threads=2)}
    assert parts["forward"].text.startswith("M 2000, N 2000, K 1000; KC 500")
    assert parts["dinputs"].text.startswith("M 2000, N 1000, K 2000") and parts["dinputs"].text.endswith("; 2 threads")
    assert parts["dweights"].text.startswith("M 1000, N 2000, K 2000")


@pytest.mark.parametrize("options, named", [
    (["0", "3", "4"], "BATCH"), (["1", "x", "4"], "INPUTS"), (["1", "2", "-3"], "NEURONS"),
    (["1", "2", "3", "--threads", "0"], "--threads"), (["1", "2", "3", "--dtype", "int8"], "--dtype"),
])
def test_wrong_options_are_named(options, named, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plan", *options])
    assert stop.value.code == 2
    assert f"error: argument {named}:" in capsys.readouterr().err
