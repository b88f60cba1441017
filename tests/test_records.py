"""Records in memory: Python and kernels find the same fields under the same names."""
from typing import NamedTuple

import numpy as np
import pytest
from numba import njit

from fastbp.kernels.gemm.problem import GemmProblem
from fastbp.kernels.schedule.queue import JOB_BYTES
from fastbp.kernels.schedule.records import fields_of, in_words, layout, offset, read, replace, write
from fastbp.kernels.train import network, optimizers


class Mixed(NamedTuple):
    """Integers and floats."""

    tasks: int
    rate: float
    count: int
    decay: float


RECORDS = [Mixed(tasks=3, rate=0.5, count=-(1 << 62) - 1, decay=np.inf), Mixed(tasks=1, rate=-0.0, count=True, decay=5e-324)]


def test_kernels_read_what_python_writes_and_the_other_way_round():
    @njit
    def doubled(source, target):
        job = read(source, Mixed)
        write(target, replace(job, rate=job.rate * 2, count=job.count + 1))
        return job.rate, job.decay

    size = layout(Mixed).itemsize
    words, found = in_words(Mixed, RECORDS), np.zeros(len(Mixed._fields), np.int64)
    assert words.nbytes == 2 * size
    for i, record in enumerate(RECORDS):
        assert doubled(words.ctypes.data + i * size, found.ctypes.data) == (record.rate, record.decay)
        assert fields_of(Mixed, found).item() == (record.tasks, record.rate * 2, record.count + 1, record.decay)


def test_fields_are_changed_in_place():
    words = in_words(Mixed, RECORDS)
    fields_of(Mixed, words)["decay"] = 0.25
    assert words.view(np.float64)[offset(Mixed, "decay") // 8] == 0.25
    with pytest.raises(ValueError, match="no field of name"):
        fields_of(Mixed, words)["dekay"] = 0.25


@pytest.mark.parametrize("kind", [GemmProblem, optimizers.Update, network.Training])
def test_a_record_is_whole(kind):
    with pytest.raises(TypeError, match="missing"):
        kind(**dict.fromkeys(kind._fields[1:], 0))
    assert in_words(kind, []).size == 0
    assert kind is network.Training or layout(kind).itemsize <= JOB_BYTES
