"""The benchmarks that airspeed velocity runs, one idea a file. `scripts/bench` starts them."""
