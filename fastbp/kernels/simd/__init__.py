"""Registers: LLVM IR for vectors and tiles."""
