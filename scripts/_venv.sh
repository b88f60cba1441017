# Defines root, python, set_up and compile_all for the other scripts, which source this file with bash.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python

# set_up [EXTRA]: makes .venv if it is missing, and installs the project there, editable, with that extra. It does nothing if it
# did so before, for this extra or for `test`, which has all others, and nothing has changed since. pip does not compile modules
# to bytecode (--no-compile): that would take longer than all the rest, and Python compiles each module when it imports it.
set_up() {
    local target="$root${1:+[$1]}" stamp="$root/.venv/.fastbp-${1:-base}" test="$root/.venv/.fastbp-test" state
    [[ -x $python && -x $root/.venv/bin/pip ]] || make_venv     # venv installs pip last: without it .venv is not complete
    state=$(
        cksum < "$root/pyproject.toml"
        grep __version__ "$root/fastbp/_version.py"
        "$python" --version
        echo "$root"
    )
    [[ -f $stamp && $(< "$stamp") == "$state" || -f $test && $(< "$test") == "$state" ]] && return
    echo "Installing fastbp${1:+[$1]} in .venv; the first time takes a minute or two" >&2
    "$python" -m pip install --quiet --disable-pip-version-check --no-input --no-compile --editable "$target"
    echo "$state" > "$stamp"
}

# compile_all: compiles what fastbp.warmup compiles, and the kernels for bfloat16. Otherwise processes that run at the same time
# would each compile them.
compile_all() {
    "$python" -c 'import fastbp; from fastbp._compile import link; fastbp.warmup(); link.bind(*link._units.values())'
}

make_venv() {
    local base=${PYTHON:-python3}
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "Python 3.10 or later is needed and '$base' is not one. Name another: PYTHON=python3.12 $0"
    "$base" -c 'import ensurepip, venv' ||
        fail "'$base' cannot make environments. On Debian and Ubuntu: apt install python3-venv"
    echo "Making .venv with $("$base" --version)" >&2
    "$base" -m venv --clear "$root/.venv"
}

fail() {
    echo "$*" >&2
    exit 1
}
