"""README.md and the pages of .docs: every example runs alone, every command is one, and every link leads somewhere."""
import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from measure import contest

from fastbp.__main__ import COMMANDS, main
from fastbp.cli import plan
from fastbp.kernels import blocking, sizes

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text()
         for path in (ROOT / "README.md", *sorted((ROOT / ".docs").glob("*.md")))}
README = PAGES["README.md"]
LONGEST = 250                   # lines of the README
PATIENCE = 300                  # seconds until a process that hangs is given up

# Runs each file in a fork of a process that has imported fastbp: alone, with modules and names of its own, and without the
# second that an import takes.
RUN = """
import os, runpy, sys
import fastbp
for path in sys.argv[1:]:
    if not os.fork():
        runpy.run_path(path, run_name="__main__")
        sys.exit()
    if os.wait()[1]:
        sys.exit(f"{path} failed")
"""


def blocks(page, language=""):
    """Return the code of a page's blocks of that language."""
    return [code for found, code in re.findall(r"^```(\w*)\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)
            if found == language]


def run(folder, *arguments):
    """Return what Python prints in that folder; it must succeed."""
    answer = subprocess.run([sys.executable, *arguments], cwd=folder, text=True, capture_output=True, timeout=PATIENCE,
                            check=False, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.parametrize("folder, least", [("", 6), (".docs/", 10)])
def test_every_example_runs_alone(folder, least, tmp_path):
    """The README has one for each kind of user; that of the asv suite is a command."""
    paths = []
    for page in PAGES:
        for number, code in enumerate(blocks(page, "python") if page.startswith(folder or "README") else []):
            paths.append(tmp_path / f"{Path(page).stem}_{number}.py")
            paths[-1].write_text(code)
    assert len(paths) >= least
    run(tmp_path, "-W", "error", "-c", RUN, *paths)


def test_the_program_for_dask(tmp_path):
    """Its workers are processes, which import the file that they are started from."""
    program, = blocks(".docs/dask.md", "py")
    (tmp_path / "program.py").write_text(program)
    losses, right = run(tmp_path, "program.py").splitlines()
    first, last = map(float, losses.split())
    assert last < first and float(right) > 0.5
    assert (tmp_path / "training.safetensors").exists()


def commands():
    """Return (page, line) of the commands in all blocks without a language."""
    return [(page, line) for page in PAGES for code in blocks(page) for line in code.splitlines()
            if line.startswith(("python -m fastbp", "scripts/"))]


@pytest.mark.parametrize("page, line", commands())
def test_every_command_is_one(page, line):
    first, *words = shlex.split(re.sub(r"(--\w+) -", r"\1=-", line), comments=True)      # --weights -3,1 as main takes it
    if first.startswith("scripts/"):
        assert os.access(ROOT / first, os.X_OK)
        return
    _, _, name, *options = words
    parser = argparse.ArgumentParser(exit_on_error=False)
    COMMANDS[name].prepare(parser)
    parser.parse_args(options)


def test_the_plan_that_a_page_shows(capsys, monkeypatch):
    shown = next(code for code in blocks(".docs/profiler.md") if code.startswith("2048 rows"))
    machine = blocking.Machine(itemsize=4, lanes=16, step=1, height=6, width=64, edge_width=16, unpacked_height=2,
                               unpacked_width=128, l1=32 << 10, l2=1 << 20, l3=32 << 20, sizes=sizes.DEFAULT.sizes)
    monkeypatch.setattr(plan.sizes, "PRESENT", sizes.DEFAULT)
    monkeypatch.setattr(plan, "_machine", lambda dtype: machine)
    monkeypatch.setattr(plan.cpu, "instruction_set", lambda: "avx512")
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["plan", "2048", "784", "512", "--dtype", "float32", "--threads", "2"]) == 0
    assert capsys.readouterr().out == shown


def test_the_readme_names_every_command_page_and_script():
    for name in COMMANDS:
        assert f"python -m fastbp {name}" in README
    for page in set(PAGES) - {"README.md"}:
        assert f"({page}" in README
    assert "scripts/demo " in README and "scripts/test " in README
    assert len(README.splitlines()) <= LONGEST


def anchors(text):
    """Return the names that GitHub gives the headings of a page."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", [*PAGES, ".github/CONTRIBUTING.md", ".github/CHANGELOG.md"])
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)]*)\)", (ROOT / page).read_text()):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_the_readme_shows_a_table_that_its_script_wrote():
    tables = [re.search("<!-- written by scripts/compare --readme -->\n(.*?)<!-- end -->", page, re.DOTALL)[1]
              for page in (README, PAGES[".docs/benchmarks.md"])]
    machine, table = tables[0].split("\n\n", 1)
    assert tables[1].startswith(machine) and table in tables[1]


def test_a_table_is_written_between_its_marks(tmp_path):
    page, marked = tmp_path / "page.md", "<!-- written by scripts/{} --readme -->\n{}<!-- end -->\n"
    page.write_text(marked.format("compare", "old\n") + marked.format("train", "kept\n"))
    contest.write(page, "compare", "| \\1 |\n")
    assert page.read_text() == marked.format("compare", "| \\1 |\n") + marked.format("train", "kept\n")
    with pytest.raises(SystemExit, match="0 places"):
        contest.write(page, "sweep", "")
