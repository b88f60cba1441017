"""The beginning and the end of a check: its options and its seed, and a closing line with its figures."""
import argparse
import secrets


def options(check, **defaults):
    """Return a parser for a check's module, with --seed and an option for each of the defaults, which are numbers."""
    parser = argparse.ArgumentParser(prog=f"scripts/check {check.__name__.rpartition('.')[2]}", description=check.__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="of a run that is to be repeated")
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, metavar="N",
                            help=f"default: {value}")
    return parser


def close(faults, **figures):
    """Print the figures and the first 20 faults; return the exit status, 1 if there are faults."""
    counts = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in figures.items())
    print(f"{counts}: {f'{len(faults):,} FAULTS' if faults else 'no fault'}", flush=True)
    for fault in faults[:20]:
        print(f"  {fault}")
    return int(bool(faults))
