"""A pytest plugin that puts fastbp's classes in the place of scikit-learn's, so that scikit-learn's own tests test them.

A plugin that is named on the command line is imported before any test, and so before a test imports a class by name.
"""
import sklearn.neural_network

from fastbp import sklearn as ours

CLASSES = {name: getattr(ours, name) for name in ours.__all__}
vars(sklearn.neural_network).update(CLASSES)

_steps = ours._Epochs._compiled_steps
_count = 0


def _counted(*arguments):
    """Count the epochs that run as compiled code."""
    global _count
    _count += 1
    return _steps(*arguments)


ours._Epochs._compiled_steps = _counted


def pytest_collection_finish(session):
    modules = {item.module for item in session.items}
    assert modules and all(getattr(module, name) is ours for module in modules for name, ours in CLASSES.items())


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"compiled epochs: {_count}")
