"""Units: functions that are compiled once and called by address.

Numba compiles a function again inside every function that calls it. A register tile with six callers would be compiled six
times, and once more in each @njit function of a user. So the large pieces are units. The address of a compiled unit stands in
the process's state words, and code that calls the unit reads it there. A user's cached function therefore holds only the number
of a word, not a copy of a kernel that may have changed since.

A lazy unit is one that few calls need, so it is compiled only when a call needs it.

A unit takes integers, or tuples of integers, and returns a status. It raises nothing, because it has no Python frame. The
status is OK, NO_MEMORY, REFUSED, or a request: REQUESTED plus the number of a lazy unit that is not compiled yet. On a request,
Python calls `bind_requested` and then the unit again.
"""
from functools import cached_property, partial

from llvmlite import ir
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from .._runtime import sigint, state, threads
from . import ahead, compiler, disk_cache, notice

# The status of a unit that has done its work.
OK = 0

# The status of a unit that found no memory for its workspace.
NO_MEMORY = 1

# The status of a unit that cannot take its operands as they lie in memory.
REFUSED = 2

# The first request; a request is this plus the number of the unit that is needed.
REQUESTED = 3

# The version of the units' numbers and signatures, on which functions in users' caches rely. Increase it when either changes.
ABI = 12

# The kinds of units that there are for each type.
_KINDS = ("forward", "backward", "pack", "gemm", "full", "column_edge", "unpacked", "dot", "mask", "sum", "fused_rows", "fused",
          "relu", "relu_chunk", "narrow_rows", "narrow", "naive_forward", "naive_backward", "skinny_forward",
          "activate", "loss", "losses", "update", "optimize", "dropout", "train", "steps", "shard", "dinputs", "norms", "keep",
          "transposed_shard", "infer_rows", "infer", "streamed", "swapped")

# The names of the types that units compute with.
_TYPES = "float32", "float64", "bfloat16"

# The names of all units, in the order of their numbers and so of their words.
_NAMES = ("spread", "team", "clock", "record", *(f"{kind}-{dtype}" for kind in _KINDS for dtype in _TYPES))

# The units by name.
_units = {}

# The units that still have to be compiled before the current binding ends; None while nothing is being bound.
_queue = None


class Unit:
    """A function to compile, and what compiled code needs to call it.

    build: returns the Python function. lazy: whether the unit is lazy.

    Compiled code calls `address()` for the unit's address; that of a lazy unit is 0 until the unit is bound. `request()`
    returns the request for the unit. It is a constant, as another thread may bind the unit between two reads of its address.
    `call_lazy(arguments)` calls a lazy unit, or returns the request if the unit is not bound. `all_bound()` returns the address
    after all lazy units of the type have been bound. It is for code that cannot return to Python to have a request served.
    """

    def __init__(self, kind, dtype, signature, build, parallel=False, lazy=False):
        self.kind, self.dtype, self.name = kind, dtype, f"{kind}-{dtype}" if dtype else kind
        self._signature, self._build, self._parallel, self.lazy = signature, build, parallel, lazy
        self._number = _NAMES.index(self.name)
        self._word = state.FUNCTIONS + self._number
        self.address, self.all_bound = self._address(False), self._address(True)
        self.request = _status(REQUESTED + self._number)
        _units[self.name] = self

    @cached_property
    def call_lazy(self):
        """Return call_lazy(arguments) for compiled code."""
        address, request = self.address, self.request
        return compiler.kernel(lambda arguments: call(address(), arguments) if address() != 0 else request())

    def bind(self):
        """Compile the unit and those that it calls, or read them from the disk cache, unless they are bound."""
        bind(self)

    def bound_address(self):
        """Bind the unit and return its address, to Python."""
        self.bind()
        return state.words[self._word]

    def is_compiled(self):
        """Return whether the unit is in the disk cache."""
        return disk_cache.holds(self.name, self._signature)

    def compile(self):
        """Return the unit's address, from the disk cache if it is there, and put the units that it calls in the queue.

        A parallel unit would start a threading layer. Where there is no safe one, it is compiled for one thread.
        """
        parallel = self._parallel and threads.start()
        name = self.name if parallel == self._parallel else f"{self.name}-serial"
        return compiler.native(self._build(), self._signature, name, parallel)

    def _address(self, all_bound):
        """Return address() for compiled code, or all_bound()."""
        @intrinsic
        def address(typing_context):
            def generate(context, builder, signature, args):
                if all_bound or not self.lazy:
                    _bind(self.name, ABI, all_bound)
                    context.active_code_library._reload_init.add(partial(_bind, self.name, ABI, all_bound))
                return state.read(builder, ir.Constant(ir.IntType(64), self._word))
            return types.intp(), generate
        return address


