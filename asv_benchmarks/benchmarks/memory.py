"""The most memory that a process has ever held, with its libraries, the operands and two training steps."""
from .base import function
from .batches import Batches as _Batches            # asv would list it here too


class Memory(_Batches):
    params = [[1000, 1_000_000]]
    time_step = None            # measured there

    def setup_cache(self):
        """In another process before this one: a compiler would hold more memory than the step."""
        function("warmup")("float32")

    setup_cache.timeout = _Batches.timeout

    def peakmem_step(self, rows):
        self.step()
