"""fastbp.load refuses a damaged or hostile model file with a reason, in little memory, and runs nothing in it.

Files that are made to do harm come first. Then good files of several networks are changed at random: their bytes, sizes,
offsets, shapes and dtypes, and the text of their descriptions. Checkpoints of a training with Dask are changed in the same way.
Each file is loaded in a process that may take little memory. fastbp.load must raise ValueError, or OSError for what cannot be
read, with the path and a reason on one line; or it must return a valid network, which can be saved and loaded again with the
same bits. An .npz file has checksums: if it loads at all, it must be the network that was saved.
"""
import json
import os
import random
import shutil
import stat
import sys
import tempfile
import warnings
from pathlib import Path

import fastbp

from . import child, hostile, model_files, mutations, report

BATCH = 5000                    # A process tries this many cases.
MEMORY = 256 << 20              # Its cases may take this many bytes, beside those that it has taken before them.
CHANGED = "npz", "safetensors"  # Files with these suffixes are changed.


def main(arguments):
    options = report.options(sys.modules[__name__], cases=100_000, checkpoints=20_000).parse_args(arguments)
    crafted, refused = run("crafted"), run("saving")
    faults, loaded = crafted["faults"] + refused["faults"], {}
    for what, cases in ("changed", options.cases), ("changed_checkpoints", options.checkpoints):
        for first in range(0, cases, BATCH):
            done = run(what, options.seed, first, min(cases, first + BATCH))
            faults += done["faults"]
            loaded[what] = loaded.get(what, 0) + done.get("loaded", 0)
            print(f"seed {options.seed}, {what}: {min(cases, first + BATCH):,} files, {len(faults):,} faults", flush=True)
    return report.close(faults, hostile_files_and_paths=crafted.get("files", 0), paths_not_to_save_to=refused.get("files", 0),
                        changed_files=options.cases, of_them_loaded_as_valid_networks=loaded.get("changed", 0),
                        changed_checkpoints=options.checkpoints,
                        of_them_loaded_as_valid_trainings=loaded.get("changed_checkpoints", 0))


def run(what, *arguments, patience=child.PATIENCE):
    """Call the function named `what` with a folder and the arguments, in a process of its own; return what it returned.

    A file that is left in the folder is a fault.
    """
    code = f"import sys; from checks import loading; loading.in_child(loading.{what}, *sys.argv[1:])"
    with tempfile.TemporaryDirectory(prefix="fastbp-loading-") as folder:
        status, output, errors = child.run(code, folder, *arguments, patience=patience)
        if status != 0:
            ended = "was killed as it hung" if status is None else f"ended with {status}"
            return {"faults": [f"{what}{arguments} {ended} in {output.splitlines()[-1:]}: {errors[-2000:]}"]}
        done = json.loads(output.splitlines()[-1])
        done["faults"] += [f"{what}{arguments} left {name}" for name in os.listdir(folder)]
        return done


def in_child(what, folder, *arguments):
    """Call what(folder, *arguments) in a process of its own, and print what it returned as JSON."""
    warnings.simplefilter("ignore")             # warnings that bfloat16 is not faster here, and NumPy's about headers
    os.chdir(folder)                            # relative names in a file would lead there
    print("\n" + json.dumps(what(Path(folder), *map(int, arguments))))


def _limit_memory():
    """Limit the memory of this process to what it has now, and MEMORY bytes more."""
    import safetensors.numpy  # noqa: F401  (imported here so that its own memory is not counted)
    try:
        import resource
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return                                  # not Linux: a file that takes all memory of the machine is noticed anyway
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


# ---- faults


def fault(path, good=None):
    """Load a file; return (the fault of load, or None; the error that it raised, or None).

    good: described() of the network that the file must contain if it can be loaded.
    """
    try:
        network = fastbp.load(path)
    except Exception as error:
        return _fault_of_error(error, path), error
    return _fault_of_network(network, path, good), None


def _fault_of_error(error, path):
    """Return what is wrong with an error that load has raised, or None."""
    said = str(error)
    if not isinstance(error, ValueError | OSError):
        return f"{type(error).__name__}: {said[:300]}"
    if str(path) not in said or len(said) < len(str(path)) + 10:
        return f"{type(error).__name__} without the path or a reason: {said[:300]!r}"
    if not said.isprintable() or len(said) > len(str(path)) + 1200:
        return f"a reason that steers a terminal or has no end: {said[:300]!r}"
    return None


def _fault_of_network(network, path, good):
    """Return what is wrong with a network that load has returned, or None."""
    try:
        again = path.with_stem("again")
        network.save(again)
        same = described(fastbp.load(again)) == described(network)
        again.unlink()
    except BaseException as error:
        return f"loaded as what cannot be saved and loaded again: {type(error).__name__}: {str(error)[:300]}"
    if not same:
        return "loaded as what is another network when it is saved and loaded again"
    return None if good is None or described(network) == good else "loaded as another network than the one that was saved"


