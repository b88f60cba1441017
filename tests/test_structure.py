"""The structure of the package: no circle of imports, none from a floor above, records by field name, a map of all files."""
import ast
import re
from functools import cache
from pathlib import Path

import fastbp

PACKAGE = Path(fastbp.__file__).parent
ROOT = PACKAGE.parent
PAGE = ROOT / ".github" / "CONTRIBUTING.md"

# The floors of the package, the lowest first. A name stands for a module and for all modules in it. Of several names that fit a
# module the longest counts; "" is the package's own __init__. A module may import from the floors below its own, and on its own
# floor from modules whose names begin with the same part.
FLOORS = (
    ("_version", "_files"),
    ("_runtime",),
    ("_compile",),
    ("kernels.simd",),
    ("kernels.schedule",),
    ("kernels.matrix", "kernels.blocking", "kernels.sizes"),
    ("kernels.elementwise",),
    ("kernels.gemm",),
    ("kernels.dense",),
    ("kernels.train",),
    ("kernels.infer",),
    ("kernels",),                               # entry and reference
    ("_arrays",),                               # kernels know addresses, and no arrays
    ("functional",),
    ("losses", "optimizers", "_njit"),
    ("_training",),
    ("inference",),
    ("dask.arrays",),                           # a layer hands Dask arrays to it
    ("layers", "frozen"),
    ("_training.loop", "_training.gradient_check"),     # what a network calls to train and to be checked
    ("_files.network_format",),                 # what it calls to be saved
    ("network",),
    ("profiler", "cli", "sklearn", "nnfs", "dask"),
    ("",),
    ("demo", "cli.explain"),                    # programs of a user of fastbp
    ("profiler.networks",),                     # the same for `profile`, which compares networks with other packages
    ("profiler.measure", "profiler.stream", "profiler.command"),
    ("__main__",),
    ("_before",),                               # names for pickles and for functions in users' caches alone
)

# So many values of a named tuple may be given by position; of a record of kernels none, unless it has no more fields than that.
FEW = 3


