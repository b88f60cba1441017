"""The time that a user waits in a new process: for the import, and for the first gradient with the import."""
import os
import subprocess
import sys
import tempfile

from .base import Benchmark

# The code whose time is measured.
IMPORT = "import fastbp"
FIRST_GRADIENT = """
import numpy, fastbp
layer = fastbp.DenseReLU(64, 32, rng=0)
layer.backward(layer.forward(numpy.ones((16, 64), numpy.float32)))
"""


def seconds(code, **environment):
    """Return the seconds of that code in a new process, without the start of Python itself."""
    timed = f"import time\nstart = time.perf_counter()\n{code}\nprint(time.perf_counter() - start)"
    command = [sys.executable, "-c", timed]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | environment)
    return round(float(done.stdout), 3)


class Start(Benchmark):
    unit = "s"

    def prepare(self):
        return [lambda: seconds(IMPORT)]            # the system then holds the files in memory

    def track_import(self):
        return min(seconds(IMPORT) for _ in range(3))

    def track_first_gradient_warm(self):
        """Measure with kernels from the disk, where the first of four processes stores them."""
        return min(seconds(FIRST_GRADIENT) for _ in range(4))

    def track_first_gradient_cold(self):
        """Measure with an empty folder for kernels, so that all are compiled."""
        with tempfile.TemporaryDirectory() as folder:
            return seconds(FIRST_GRADIENT, FASTBP_CACHE_DIR=folder)
