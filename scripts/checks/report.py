"""How a check begins and ends: its options, its seed, and a closing line with its figures."""
import argparse
import secrets


def options(check, **defaults):
    """A parser with --seed, and an option for each of the defaults: a number."""
    parser = argparse.ArgumentParser(prog=f"scripts/check {check.__name__.rpartition('.')[2]}", description=check.__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="of a run that is to be repeated")
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, metavar="N",
                            help=f"default: {value}")
    return parser


def close(faults, **figures):
    """Print the figures and what was found, and return the exit status."""
    counts = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in figures.items())
    print(f"{counts}: {f'{len(faults):,} FAULTS' if faults else 'no fault'}", flush=True)
    for fault in faults[:20]:
        print(f"  {fault}")
    return int(bool(faults))
