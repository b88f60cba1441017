"""Checks of what the README promises. A check tries to break one promise, and exits with 1 if it does."""
import argparse
import importlib
import pkgutil
import sys

import checks


def main():
    names = sorted(module.name for module in pkgutil.iter_modules(checks.__path__) if hasattr(_module(module.name), "main"))
    lines = [f"  {name:12}{_module(name).__doc__.splitlines()[0]}" for name in names]
    parser = argparse.ArgumentParser(prog="scripts/check", description=__doc__, epilog="\n".join(lines),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=names, metavar="check", help="one of those below; CHECK --help says more")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of that check")
    chosen = parser.parse_args()
    sys.exit(_module(chosen.check).main(chosen.arguments))


def _module(name):
    """Return the module of a check, or None for a module that is private to the checks."""
    return None if name.startswith("_") else importlib.import_module(f"checks.{name}")


main()
