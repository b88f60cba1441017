"""Checks of what the README promises, each a module with a function main(arguments). The tests run short versions of them."""
