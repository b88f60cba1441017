"""Units: functions that are compiled once and called by address.

Numba compiles a function again inside every function that calls it, so a register tile below six calls would be compiled
six times, and once more in each @njit function of a user. Instead the large pieces are units. The address of a compiled
unit stands in the process's state words, and code that calls the unit reads it there. So a user's cached function holds
no copy of a kernel that may have changed since, only the number of a word.

A unit takes integers, or tuples of them, and returns a status: OK, NO_MEMORY, REFUSED where its operands do not fit, or
UNBOUND and more, where it needs a unit that is not compiled yet, since few need it: then `bind_needed` and call again. It
raises nothing: it has no Python frame.
"""
from functools import cached_property, partial

from llvmlite import ir
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from .._runtime import sigint, state, threads
from . import ahead, compiler, disk_cache, notice

OK, NO_MEMORY, REFUSED, UNBOUND = range(4)

# The words of the units. Functions in users' caches rely on them: when they or a unit's signature change, change ABI.
ABI = 10
_KINDS = ("forward", "backward", "pack", "gemm", "full", "column_edge", "unpacked", "dot", "mask", "sum", "fused_rows", "fused",
          "relu", "relu_chunk", "round", "transposed_rows", "transposed", "naive_forward", "naive_backward", "skinny_forward",
          "activate", "loss", "losses", "update", "optimize", "dropout", "train", "steps", "shard", "dinputs", "norms")
_TYPES = "float32", "float64", "bfloat16"
_NAMES = ("spread", "team", "clock", "record", *(f"{kind}-{dtype}" for kind in _KINDS for dtype in _TYPES))
_units = {}
_queue = None                   # the units that are yet to be bound, while one is


class Unit:
    """A function to compile: `build()` returns the Python function. `address()` is its address, in compiled code.

    Of a rare one it is 0 until that is bound, which the status `unbound()` asks for, as does `call_rare(arguments)`. It is a
    constant: another thread may bind the unit between two looks at its address.
    `complete()` is the address after all rare units of the type have been bound, for code that cannot come back to Python.
    """

    def __init__(self, kind, dtype, signature, build, parallel=False, rare=False):
        self.kind, self.dtype, self.name = kind, dtype, f"{kind}-{dtype}" if dtype else kind
        self._signature, self._build, self._parallel, self.rare = signature, build, parallel, rare
        self._number = _NAMES.index(self.name)
        self._word = state.FUNCTIONS + self._number
        self.address, self.complete, self.unbound = self._address(False), self._address(True), _status(UNBOUND + self._number)
        _units[self.name] = self

    @cached_property
    def call_rare(self):
        address, unbound = self.address, self.unbound
        return compiler.kernel(lambda arguments: call(address(), arguments) if address() != 0 else unbound())

    def bind(self):
        """Compile the unit and those that it calls, or read them from the disk cache, unless that is done."""
        bind(self)

    def bound_address(self):
        """Its address, after binding it, in Python."""
        self.bind()
        return state.words[self._word]

    def is_compiled(self):
        return disk_cache.holds(self.name, self._signature)

    def compile(self):
        """Return the unit's address, from the cache if it is there. Its callees are put in the queue.

        A parallel unit is compiled for one thread where there is no threading layer, which it would start.
        """
        parallel = self._parallel and threads.start()
        name = self.name if parallel == self._parallel else f"{self.name}-serial"
        return compiler.native(self._build(), self._signature, name, parallel)

    def _address(self, complete):
        @intrinsic
        def address(typing_context):
            def generate(context, builder, signature, args):
                if complete or not self.rare:
                    _bind(self.name, ABI, complete)
                    context.active_code_library._reload_init.add(partial(_bind, self.name, ABI, complete))
                return state.read(builder, ir.Constant(ir.IntType(64), self._word))
            return types.intp(), generate
        return address


FLOATS = types.float32, types.float64


def units(kind, signature, build, dtypes=FLOATS, rare=False):
    """A unit for each of some types: build(dtype) returns its Python function."""
    return {dtype: Unit(kind, dtype, signature, partial(build, dtype), rare=rare) for dtype in dtypes}


def bind(*some):
    """Compile these units and those that they call, or read them from the disk cache, where that is not done."""
    with global_compiler_lock:
        some = [unit for unit in some if not state.words[unit._word]]
        if _queue is not None:
            _queue.extend(some)
        elif some:
            with notice.compiling(f"the kernel {some[0].name}"):
                _bind_all(some)


def _bind_all(some):
    """Bind units and all that they call: last what another process compiles, and no address before all of them are known.

    The addresses of rare units come last, as other threads may call one as soon as it is there, and it calls the others.
    """
    global _queue
    threads.prepare()
    compiled, _queue = {}, some
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
        for unit in sorted(compiled, key=lambda unit: unit.rare):
            state.words[unit._word] = compiled[unit]


def compile_ahead(names):
    """Compile these units for another process, without those that they call; print the name of each that is done."""
    global _queue
    _queue = []
    for name in names:
        _units[name].compile()
        print(name, flush=True)


def bind_rare(dtype):
    """Bind all units of a Numba float type that are only compiled when they are needed."""
    for unit in list(_units.values()):
        if unit.rare and unit.dtype == dtype:
            unit.bind()


def bound():
    """{address: unit} of those that are bound."""
    return {state.words[unit._word]: unit for unit in _units.values() if state.words[unit._word]}


def bind_needed(status):
    """Bind the unit that a status of UNBOUND or more asks for."""
    name = _NAMES[status - UNBOUND]
    with notice.compiling(f"the kernel {name}, which such sizes need"):
        _units[name].bind()


def _status(number):
    """A function of compiled code that returns a constant."""
    @intrinsic
    def status(typing_context):
        return types.intp(), lambda context, builder, signature, args: ir.Constant(ir.IntType(64), number)
    return status


def _bind(name, abi, complete):
    """Numba calls this, too, when it loads a function that calls a unit from a disk cache, in a new process."""
    if abi != ABI or name not in _units:
        raise ImportError(f"a cached function was compiled for another fastbp (it calls {name} of ABI {abi}, this one has "
                          f"ABI {ABI}): delete Numba's cache files of the module that holds the function")
    _units[name].bind()
    if complete:
        bind_rare(_units[name].dtype)


@intrinsic
def call(typing_context, address, arguments):
    """Call the unit at an address with a tuple, of integers or named tuples of integers; returns its status."""
    def generate(context, builder, signature, args):
        values = [builder.extract_value(args[1], i) for i in range(len(arguments))]
        function = ir.FunctionType(ir.IntType(64), [v.type for v in values])
        return builder.call(builder.inttoptr(args[0], function.as_pointer()), values)
    return types.intp(address, arguments), generate
