"""The mean over the batches of one pass through the data, as in chapter 19."""
import numpy as np


class Accumulated:
    """Sums up what batches hold one number a sample of: accumulated_sum and accumulated_count, since the last new_pass."""

    accumulated_sum = accumulated_count = 0

    def new_pass(self) -> None:
        """Start a new mean."""
        self.accumulated_sum = self.accumulated_count = 0

    def _mean(self, values):
        """Return the mean of one batch, and add it to the pass."""
        self.accumulated_sum += np.sum(values)
        self.accumulated_count += np.size(values)
        return np.mean(values)

    def _accumulated_mean(self):
        if not self.accumulated_count:
            raise RuntimeError(f"calculate_accumulated of {type(self).__name__} was called before calculate, "
                               "expected calculate first")
        return self.accumulated_sum / self.accumulated_count