# The Numba types of the arrays that kernels compute.
FLOATS = types.float32, types.float64


def units(kind, signature, build, dtypes=FLOATS, lazy=False):
    """Return a unit for each of the types, {dtype: unit}; build(dtype) returns its Python function."""
    return {dtype: Unit(kind, dtype, signature, partial(build, dtype), lazy=lazy) for dtype in dtypes}


def bind(*wanted):
    """Compile these units and those that they call, or read them from the disk cache, unless they are bound."""
    with global_compiler_lock:
        missing = [unit for unit in wanted if not state.words[unit._word]]
        if _queue is not None:
            _queue.extend(missing)
        elif missing:
            with notice.compiling(f"the kernel {missing[0].name}"):
                _bind_all(missing)


def _bind_all(missing):
    """Bind these units and all that they call.

    Units that another process compiles come last. No address is published before all are known. The addresses of lazy units are
    published last, because other threads may call a lazy unit as soon as its address is there, and it calls the others.
    """
    global _queue
    threads.prepare()
    compiled, _queue = {}, missing
    try:
        while _queue:
            unit = min(_queue, key=lambda unit: ahead.is_expected(unit.name))
            _queue = [other for other in _queue if other is not unit]
            if unit not in compiled:
                ahead.start(unit, _units.values())
                notice.look(is_sure=ahead.is_expected(unit.name))
                ahead.wait(unit.name)
                compiled[unit] = unit.compile()
    finally:
        _queue = None
    with sigint.defer_sigint():
        for unit in sorted(compiled, key=lambda unit: unit.lazy):
            state.words[unit._word] = compiled[unit]


def compile_ahead(names):
    """Compile these units for another process, but not the units that they call. Print the name of each when it is done."""
    global _queue
    _queue = []
    for name in names:
        _units[name].compile()
        print(name, flush=True)


def warming_up(dtypes):
    """Return a context in which other processes compile everything for dtypes of these names; see ahead.warming_up."""
    return ahead.warming_up(dtypes, _units.values())


def bind_lazy(dtype):
    """Bind all lazy units of a Numba float type; for bfloat16 those of float32 too, as its passes call units of float32."""
    dtypes = (dtype,) if dtype in FLOATS else (dtype, types.float32)
    for unit in list(_units.values()):
        if unit.lazy and unit.dtype in dtypes:
            unit.bind()


def bound():
    """Return the units that are bound, by address."""
    return {state.words[unit._word]: unit for unit in _units.values() if state.words[unit._word]}


def bind_requested(status):
    """Bind the unit that a request asks for: a status of REQUESTED or more."""
    name = _NAMES[status - REQUESTED]
    with notice.compiling(f"the kernel {name}, which such sizes need"):
        _units[name].bind()


def _status(number):
    """Return a function for compiled code that returns this number, as a constant."""
    @intrinsic
    def status(typing_context):
        return types.intp(), lambda context, builder, signature, args: ir.Constant(ir.IntType(64), number)
    return status


def _bind(name, abi, all_bound):
    """Bind a unit that compiled code calls, and all lazy units of its type if `all_bound`.

    Numba calls this when it compiles a caller of the unit, and when a new process loads a caller from a disk cache. Raises
    ImportError if the caller was compiled for other units.
    """
    if abi != ABI or name not in _units:
        raise ImportError(f"a cached function was compiled for another fastbp (it calls {name} of ABI {abi}, this one has "
                          f"ABI {ABI}): delete Numba's cache files of the module that holds the function")
    _units[name].bind()
    if all_bound:
        bind_lazy(_units[name].dtype)


@intrinsic
def call(typing_context, address, arguments):
    """Call the unit at an address with a tuple of integers or of named tuples of integers, and return its status."""
    def generate(context, builder, signature, args):
        values = [builder.extract_value(args[1], i) for i in range(len(arguments))]
        function = ir.FunctionType(ir.IntType(64), [v.type for v in values])
        return builder.call(builder.inttoptr(args[0], function.as_pointer()), values)
    return types.intp(address, arguments), generate
