"""A headless Chromium, which shows a page as a person would see it: its HTML after its scripts ran, and a picture of it."""
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

# The names under which a Chromium may be on the PATH.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage",
         "--no-first-run", "--hide-scrollbars")
PAGE_MS = 10_000                # A page's scripts have so many milliseconds of virtual time, which runs ahead while they wait.
TIMEOUT = 120                   # Chromium is killed after this many seconds.
ERROR_PAGE = 'id="main-frame-error"'            # Chromium's page for one that it cannot load has this; its exit status is 0.


def find() -> str | None:
    """Return the path of the browser: the one in FASTBP_CHROMIUM, or the first of NAMES on the PATH, or None."""
    named = os.environ.get("FASTBP_CHROMIUM")
    if named and not shutil.which(named):
        raise RuntimeError(f"FASTBP_CHROMIUM is {named!r}, expected the path of a Chromium")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


def dom(url: str) -> str:
    """Return a page's HTML after its scripts ran. Raise RuntimeError with the browser's messages if there is no page."""
    html = _run(url, "--dump-dom")
    if not html.strip() or ERROR_PAGE in html:
        raise RuntimeError(f"{url} could not be loaded")
    return html


def screenshot(url: str, path: str | Path, size: tuple[int, int] = (1200, 900)) -> None:
    """Write a picture of a page as PNG; size: width and height in pixels. Raise RuntimeError with the browser's messages."""
    path = Path(path).resolve()
    path.unlink(missing_ok=True)
    dom(url)                    # raises for an error page, of which Chromium would make a picture, too
    _run(url, f"--screenshot={path}", f"--window-size={size[0]},{size[1]}")
    if not path.is_file():
        raise RuntimeError(f"no picture of {url} was written to {path}")


def _run(url, *options):
    browser = find()
    if not browser:
        raise RuntimeError(f"no Chromium was found: expected one of {', '.join(NAMES)} on the PATH, or FASTBP_CHROMIUM")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, *QUIET, f"--user-data-dir={profile}", f"--virtual-time-budget={PAGE_MS}", *options, url]
        try:
            done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=TIMEOUT)
        except subprocess.TimeoutExpired as late:
            raise RuntimeError(f"{browser} did not show {url} within {TIMEOUT} s\n{late.stderr or ''}") from None
    if done.returncode:
        raise RuntimeError(f"{browser} ended with {done.returncode} for {url}\n{done.stderr}")
    return done.stdout
