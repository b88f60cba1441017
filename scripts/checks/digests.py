"""Digests of what calls and trainings compute on each instruction set, in a file, to show that a change changes no bit.

Only what a user imports is called, so that the package may be taken apart and put together in another way in between. NumPy
makes the data element by element: none of its products, whose bits may depend on its own libraries, goes into a digest.
"""
import contextlib
import hashlib
import io
import json
import sys
import tempfile
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import llvmlite.binding as llvm
import numpy as np

import amx_emulator
import fastbp

from . import child, digest_calls, digest_fits

CALLS, FITS = 2000, 100         # A file has digests of this many calls and fits.
JOBS = 2                        # This many processes run at a time.
PATIENCE = 1800                 # A process that takes longer than so many seconds, compiling included, is killed.
SHOWN = 200                     # At most this many differences are printed.

# LLVM's names of the features that a CPU with AVX-512 must have.
_AVX512 = "avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"


class Target(NamedTuple):
    """A target that Numba compiles for, the features that the CPU must have for it, and what show_config says then."""

    cpu: str
    features: str
    needs: tuple
    says: tuple
    is_emulated: bool = False       # whether AMX is emulated, as slowly that only cases in bfloat16 are computed


def _enabled(features):
    return ",".join(f"+{feature}" for feature in features)


# The targets, by name.
TARGETS = {
    "avx512-bf16": Target("znver4", _enabled((*_AVX512, "avx512bf16")), (*_AVX512, "avx512bf16"), ("avx512", "AVX512-BF16")),
    "avx512": Target("skylake-avx512", f"{_enabled(_AVX512)},-prefer-256-bit", _AVX512, ("avx512", "float32 arithmetic")),
    "avx2": Target("haswell", "", ("avx2", "fma"), ("avx2", "float32 arithmetic")),
    "baseline": Target("x86-64", "", ("sse2",), ("baseline", "float32 arithmetic")),
    "amx": Target("haswell", amx_emulator.FEATURES, ("avx2", "fma"), ("avx2", "AMX"), is_emulated=True),
}

# The code of a process that computes the digests on one target.
_PROCESS = """
import sys
from checks import digests
digests.serve(*sys.argv[1:])
"""


# ---- files


def write(path, calls=CALLS, fits=FITS):
    """Compute the digests and write them to a JSON file; return the exit status."""
    found, skipped = compute(calls, fits, TARGETS)
    content = {"calls": calls, "fits": fits, "skipped": skipped, "digests": found}
    path.write_text(json.dumps(content, indent=0, ensure_ascii=False) + "\n")
    print(f"{_counted(found)} written to {path}")
    return 0


def against(path):
    """Compute the digests of a file once more, and print which differ; return the exit status."""
    expected = json.loads(path.read_text())
    found, _ = compute(expected["calls"], expected["fits"], expected["digests"])
    faults = []
    for name, before in expected["digests"].items():
        now = found.get(name, {})
        faults += [f"{name} {case}: {_fault(now.get(case), before.get(case))}" for case in {**before, **now}
                   if now.get(case) != before.get(case)]
    print(f"{_counted(found)} compared with {path}: {f'{len(faults):,} DIFFER' if faults else 'none differs'}")
    for fault in faults[:SHOWN]:
        print(f"  {fault}")
    if len(faults) > SHOWN:
        print(f"  and {len(faults) - SHOWN:,} more")
    for kind, count in Counter(map(_kind, faults)).items():
        print(f"{count:6,} of {kind}")
    return int(bool(faults))


def _fault(found, expected):
    return "missing" if found is None else "new" if expected is None else "differs"


def _kind(fault):
    """Return the kind of a fault: "avx2 call few neurons" for "avx2 call 0123 few neurons: …"."""
    return " ".join(word for word in fault.partition(":")[0].split() if not word.isdigit())


def _counted(found):
    return ", ".join(f"{len(cases):,} digests on {name}" for name, cases in found.items())


# ---- processes


def compute(calls, fits, names):
    """Return ({target: {case: digest}}, {target: why it was skipped}), each target in a process of its own."""
    skipped = {name: why for name in names if (why := _missing(name)) is not None}
    for name, why in skipped.items():
        print(f"{name} skipped: {why}", flush=True)
    with ThreadPoolExecutor(JOBS) as pool:
        done = {name: pool.submit(_in_process, name, calls, fits) for name in names if name not in skipped}
        return {name: future.result() for name, future in done.items()}, skipped


def _missing(name):
    """Return why this machine cannot run a target, or None."""
    host = llvm.get_host_cpu_features()
    lacking = [feature for feature in TARGETS[name].needs if not host.get(feature)]
    if lacking:
        return f"this CPU has no {' and no '.join(lacking)}"
    return amx_emulator.missing() if name == "amx" else None


def _in_process(name, calls, fits):
    target = TARGETS[name]
    process = child.start(_PROCESS, calls, fits, *target.says, int(target.is_emulated), NUMBA_CPU_NAME=target.cpu,
                          NUMBA_CPU_FEATURES=target.features)
    status, output, errors = child.finish(process, PATIENCE)
    if status != 0:
        raise RuntimeError(f"{name} ended with {status}:\n{output[-2000:]}{errors[-4000:]}")
    return json.loads(output.splitlines()[-1])


def serve(calls, fits, instruction_set, bfloat16_by, is_emulated):
    """Print the digests of all cases as JSON. show_config must name this instruction set, and what multiplies bfloat16."""
    by_emulator = bool(int(is_emulated))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if by_emulator:
            amx_emulator.install(folder)
        _check({"instruction set": instruction_set, "bfloat16 by": bfloat16_by})
        found = {}
        for case in _cases(int(calls), int(fits), only_bfloat16=by_emulator):
            fastbp.set_num_threads(case.threads)
            found[case.name] = _digest_of(case.run)
    json.dump(found, sys.stdout)


def _cases(calls, fits, only_bfloat16):
    for part, count in ((digest_calls, calls), (digest_fits, fits)):
        for number in range(count):
            case = part.case(number)
            if "bfloat16" in case.name or not only_bfloat16:
                yield case
    if not only_bfloat16 and calls >= CALLS:            # they take longer than all of a shorter run
        yield from digest_fits.slow()


def _check(expected):
    """Raise RuntimeError unless show_config says what is expected."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        fastbp.show_config()
    lines = [" ".join(line.split()) for line in printed.getvalue().splitlines()]
    for title, said in expected.items():
        if f"{title} {said}" not in lines:
            raise RuntimeError(f"{title} is not {said}:\n{printed.getvalue()}")


# ---- digests


def _digest_of(run):
    """Return the digest of what a function returns, or of the error that it raises."""
    digest = hashlib.blake2b(digest_size=12)
    try:
        _add(digest, run())
    except Exception as error:
        _add(digest, f"{type(error).__name__}: {error}")
    return digest.hexdigest()


def _add(digest, value):
    """Add the bits of a value to a digest, with its type, and the shape and dtype of an array."""
    if isinstance(value, np.ndarray | np.generic):
        digest.update(f"{value.dtype.str}{value.shape};".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, list | tuple | dict):
        digest.update(f"{type(value).__name__} of {len(value)};".encode())
        for item in value.items() if isinstance(value, dict) else value:
            _add(digest, item)
    elif value is None or isinstance(value, str | bool | int | float):
        digest.update(f"{type(value).__name__} {value.hex() if isinstance(value, float) else value};".encode())
    else:
        raise TypeError(f"{type(value).__name__} has no digest")
