"""Checks of what the README promises: each a module with a main(arguments); the tests run short ones of the same."""
