"""Training: a session of compiled steps, and the loop over epochs."""
