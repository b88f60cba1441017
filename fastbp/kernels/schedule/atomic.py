"""Operations on memory at an address: atomic ones on 64-bit words, which several threads may change, and a copy of bytes."""
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def exchange(typing_context, address, value):
    """Write `value` to `address` and return what was there, in one atomic step."""
    def generate(c, b, sig, args):
        return b.atomic_rmw("xchg", b.inttoptr(args[0], ir.IntType(64).as_pointer()), args[1], "seq_cst")
    return types.intp(types.intp, types.intp), generate


@intrinsic
def fetch_add(typing_context, address, value):
    """Add `value` to the word at `address` and return what was there, in one atomic step."""
    def generate(c, b, sig, args):
        return b.atomic_rmw("add", b.inttoptr(args[0], ir.IntType(64).as_pointer()), args[1], "seq_cst")
    return types.intp(types.intp, types.intp), generate


@intrinsic
def load(typing_context, address):
    """Return the word at `address`, such as a counter that other threads add to.

    Whatever another thread wrote before it changed the word is visible afterwards.
    """
    def generate(c, b, sig, args):
        return b.load_atomic(b.inttoptr(args[0], ir.IntType(64).as_pointer()), "acquire", 8)
    return types.intp(types.intp), generate


@intrinsic
def copy(typing_context, target, source, count):
    """Copy `count` bytes from one address to another. They must not overlap."""
    def generate(c, b, sig, args):
        target, source = (b.inttoptr(a, ir.IntType(8).as_pointer()) for a in args[:2])
        cgutils.raw_memcpy(b, target, source, args[2], 1)
        return c.get_dummy_value()
    return types.void(types.intp, types.intp, types.intp), generate