@cache
def modules():
    """Return {name: syntax tree} of all modules, by their names in the package; "" is the package's own __init__."""
    return {name_of(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def name_of(path):
    """Return the name of a file's module in the package."""
    *folders, file = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(folders if file == "__init__" else [*folders, file])


# ---- imports


def imported(name, tree):
    """Yield (local name, what it stands for) of all imports from the package in a module, those inside functions included."""
    is_package = (PACKAGE / name.replace(".", "/")).is_dir()
    package = f"fastbp.{name}".rstrip(".").split(".")[:None if is_package else -1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [(alias.asname or alias.name.partition(".")[0], alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[:len(package) + 1 - node.level]] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            found = [(alias.asname or alias.name, f"{base}.{alias.name}") for alias in node.names]
        else:
            continue
        yield from ((local, full.partition(".")[2]) for local, full in found if full.partition(".")[0] == "fastbp")


@cache
def graph():
    """Return {module: the modules that it imports}. A package is one of them where something in its __init__ is imported."""
    def module_of(target):
        return target if target in modules() else target.rpartition(".")[0]

    return {name: {module_of(target) for _, target in imported(name, tree)} for name, tree in modules().items()}


def test_no_circle_of_imports():
    above, done = [], set()

    def visit(name):
        assert name not in above, f"imports go in a circle: {' → '.join([*above[above.index(name):], name])}"
        if name not in done:
            above.append(name)
            for other in sorted(graph()[name]):
                visit(other)
            done.add(above.pop())

    for name in graph():
        visit(name)


def floor_of(name):
    """Return (number of a module's floor, the name there that it belongs to)."""
    places = {prefix: number for number, floor in enumerate(FLOORS) for prefix in floor}
    found = max((prefix for prefix in places if name == prefix or prefix and name.startswith(f"{prefix}.")), key=len)
    return places[found], found


def test_nothing_is_imported_from_a_floor_above():
    wrong = []
    for name, others in graph().items():
        floor, prefix = floor_of(name)
        for other in others:
            floor_of_other, other_prefix = floor_of(other)
            is_beside = floor_of_other == floor and other_prefix.partition(".")[0] != prefix.partition(".")[0]
            if floor_of_other > floor or is_beside:
                wrong.append(f"{name} (floor {floor}) imports {other} (floor {floor_of_other})")
    assert not wrong, "\n".join(wrong)


def test_every_name_of_a_floor_is_that_of_a_module():
    gone = {prefix for floor in FLOORS for prefix in floor} - {floor_of(name)[1] for name in modules()}
    assert not gone


# ---- records


@cache
def records():
    """Return {module.class: fields} of all named tuples."""
    return {f"{name}.{node.name}".lstrip("."): [line.target.id for line in node.body if isinstance(line, ast.AnnAssign)]
            for name, tree in modules().items() for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and "NamedTuple" in map(ast.unparse, node.bases)}


@cache
def names_in(name):
    """Return {local name: what it stands for} of a module: imports, and classes and functions of its own."""
    tree = modules()[name]
    own = {node.name: f"{name}.{node.name}".lstrip(".") for node in tree.body
           if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    return dict(imported(name, tree)) | own


def meant(name, expression):
    """Return what an expression stands for in a module, such as kernels.matrix.Matrix for Matrix or matrix.Matrix; or ""."""
    parts = []
    while isinstance(expression, ast.Attribute):
        parts.append(expression.attr)
        expression = expression.value
    known = names_in(name).get(expression.id) if isinstance(expression, ast.Name) else None
    return ".".join([known, *reversed(parts)]) if known else ""


def calls(name):
    """Yield (call, what is called) of the calls in a module."""
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Call):
            yield node, meant(name, node.func)


def faults(found):
    """Return lines that say where in the package the nodes (module, node) are."""
    return "\n".join(f"{name or '__init__'}, line {node.lineno}: {ast.unparse(node)}" for name, node in found)


def test_records_are_made_by_field_name():
    wrong = []
    for name in modules():
        for node, target in calls(name):
            if node.args and len(records().get(target, ())) > FEW:
                given = len(node.args) if not any(isinstance(value, ast.Starred) for value in node.args) else FEW + 1
                if given > (0 if target.startswith("kernels.") else FEW):
                    wrong.append((name, node))
    assert not wrong, faults(wrong)


KERNELS = [name for name in modules() if name.startswith("kernels.")]
MAKERS = {"kernels.schedule.records.read", "kernels.schedule.records.replace"}


@cache
def makers():
    """Return what returns a record when it is called: classes of records, read and replace, and functions that return these."""
    found, before = MAKERS | records().keys(), None
    while found != before:
        before = set(found)
        for name in KERNELS:
            for function in modules()[name].body:
                if isinstance(function, ast.FunctionDef):
                    values = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
                    if any(isinstance(value, ast.Call) and meant(name, value.func) in found for value in values):
                        found.add(f"{name}.{function.name}")
    return found


def is_made(name, value):
    """Return whether an expression is a call of one of makers()."""
    return isinstance(value, ast.Call) and meant(name, value.func) in makers()


def names_of_records(name, function):
    """Return the names in a function that stand for records: they were made by one of makers(), or have a record's field."""
    fields = {field for kind, names in records().items() if kind.startswith("kernels.") for field in names}
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and is_made(name, node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in fields:
            found.add(node.value.id)
    return found - names_in(name).keys()


# Functions that go over what they are given.
ITERATING = "list", "tuple", "zip", "sorted", "iter", "enumerate"


def taken_apart(name, function):
    """Yield the places in a function where a record is indexed, sliced, starred, unpacked or gone over."""
    held = names_of_records(name, function)

    def is_record(node):
        node = node.value if isinstance(node, ast.NamedExpr) else node
        return isinstance(node, ast.Name) and node.id in held or is_made(name, node)

    for node in ast.walk(function):
        if isinstance(node, ast.Subscript | ast.Starred) and is_record(node.value):
            yield node
        elif isinstance(node, ast.For | ast.comprehension) and is_record(node.iter):
            yield node.iter
        elif isinstance(node, ast.Assign) and is_record(node.value):
            yield from (target for target in node.targets if isinstance(target, ast.Tuple | ast.List))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ITERATING:
            yield from filter(is_record, node.args)
        elif isinstance(node, ast.Attribute) and node.attr == "_make" and meant(name, node.value) in records():
            yield node


def test_no_record_is_taken_apart_by_position():
    wrong = [(name, node) for name in KERNELS for part in modules()[name].body if not isinstance(part, ast.ClassDef)
             for node in taken_apart(name, part)]
    assert not wrong, faults(wrong)


ACCESSES = {f"kernels.{function}" for function in (
    "schedule.records.read", "schedule.records.write", "schedule.records.put_word", "schedule.atomic.load",
    "schedule.atomic.exchange", "schedule.atomic.fetch_add", "simd.arithmetic.number")}


def test_no_offset_in_memory_is_a_number():
    """An offset has a name, or is a multiple: `read(table + k * ARRAY_BYTES, Array)`."""
    wrong = [(name, node) for name in KERNELS for node, target in calls(name) if target in ACCESSES
             for part in ast.walk(node.args[0]) if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Add)
             and any(isinstance(side, ast.Constant) for side in (part.left, part.right))]
    assert not wrong, faults(wrong)


# ---- names of files


def test_no_file_is_named_that_is_gone():
    """In comments, docstrings and pages: by its name, or by the end of its path."""
    paths = {f"/{path.relative_to(ROOT).as_posix()}" for path in (*PACKAGE.rglob("*.py"), *ROOT.glob("tests/*.py"),
                                                                  *ROOT.glob("scripts/*/*.py"))}
    pages = ROOT / "README.md", *ROOT.glob(".docs/*.md"), PAGE
    wrong = [f"{path.relative_to(ROOT)}, line {number}: {name}" for path in (*PACKAGE.rglob("*.py"), *pages)
             for number, line in enumerate(path.read_text().splitlines(), 1)
             for name in re.findall(r"[\w/]*\w\.py\b", line)
             if not any(there.endswith(f"/{name.lstrip('/')}") for there in paths)]
    assert not wrong, "\n".join(wrong)


def test_the_map_names_every_file_and_no_other():
    """A line of the map is - `file`: what it holds; it stands below a heading with the name of its folder."""
    found, folder = [], None
    for line in PAGE.read_text().splitlines():
        if heading := re.match(r"#+ (?:`(fastbp/.*)`)?", line):
            folder = heading[1]
        elif folder and (entry := re.match(r"- `([^`]+)`: .", line)):
            found.append(folder + entry[1])
    files = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*")
             if path.is_file() and "__pycache__" not in path.parts}
    assert len(found) == len(set(found)), "a file has two lines"
    assert not files - set(found), f"these have no line: {sorted(files - set(found))}"
    assert not set(found) - files, f"these are gone: {sorted(set(found) - files)}"


def test_the_walks_name_functions_that_are_there():
    """A row of a walk is | `file` | `function`, `function` | what happens |."""
    rows = re.findall(r"^\| `(\S+)\.py` \| (`.*`) \| .* \|$", PAGE.read_text(), re.MULTILINE)
    wrong = []
    for file, functions in rows:
        tree = modules().get(file.replace("/", "."), ast.Module([], []))
        there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        there |= {target.id for node in tree.body if isinstance(node, ast.Assign)
                  for target in node.targets if isinstance(target, ast.Name)}
        parts = {part for function in re.findall("`([^`]+)`", functions) for part in function.split(".")}
        wrong += [f"{file}.py has no {part}" for part in sorted(parts - there)]
    assert len(rows) > 40 and not wrong, "\n".join(wrong)
