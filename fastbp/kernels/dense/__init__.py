"""The passes of a dense layer."""
