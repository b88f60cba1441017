"""The process and the machine: shared words, threads, CPU, Ctrl-C, terminal."""