def described(network):
    """Return all that makes up a network, to be compared."""
    layers = [{name: value for name, value in vars(layer).items() if name in ("rate", "_kind", "precision", "need_dinputs")}
              for layer in network.layers]
    arrays = [(a.dtype, a.shape, a.tobytes()) for a in network.parameters()]
    return str(layers), arrays, type(network.loss), network.l2


# ---- the cases


def crafted(folder):
    """Load each hostile file; return {"faults": …, "files": how many there were}."""
    files = hostile.files()
    _limit_memory()
    faults = []
    for what, suffix, content, said in files:
        (path := folder / f"net.{suffix}").write_bytes(content)
        print(what, flush=True)
        faults += _refused(what, path, ValueError, said)
        path.unlink()
    n = len(files)
    if os.name == "posix":
        for what, path, error, said in hostile.paths(folder):
            print(what, flush=True)
            faults += _refused(what, path, error, said)
            n += 1
    _clear(folder)
    return {"faults": faults, "files": n}


def _refused(what, path, expected, said):
    """Return a fault unless load raises that error with that text in it."""
    wrong, error = fault(path)
    if wrong or error is None:
        return [f"{what}, {path.suffix}: {wrong or 'was loaded'}"]
    if isinstance(error, expected) and said in str(error):
        return []
    return [f"{what}, {path.suffix}: expected {expected.__name__} with {said!r}, was {type(error).__name__}: {error}"]


def _clear(folder):
    """Delete what the cases made, and nothing else in the folder."""
    for path in folder.iterdir():
        if path.suffix in (".npz", ".safetensors") or path.name == "the pipe":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def saving(folder):
    """Save to what is no regular file, which must stay as it is; return {"faults": …, "files": how many there were}."""
    network, faults, n = model_files.networks()[0], [], 0
    for what, path, _, _ in hostile.paths(folder) if os.name == "posix" else ():
        if what in ("an endless device", "a link to a folder"):
            continue                                    # these belong to the machine: a fault would outlast the check
        print(what, flush=True)
        before = _state(folder)
        n += 1
        try:
            network.save(path)
            if what != "a dangling link":
                faults.append(f"saving to {what}: it was replaced")
            else:
                (folder / "nowhere.npz").unlink()
        except OSError as error:
            if str(path.name) not in str(error) and "the pipe" not in str(error):
                faults.append(f"saving to {what}: an error without the path: {error}")
        if _state(folder) != before:
            faults.append(f"saving to {what}: the folder is another")
    _clear(folder)
    return {"faults": faults, "files": n}


def _state(folder):
    """Return the name, kind and inode of each thing in a folder."""
    return sorted((path.name, stat.S_IFMT(path.lstat().st_mode), path.lstat().st_ino) for path in folder.iterdir())


def changed(folder, seed, first, last):
    """Load changed files, cases `first` to `last` - 1; return {"faults": …, "loaded": how many gave a network}."""
    bases = [(suffix, network, *model_files.parts(network, folder))
             for suffix in CHANGED for network in model_files.networks()]
    _limit_memory()
    faults, loaded = [], 0
    for case in range(first, last):
        draw = random.Random(f"{seed} {case}")
        suffix, network, arrays, about = draw.choice(bases)
        kind = draw.choice(mutations.KINDS)
        path = folder / f"net.{suffix}"
        print(f"case {case}", flush=case % 100 == 0)
        path.write_bytes(content := kind(draw, suffix, arrays, about))
        wrong, error = fault(path, described(network) if suffix == "npz" and kind is mutations.changed_bytes else None)
        if path.read_bytes() != content:
            wrong = "the file was changed"
        if wrong:
            faults.append(f"case {case} of seed {seed}, {suffix}, {kind.__name__}: {wrong}")
        loaded += error is None
        path.unlink()
    return {"faults": faults, "loaded": loaded}


def changed_checkpoints(folder, seed, first, last):
    """Load changed checkpoints of a training with Dask. Arguments and result as for changed()."""
    from fastbp.dask import checkpoint

    problem, state = model_files.training()
    arrays, about = model_files.checkpoint(problem, state)
    _limit_memory()
    faults, loaded = [], 0
    for case in range(first, last):
        draw = random.Random(f"checkpoint {seed} {case}")
        suffix, kind = draw.choice(CHANGED), draw.choice(mutations.KINDS)
        path = folder / f"training.{suffix}"
        print(f"case {case}", flush=case % 100 == 0)
        path.write_bytes(kind(draw, suffix, arrays, about))
        try:
            found = checkpoint.load(path, problem, state)
            wrong = model_files.fault_of_checkpoint(problem, state, *found)
            loaded += 1
        except Exception as error:
            wrong = _fault_of_error(error, path)
        if wrong:
            faults.append(f"checkpoint {case} of seed {seed}, {suffix}, {kind.__name__}: {wrong}")
        path.unlink()
    return {"faults": faults, "loaded": loaded}
