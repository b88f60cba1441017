"""The mean of a loss or an accuracy over all batches of one pass through the data, as in chapter 19."""
import numpy as np


class Accumulated:
    """The sum and the count of numbers, one for each sample, since the last new_pass: accumulated_sum, accumulated_count."""

    accumulated_sum = accumulated_count = 0

    def new_pass(self) -> None:
        """Start a new mean."""
        self.accumulated_sum = self.accumulated_count = 0

    def _mean(self, values):
        """Return the mean of one batch's values, and add them to the pass."""
        self.accumulated_sum += np.sum(values)
        self.accumulated_count += np.size(values)
        return np.mean(values)

    def _accumulated_mean(self):
        if not self.accumulated_count:
            raise RuntimeError(f"calculate_accumulated of {type(self).__name__} was called before calculate, "
                               "expected calculate first")
        return self.accumulated_sum / self.accumulated_count
