"""Random arrays of any layout and dtype, between canaries and walls (memory.py), and the checks of calls with them."""
import contextlib
import pickle
import traceback
import warnings

import numpy as np
from numba import from_dtype, types
from numba.core.errors import TypingError

import fastbp

from . import bounds
from .memory import Rooms, extent

FLOATS = np.dtype(np.float32), np.dtype(np.float64)     # The dtypes that kernels compute in.
# The dtypes that functions convert.
OTHERS = tuple(map(np.dtype, (np.float16, np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64, np.bool_)))
# Sizes of dimensions, many of them beside multiples of vectors and tiles.
SIZES = 0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65, 95, 97, 128, 130


class Fuzzer:
    """A maker of cases of one kind. A case follows from the seed and its number.

    A subclass has a method check(rng), which makes a case, sets the text `case` to what it calls, and returns its faults.
    """

    def __init__(self, seed, compiled=True):
        self.seed, self.compiled, self.case, self.rooms = seed, compiled, "", Rooms()

    def try_one(self, number):
        """Return the faults of a case, each a line."""
        try:
            faults = self.check(np.random.default_rng([self.seed, number]))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            faults = [f"{type(error).__name__} in {where.name}, line {where.lineno}: {error}"]
        finally:
            self.rooms.give_back()
        return [f"{self.case}: {fault}" for fault in faults]

    def placed(self, rng, numbers, may_swap=True):
        """Return an array with these numbers in a random layout; it may be read-only, or of the other byte order."""
        dtype = numbers.dtype
        if may_swap and rng.random() < 0.08:
            dtype = dtype.newbyteorder()
        _, view = self.view(rng, numbers.shape, dtype, may_repeat=True)
        view[...] = numbers
        view.flags.writeable = bool(rng.random() < 0.8)
        return view

    def view(self, rng, shape, dtype, room=None, may_repeat=False):
        """Return (room, array). The array lies anywhere in the given room, if it has space, or else in a new one."""
        strides = strides_of(rng, shape, dtype.itemsize, may_repeat)
        span = extent(shape, dtype.itemsize, strides)[1]
        if room is not None and span <= len(room.bytes):
            return room, room.array(shape, dtype, strides, False, int(rng.integers(len(room.bytes) - span + 1)))
        gap = int(rng.choice([0, 0, 0, dtype.itemsize, 1, 64, 60]))
        room = self.rooms.take(span + gap)
        return room, room.array(shape, dtype, strides, bool(rng.random() < 0.6), gap)

    def remember(self):
        """Remember the bytes of all rooms, for changed()."""
        for room in self.rooms.used():
            room.remember()

    def changed(self):
        """Return a fault for each room where bytes have changed that belong to no result."""
        counts = [room.changed() for room in self.rooms.used()]
        return [f"{count} bytes that are no result's were written" for count in counts if count]

    def refused(self, call, names):
        """Call, and return the faults. The call must raise an error that names one of the arguments, and must write nothing."""
        self.remember()
        try:
            call()
        except (TypeError, ValueError) as error:
            faults = [] if str(error).startswith(tuple(names)) else [f"the error names no argument: {error}"]
        except TypingError as error:                    # Numba puts text of its own around the message
            faults = [] if any(f"{name} " in str(error) or f"{name}[" in str(error) for name in names) else [str(error)]
        except Exception as error:
            faults = [f"{type(error).__name__}: {error}"]
        else:
            faults = ["no error"]
        return faults + ["memory was written" for room in self.rooms.used() if room.changed()]

    def on_threads(self, call):
        """Call with 1, 2 and 3 threads, and return (results, faults). The arrays that it returns must have the same bits.

        Before each call all rooms get their bytes back.
        """
        self.remember()
        outcomes, faults = [], []
        for threads in (1, 2, 3):
            for room in self.rooms.used():
                room.restore()
            fastbp.set_num_threads(threads)
            results = [np.array(result) for result in call()]
            outcomes.append([result.tobytes() for result in results])
            faults += self.changed()
        if not outcomes[0] == outcomes[1] == outcomes[2]:
            faults.append("the bits depend on the number of threads")
        return results, faults


