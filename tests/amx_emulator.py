"""AMX tile instructions on CPUs without them: builds amx_emulator.c and installs it in this process, as a handler of SIGILL.

On a CPU with AMX the instructions do not trap, and the emulator has nothing to do. As a program

    python amx_emulator.py FOLDER_TO_BUILD_IN [pytest's arguments]

runs pytest in a process that compiles for AMX and may use it. It fails unless the CPU or the emulator executed tile products.
"""
import ctypes
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

# LLVM's features to compile for, with the CPU name haswell. The CPU itself must have those that are not AMX's.
FEATURES = "+avx,+avx2,+fma,+amx-tile,+amx-bf16"


def missing():
    """Return why the emulator cannot be used here, or None."""
    if not (sys.platform == "linux" and platform.machine() == "x86_64"):
        return "the AMX emulator needs Linux on x86-64"
    return None if shutil.which("cc") else "the AMX emulator needs a C compiler named cc"


def load(folder):
    """Build the emulator in a folder, install it, and return it as a library. Raise RuntimeError if that fails."""
    library = Path(folder, "amx_emulator.so")
    build = subprocess.run(["cc", "-O2", "-shared", "-fPIC", Path(__file__).with_suffix(".c"), "-o", library],
                           capture_output=True, text=True, check=False)
    if build.returncode != 0:
        raise RuntimeError(f"the AMX emulator does not compile: {build.stderr}")
    emulator = ctypes.CDLL(library, use_errno=True)
    emulator.amx_emulator_count.restype = ctypes.c_long
    if emulator.amx_emulator_install() != 0:
        raise RuntimeError(f"the AMX emulator cannot handle SIGILL: {os.strerror(ctypes.get_errno())}")
    return emulator


def install(folder):
    """Return the emulator, installed in this process, and make fastbp use AMX; AssertionError if it does not."""
    from fastbp._runtime import cpu
    emulator = load(folder)
    if not cpu.request_amx():
        cpu.request_amx = lambda: True                 # what the kernel would say of a CPU that has it
    assert cpu.has_amx(), f"compiles for {cpu.target()}, expected AMX"
    return emulator


def main(folder, *arguments):
    import pytest

    emulator = install(folder)
    # Without pytest's fault handler, which would take SIGILL for itself.
    status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:faulthandler", *arguments])
    emulated = emulator.amx_emulator_count()
    print(f"tile products emulated: {emulated}")
    return status or int(emulated == 0 and "amx_bf16" not in Path("/proc/cpuinfo").read_text())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
