"""Arrays: the gate to compiled code, and what users pass."""
