"""The benchmarks of asv_benchmarks/, run with airspeed velocity. Its environment, results and site are in .asv/.

quick         runs every benchmark once, on the files as they are, in .venv: under three minutes
compare BASE  compares the files as they are with a commit: benchmarks that take over 15 % longer in three measurements of
              three are named, and the exit status is 1
history N     measures the tracked numbers of the last N commits that changed the package, except those measured before
site          publishes what history has measured, and looks at it in a headless Chromium
check         is for continuous integration: quick, but with an error if anything is skipped; then the site

The tracked numbers are compared and followed over time: each is the ratio of fastbp's time to NumPy's in one process. A machine
whose clock changes while it runs changes both times.
"""
import argparse
import functools
import http.server
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from asv.commands.compare import unroll_result
from asv.results import iter_results
from asv.util import load_json

# The folders of the repository and of the benchmarks.
ROOT = Path(__file__).parents[2]
SUITE = ROOT / "asv_benchmarks"
FACTOR = 1.15                   # A benchmark is slower if it takes over this many times as long.
MEASUREMENTS = 3                # A benchmark is reported if all of this many measurements find it slower.
# The chart that is looked at on the site.
CHART = "against_numpy.TimeOverNumPys.track_forward?x-axis-scale=even&p-threads=1"
# The files that asv's page loads from other sites, and their paths in the npm packages of asv_benchmarks/site/.
LIBRARIES = {
    "jquery-3.3.1.min.js": "jquery/dist/jquery.min.js",
    "jquery.flot.min.js": "flot/jquery.flot.js",
    "jquery.flot.time.min.js": "flot/jquery.flot.time.js",
    "jquery.flot.selection.min.js": "flot/jquery.flot.selection.js",
    "jquery.flot.categories.min.js": "flot/jquery.flot.categories.js",
    "jquery.flot.orderBars.js": "flot-orderbars/js/jquery.flot.orderBars.js",
    "stupidtable.min.js": "stupid-table-plugin/stupidtable.min.js",
    "md5.min.js": "blueimp-md5/js/md5.min.js",
    "bootstrap.min.js": "bootstrap/dist/js/bootstrap.min.js",
    "bootstrap.min.css": "bootstrap/dist/css/bootstrap.min.css",
}


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("quick")
    commands.add_parser("compare").add_argument("base", metavar="BASE", help="a commit, branch or tag")
    commands.add_parser("history").add_argument("count", metavar="N", type=positive)
    commands.add_parser("site")
    commands.add_parser("check")
    chosen = vars(parser.parse_args())
    command = chosen.pop("command")
    if command is None:
        parser.print_help()
        return 2
    return {"quick": quick, "compare": compare, "history": history, "site": site, "check": check}[command](**chosen)


def positive(text):
    """Return an argument of the command line as a number of at least 1. Raise ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number of at least 1")
    return int(text)


def fail(message):
    """End the command with a message and exit status 1."""
    sys.exit(f"scripts/bench: {message}")


# ---- the commands: each returns the exit status


def quick():
    with tempfile.TemporaryDirectory() as folder:
        return one_round(Asv(folder), turns=3)


def check():
    with tempfile.TemporaryDirectory() as folder:
        asv = Asv(folder)
        if asv("check", "--python=same") or one_round(asv, turns=1):
            fail("a benchmark failed")
        values = asv.values(commit("HEAD"))
        skipped = [name for name, value in values.items() if math.isnan(value)]
        if skipped or not values:
            fail(f"expected a number of every benchmark on this commit, there is none of {', '.join(skipped) or 'any'}")
        publish(asv)
    return 0


def compare(base):
    base = commit(base)
    head = files_as_they_are()
    if head == base:
        head = made_commit("The same again, for a comparison of a commit with itself", head)
    only, suspects = ["against_numpy"], None
    for measurement in range(1, MEASUREMENTS + 1):
        with tempfile.TemporaryDirectory() as folder:
            asv = Asv(folder)
            asv("continuous", f"--factor={FACTOR}", *(f"--bench={pattern}" for pattern in only), base, head)
            old, new = asv.values(base), asv.values(head)
        names = suspects or new
        if not any(old.get(name, 0) > 0 for name in names):
            fail(f"nothing could be measured of {base[:8]}: asv's report above says why")
        missing = [name for name in names if not new.get(name, 0) > 0]
        if missing or not names:
            fail(f"nothing could be measured of the files as they are for {', '.join(missing) or 'any benchmark'}")
        ratios = {name: new[name] / old[name] for name in names if old.get(name, 0) > 0}
        suspects = [name for name in names if ratios.get(name, 0) > FACTOR]
        if not suspects:
            break
        only = [f"^{re.escape(name)}$" for name in suspects]
        print(f"\nMeasurement {measurement} of {MEASUREMENTS}: {len(suspects)} of {len(names)} over {FACTOR} times as long",
              flush=True)
    print()
    for name in suspects:
        print(f"Slower than {base[:8]}: {name} takes {ratios[name]:.2f} times as long")
    if not suspects:
        print(f"Nothing is slower than {base[:8]} by a factor of {FACTOR} in {MEASUREMENTS} measurements of {MEASUREMENTS}")
    return bool(suspects)


def history(count):
    commits = git("rev-list", "--first-parent", f"--max-count={count}", "HEAD", "--", "fastbp")
    asv = Asv()
    # asv ends with 2 if a commit cannot be built or lacks something: an old one may.
    asv("run", "--skip-existing-successful", "--bench=track_", "HASHFILE:-", input=commits)
    measured = [name for name in commits.split() if any(value > 0 for value in asv.values(name).values())]
    print(f"\n{len(measured)} of {len(commits.split())} commits are measured; scripts/bench site shows them.")
    return 0 if measured else 1


def site():
    asv = Asv()
    if not any(Path(asv.results).glob("*/*-*.json")):
        fail("there are no results yet, expected those of scripts/bench history N")
    publish(asv)
    print(f"To see the site: {sys.executable} -m http.server --directory {asv.html}")
    return 0


# ---- asv


class Asv:
    """A caller of asv with the suite's configuration. Results and site are in two folders within the given one."""

    def __init__(self, folder=ROOT / ".asv"):
        self.results, self.html = f"{folder}/results", f"{folder}/html"
        configuration = load_json(SUITE / "asv.conf.json", js_comments=True)
        for key in ("repo", "benchmark_dir", "env_dir"):
            configuration[key] = str((SUITE / configuration[key]).resolve())
        self._configuration = Path(folder, "asv.conf.json")
        self._configuration.parent.mkdir(parents=True, exist_ok=True)
        self._configuration.write_text(json.dumps(configuration | {"results_dir": self.results, "html_dir": self.html}))
        self._run("machine", "--yes", stdout=subprocess.DEVNULL)

    def __call__(self, command, *arguments, **options):
        """Run a command of asv and return its exit status. options: those of subprocess.run."""
        return self._run(command, *arguments, **options).returncode

    def _run(self, command, *arguments, **options):
        sys.stdout.flush()
        return subprocess.run([sys.executable, "-m", "asv", command, "--config", self._configuration, *arguments],
                              cwd=ROOT, text=True, **options)

    def values(self, commit):
        """Return {benchmark with parameters: number} of a commit; the number is NaN where it was skipped or failed."""
        values = {}
        for result in iter_results(self.results):
            if result.commit_hash == commit:
                for key in result.get_all_result_keys():
                    parameters = result.get_result_params(key)
                    pairs = unroll_result(key, parameters, result.get_result_value(key, parameters))
                    values |= {name: math.nan if value is None else value for name, value in pairs}
        return values


