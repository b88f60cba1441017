# Defines root, python and set_up for the other scripts, which source this file with bash.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python

# set_up [EXTRA]: makes .venv if it is missing, and installs the project there, editable, with that extra. It does nothing if it
# did so before and nothing has changed since. pip does not compile modules to bytecode (--no-compile): that would take longer
# than all the rest, and Python compiles each module when it is first imported.
set_up() {
    local target="$root${1:+[$1]}" stamp="$root/.venv/.fastbp-${1:-base}" state
    [[ -x $python && -x $root/.venv/bin/pip ]] || make_venv     # venv installs pip last: without it .venv is not complete
    state=$(
        cksum < "$root/pyproject.toml"
        grep __version__ "$root/fastbp/_version.py"
        "$python" --version
        echo "$root"
    )
    [[ -f $stamp && $(< "$stamp") == "$state" ]] && return
    echo "Installing fastbp${1:+[$1]} in .venv; the first time takes a minute or two" >&2
    "$python" -m pip install --quiet --disable-pip-version-check --no-input --no-compile --editable "$target"
    echo "$state" > "$stamp"
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
