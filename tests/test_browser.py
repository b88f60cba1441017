"""The headless browser with which other tests and scripts/bench look at pages."""
import pytest

import browser

needs_browser = pytest.mark.skipif(not browser.find(), reason="no Chromium (on Debian and Ubuntu: apt install chromium)")


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.html"
    path.write_text('<p id="p">before</p><script>setTimeout(() => { document.getElementById("p").textContent = "after" }, 2000)'
                    "</script>")
    return path.as_uri()


@needs_browser
def test_scripts_have_run(page):
    assert '<p id="p">after</p>' in browser.dom(page)


@needs_browser
def test_a_picture_of_that_size(page, tmp_path):
    browser.screenshot(page, tmp_path / "page.png", size=(400, 300))
    header = (tmp_path / "page.png").read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert [int.from_bytes(header[i:i + 4], "big") for i in (16, 20)] == [400, 300]


@needs_browser
def test_a_page_that_is_not_there_is_an_error(tmp_path):
    url = (tmp_path / "none.html").as_uri()
    with pytest.raises(RuntimeError, match="none.html could not be loaded"):
        browser.dom(url)
    with pytest.raises(RuntimeError, match="none.html could not be loaded"):
        browser.screenshot(url, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_without_a_browser_the_error_says_what_was_looked_for(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("FASTBP_CHROMIUM", raising=False)
    assert browser.find() is None
    with pytest.raises(RuntimeError, match="expected one of chromium, .*FASTBP_CHROMIUM"):
        browser.dom("about:blank")


def test_a_named_browser_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setenv("FASTBP_CHROMIUM", "/nowhere/chromium")
    with pytest.raises(RuntimeError, match="FASTBP_CHROMIUM is '/nowhere/chromium', expected the path"):
        browser.find()