def differing(what, result, exact, bound, dtype):
    """Return a fault if a result does not have the exact one's shape, that dtype, and elements within their bounds of it."""
    exact, bound = np.asarray(exact), np.broadcast_to(bound, np.shape(exact))
    if not isinstance(result, np.ndarray) or result.shape != exact.shape or result.dtype != dtype:
        return [f"{what} is {result!r:.60}, expected {exact.shape} of {dtype}"]
    wrong = bounds.differences(result, exact, bound)
    if not wrong.any():
        return []
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    return [f"{wrong.sum()} of {wrong.size} elements of {what} differ, at {first} {result[first]!r}, expected "
            f"{exact[first]!r} within {bound[first]!r}"]


def restored(value):
    """Return a copy that was pickled, with its arrays in read-only memory."""
    buffers = []
    content = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(content, buffers=[bytes(buffer.raw()) for buffer in buffers])


def described(**arrays):
    """Return the names, shapes, dtypes and strides of arrays, in one line."""
    return ", ".join(f"{name} {a.shape} {a.dtype} strides {a.strides}" if isinstance(a, np.ndarray) else f"{name} {a!r:.80}"
                     for name, a in arrays.items())


def result_dtype(*arrays):
    """Return the dtype of a function's results: the promoted one of the operands if it is float32 or wider, else what fits."""
    dtype = np.result_type(*(a.dtype for a in arrays)).newbyteorder("=")
    return FLOATS[1] if dtype.kind != "f" else max(dtype, FLOATS[0])


def any_layout(dtype, dimensions, readonly=True):
    """Return Numba's type of arrays of that dtype, of any layout and alignment."""
    return types.Array(from_dtype(np.dtype(dtype)), dimensions, "A", readonly=readonly, aligned=False)


@contextlib.contextmanager
def no_bfloat16_warning():
    """Suppress the warning that bfloat16 is not faster on this CPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "precision 'bfloat16' is not faster", RuntimeWarning)
        yield


def draw_dtype(rng, dtype, mixed):
    """Return that dtype, or, if mixed, any other one half of the time."""
    return (*FLOATS, *OTHERS)[rng.integers(len(FLOATS) + len(OTHERS))] if mixed and rng.random() < 0.5 else dtype


# The styles of random numbers that numbers() makes.
STYLES = "whole", "normal", "wide", "tiny", "huge", "special"


def draw_style(rng):
    return str(rng.choice(STYLES, p=[0.3, 0.25, 0.15, 0.1, 0.08, 0.12]))


def numbers(rng, shape, dtype, style):
    """Return an array of random numbers of one of the STYLES; integers and booleans are small in every style."""
    if dtype.kind != "f":
        least, most = (0, 1) if dtype.kind == "b" else (max(np.iinfo(dtype).min, -9), 9)
        return rng.integers(least, most + 1, shape).astype(dtype)
    info = np.finfo(dtype)
    if style == "whole":
        return rng.integers(-3, 4, shape).astype(dtype)
    normal = rng.standard_normal(shape)
    if style in ("normal", "special"):
        numbers = normal.astype(dtype)
        if style == "special" and numbers.size:
            places = rng.integers(0, numbers.size, rng.integers(1, 4))
            numbers.flat[places] = rng.choice([np.nan, np.inf, -np.inf, -0.0, info.smallest_subnormal, info.max])
        return numbers
    exponents = {"wide": (info.minexp // 3, info.maxexp // 3), "tiny": (info.minexp - info.nmant, info.minexp // 2),
                 "huge": (info.maxexp // 2, info.maxexp - 3)}[style]
    return np.ldexp(rng.uniform(0.5, 1, shape) * np.sign(normal), rng.integers(*exponents, shape)).astype(dtype)


def strides_of(rng, shape, itemsize, may_repeat):
    """Return strides: C order, or any order of the axes, with negative steps, gaps, and, if it may, repeated elements."""
    draw = rng.random()
    axes = list(range(len(shape)))[::-1]
    if draw > 0.6:
        rng.shuffle(axes)
    strides, span = [0] * len(shape), itemsize
    for axis in axes:
        step = span if draw < 0.45 else span * int(rng.choice([1, 1, 1, 2, 3]))
        if draw > 0.9:
            step += int(rng.integers(0, 9))
        strides[axis] = -step if draw > 0.7 and rng.random() < 0.3 else step
        if may_repeat and draw > 0.95 and rng.random() < 0.5:
            strides[axis] = 0
        span = step * max(shape[axis], 1)
    return tuple(strides)
