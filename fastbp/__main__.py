"""The commands: python -m fastbp demo | explain | plan | profile | config | warmup."""
import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import NamedTuple

import fastbp
from fastbp._compile import compiler
from fastbp._runtime import terminal


class _Parser(argparse.ArgumentParser):
    """An argument parser whose error is one line."""

    def error(self, message):
        terminal.complain(f"{self.prog}: error: {message} (--help says what is expected)")
        self.exit(2)


class Command(NamedTuple):
    """A command: its help, and `prepare(parser)`, which adds its options and returns run(options) -> exit status."""

    help: str
    prepare: Callable[[argparse.ArgumentParser], Callable[[argparse.Namespace], int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status or one that terminal.run returns in its place.

    Wrong options end the process with status 2, as argparse does.
    """
    return terminal.run(partial(_main, arguments))


def _main(arguments):
    arguments = _join_negative(sys.argv[1:] if arguments is None else arguments)
    parser = _Parser("python -m fastbp", description="Dense layers with backpropagation for NumPy.")
    parser.add_argument("--version", action="version", version=f"fastbp {fastbp.__version__}")
    subparsers = parser.add_subparsers(metavar="command")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        if name in arguments:
            subparser.set_defaults(run=command.prepare(subparser), error=subparser.error)
    options = parser.parse_args(arguments)
    if "run" not in options:
        parser.print_help()
        return 0
    try:
        return options.run(options)
    except (argparse.ArgumentError, compiler.Disabled) as problem:
        return options.error(str(problem))


def _join_negative(arguments):
    """Return the arguments with `--inputs=-1,2` in place of `--inputs -1,2`: argparse would take -1,2 for an option."""
    joined = []
    for argument in arguments:
        if joined and re.fullmatch("--[^=]+", joined[-1]) and re.match(r"-[\d.]", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _module(name):
    """Return the `prepare` of the command in fastbp/<name>.py. It imports that module only when the command is used."""
    def prepare(parser):
        module = import_module(f"fastbp.{name}")
        module.add_options(parser)
        return module.run
    return prepare


def _config(parser):
    def run(options):
        fastbp.show_config()
        return 0
    return run


def _warmup(parser):
    def run(options):
        compiler.check_enabled("warmup")
        start = time.perf_counter()
        fastbp.warmup()
        print(f"Compiled, or read from the cache, in {time.perf_counter() - start:.1f} s")
        return 0
    return run


# The commands, by name.
COMMANDS = {
    "demo": Command("Train a network on handwritten digits, check its gradients, time its steps.", _module("demo")),
    "explain": Command("Show the chain rule on one neuron, number by number.", _module("cli.explain")),
    "plan": Command("Show which algorithm, blocks and threads each pass of a layer takes, and why.", _module("cli.plan")),
    "profile": Command("Show where a step of a network on a large batch spends its time.", _module("profiler.command")),
    "config": Command("Print the CPU, instruction set, threads, cache folder and versions in use.", _config),
    "warmup": Command("Compile everything into the disk cache.", _warmup),
}

if __name__ == "__main__":
    sys.exit(main())
