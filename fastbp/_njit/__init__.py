"""fastbp inside a user's own @njit code."""
