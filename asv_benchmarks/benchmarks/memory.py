"""The peak memory of a process: Python with its libraries, the operands, and a training step."""
from .base import function
from .batches import OneLayer


class Memory(OneLayer):
    params = [[1000, 1_000_000]]

    def setup_cache(self):
        """Compile the kernels in a process before the measured one, as compiling takes more memory than the step."""
        function("warmup")("float32")

    setup_cache.timeout = OneLayer.timeout

    def peakmem_step(self, rows):
        self.step()
