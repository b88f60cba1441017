# Sourced by the other scripts, with bash: defines root, python and set_up, which readies the environment in .venv.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python

# set_up [EXTRA]: installs the project, editable, with that extra. Does nothing if this was done and nothing changed.
# Python compiles the modules that are imported when they are: all of them would take longer than the rest.
set_up() {
    local target="$root${1:+[$1]}" stamp="$root/.venv/.fastbp-${1:-base}" state
    [[ -x $python && -x $root/.venv/bin/pip ]] || make_venv     # pip is what venv installs last
    state=$(
        cksum < "$root/pyproject.toml"
        grep __version__ "$root/fastbp/__init__.py"
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
