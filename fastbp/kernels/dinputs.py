"""The backward pass of a layer but for dweights, which an optimiser computes in blocks where it needs them (dweights.py)."""
from numba import types

from .. import _link
from . import blocking, columns, gemm, inner, packing, record
from .dense import right_of_weights
from .matrix import MATRIX, only_if, transposed
from .parallel import REGION_BYTES, add, barrier, begin, run_queue
from .product import product_job, scratch_bytes
from .record import Call
from .workspace import acquire, release


def _build(dtype):
    tiles = blocking.tiles(dtype)
    pack, mask = packing.pack[dtype].address, columns.mask[dtype].address
    product, inner_products = gemm.product[dtype].address, inner.inner[dtype].address
    narrow_unbound, inner_unbound = gemm.narrow[dtype].unbound, inner.inner[dtype].unbound
    narrow, precision = gemm.narrow[dtype].address, dtype.bitwidth

    def backward_inputs(dvalues, s, weights, dinputs, dbiases, panels, activation):
        """dz in panels at an address, its column sums dbiases, and unless that is missing, dinputs and dz in place of dvalues.

        All but `panels` as for dense.backward.
        """
        begun = record.begin()
        rows, inputs, neurons = dvalues.rows, weights.rows, weights.cols
        if (blocking.has_narrow(tiles, neurons) or blocking.has_narrow(tiles, inputs)) and narrow() == 0:
            return narrow_unbound()
        by_inner = dinputs.data != 0 and blocking.by_inner(tiles.wide, rows, weights)
        if by_inner and inner_products() == 0:
            return inner_unbound()
        is_packed = dinputs.data != 0 and not by_inner
        threads = blocking.threads(dinputs.rows * inputs * neurons + rows * neurons * blocking.ELEMENT_WORK)
        copy_bytes = packing.packed_bytes(tiles, neurons, inputs) if is_packed else 0
        memory, slot = acquire(REGION_BYTES + copy_bytes + threads * scratch_bytes(tiles))
        if memory == 0:
            return _link.NO_MEMORY
        copy = memory + REGION_BYTES
        begin(memory)
        if is_packed:
            add(memory, pack(), packing.pack_job(tiles, transposed(weights), copy))
        dz = only_if(int(dinputs.data != 0), dvalues)
        add(memory, mask(), columns.mask_job(tiles, dvalues, activation, s, dz, panels, dbiases.data, 0))
        if dinputs.data != 0:
            barrier(memory)
            right = right_of_weights(tiles, weights, by_inner, copy)
            job = product_job(tiles, dz, right, dinputs, 0, 0, copy + copy_bytes, threads)
            add(memory, inner_products() if by_inner else product(), job)
        run_queue(memory, threads)
        release(slot)
        dinputs_bytes = dinputs.rows * dinputs.row_step
        call = Call(rows, inputs, neurons, precision, activation, weights.data, dinputs.data, dinputs_bytes)
        record.finish_pass(begun, record.DINPUTS, call)
        return _link.OK

    return backward_inputs


backward_inputs = _link.units("dinputs", types.intp(*[MATRIX] * 5, types.intp, types.intp), _build)