def one_round(asv, turns):
    """Run every benchmark once, in this environment; return asv's exit status."""
    return asv("run", "--quick", "--python=same", "--show-stderr", f"--set-commit-hash={commit('HEAD')}",
               env=os.environ | {"FASTBP_BENCH_TURNS": str(turns)})


# ---- git


def git(*arguments):
    """Return the output of a git command."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, text=True, capture_output=True)
    if done.returncode:
        fail(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def commit(name):
    """Return the hash of the commit with that name."""
    done = subprocess.run(["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"],
                          cwd=ROOT, text=True, capture_output=True)
    if done.returncode:
        fail(f"{name!r} is not a commit of this repository, expected the name or hash of one")
    return done.stdout.strip()


def files_as_they_are():
    """Return HEAD's hash, or, if tracked files have changed since, that of a commit with them, which is on no branch."""
    return git("stash", "create") or commit("HEAD")


def made_commit(message, parent):
    """Make a commit with the files of its parent, on no branch, and return its hash."""
    return git("-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit-tree", f"{parent}^{{tree}}",
               "-p", parent, "-m", message)


# ---- the site


def publish(asv):
    """Make the site, and check that it shows a chart."""
    if asv("publish"):
        fail("asv could not publish the results")
    bring_libraries(Path(asv.html))
    look_at(Path(asv.html))


def bring_libraries(html):
    """Put the files that the page loads from other sites beside it, so that it works without these sites."""
    if not shutil.which("npm"):
        print("npm is not installed: the site will load its libraries from other sites")
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in ("package.json", "package-lock.json"):          # the lock file has digests of the packages
            shutil.copy(SUITE / "site" / name, folder)
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], cwd=folder, check=True)
        for path in LIBRARIES.values():
            target = html / "libraries" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder, "node_modules", path), target)
    page = html / "index.html"
    text, count = re.subn(r'(src|href)="https://[^"]*/([^"/]+)" integrity=[^>]*>',
                          lambda link: f'{link[1]}="libraries/{LIBRARIES[link[2]]}">', page.read_text())
    if count != len(LIBRARIES):
        fail(f"asv's page loads {count} files from other sites, expected {len(LIBRARIES)}: see LIBRARIES in {__file__}")
    page.write_text(text)


def look_at(html):
    """Open the page of a chart in a browser, and fail if there is none on it. Without a Chromium, print a message instead."""
    sys.path.insert(0, str(ROOT / "tests"))
    import browser
    if not browser.find():
        print("The site was not looked at: no Chromium was found (on Debian and Ubuntu: apt install chromium)")
        return
    handler = functools.partial(Quiet, directory=html)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/#{CHART}"
        page, picture = browser.dom(url), html.parent / "site.png"
        labels = re.findall(r'class="flot-tick-label[^>]*>([^<]+)<', page)
        if "<canvas" not in page or not labels:
            fail(f"there is no chart on {url}, expected a canvas and labels of axes")
        browser.screenshot(url, picture)
        server.shutdown()
    print(f"A chart is on the page, with {len(labels)} labels on its axes; a picture of it: {picture}")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A handler of requests that prints no log."""

    def log_message(self, *arguments):
        pass


if __name__ == "__main__":
    sys.exit(main())
