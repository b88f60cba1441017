"""python -m fastbp profile: its tables, pictures, page and files, and the ceilings with which it compares."""
import io
import json
import re
import subprocess

import matplotlib.image
import numpy as np
import psutil
import pytest
from matplotlib.text import Text
from numba import types

import browser
import fastbp
from fastbp import __main__
from fastbp._compile import disk_cache
from fastbp.kernels.gemm import peak
from fastbp.kernels.simd import tile
from fastbp.profiler import machine, measure, networks, page, pictures, tables
from fastbp.profiler.machine import Ceilings
from fastbp.profiler.passes import Kernel
from fastbp.profiler.report import LayerReport, Memory, PassReport, Report, bound
from fastbp.profiler.work import Work

CEILINGS = Ceilings(1e11, 2e10)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(measure, "QUIET", 0)
    monkeypatch.setattr(measure, "ceilings", lambda dtype, threads, anew=False: CEILINGS)


def run(*arguments):
    return __main__.main(["profile", *map(str, arguments)])


def pass_report(name, seconds=0.2):
    kernels = [Kernel("pack weights", 0.1 * seconds, Work(0, 1e6)), Kernel("dweights", 0.6 * seconds, Work(8e9, 1e8)),
               Kernel("mask, dbiases", 0.2 * seconds, Work(1e7, 8e7)), Kernel("threads, copies", 0.1 * seconds, Work(0, 0))]
    return PassReport(name=name, seconds=seconds, work=Work(8.01e9, 1.81e8), kernels=kernels,
                      peers={"numpy": 2 * seconds, "torch": 123.456})


@pytest.fixture
def report():
    """Return the report of a network with many layers, some of the same speed, so that dots cover each other."""
    sizes = [4096, 4096, 4096, 1024, 1024, 10]
    layers = [LayerReport(f"{n} → {m} ReLU", [pass_report("forward"), pass_report("backward", 1234.5)])
              for n, m in zip(sizes, sizes[1:], strict=False)]
    counts = [[1 << 20, 3 << 40]] * len(layers)
    counted, uncounted = Memory(counts, counts, 5 << 30), Memory(None, None, 0)
    memory = {"fastbp": counted, "numpy": counted, "torch": uncounted}
    return Report(sizes=sizes, batch=1_000_000, dtype="float32", precision="bfloat16", threads=16, repeat=5,
                  machine="a machine & its <versions>", ceilings=CEILINGS,
                  seconds={"fastbp": 0.5, "numpy": 1.0, "torch": 4.0}, layers=layers, memory=memory, workspace=1 << 20,
                  streamed=None)


def test_everything_it_writes(tmp_path, capsys):
    files = {name: tmp_path / f"it.{name}" for name in ("json", "plot", "html", "trace")}
    files["plot"] = tmp_path / "it.png"
    options = [word for name, path in files.items() for word in (f"--{name}", path)]
    assert run("--layers", "40,30,10", "--batch", 500, "--threads", 2, "--repeat", 3, *options) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("40-30-10, 500 rows, float32, multiplied in float32, threads: 2\n")
    assert max(map(len, printed.split("numba", 1)[1].splitlines()[1:-4])) <= 100
    found = json.loads(files["json"].read_text())
    assert found["sizes"] == [40, 30, 10]
    assert list(found["seconds"]) == ["fastbp", "numpy"]
    assert [layer["name"] for layer in found["layers"]] == ["40 → 30 ReLU", "30 → 10"]
    for layer in found["layers"]:
        for p in layer["passes"]:
            assert p["seconds"] > 0
            assert p["peers"]["numpy"] > 0
            assert sum(kernel["seconds"] for kernel in p["kernels"]) == pytest.approx(p["seconds"])
    assert found["memory"]["fastbp"]["first"][0][0] >= 500 * 30 * 4
    assert sum(map(sum, found["memory"]["fastbp"]["later"])) < 20_000          # Python's own objects
    assert found["memory"]["numpy"]["later"][0][0] >= 500 * 30 * 4
    assert found["workspace"] > 0
    assert matplotlib.image.imread(files["plot"]).shape[1] > 1000
    assert files["html"].read_text().count("<svg") == 2
    events = json.loads(files["trace"].read_text())["traceEvents"]
    assert sum(event.get("cat") == "pass" for event in events) == 4
    assert all(f"Written: {path}" in printed for path in files.values())


@pytest.mark.filterwarnings("ignore:precision 'bfloat16' is not faster here:RuntimeWarning")
@pytest.mark.parametrize("options", [("--dtype", "float64"), ("--precision", "bfloat16")])
def test_other_types(options, capsys):
    assert run("--layers", "40,30", "--batch", 100, "--repeat", 1, *options) == 0
    assert options[1] in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("options, problem", [
    (("--layers", "40", "--batch", "5"), "argument --layers: expected at least two sizes, got '40'"),
    (("--layers", "40,x", "--batch", "5"), "argument --layers: invalid list of sizes value: '40,x'"),
    (("--layers", "40,0", "--batch", "5"), "argument --layers: expected a whole number from 1, got 0"),
    (("--layers", "4,3", "--batch", "0"), "argument --batch: expected a whole number from 1, got 0"),
    (("--layers", "4,3", "--batch", "5", "--dtype", "float64", "--precision", "bfloat16"), "argument --precision: precision"),
    (("--layers", "4,3", "--batch", "5", "--plot", "no/such/folder.png"), "argument --plot: expected a file in a folder"),
    (("--layers", "4,3", "--batch", "5", "--json", "no/such/folder.json"), "argument --json: expected a file in a folder"),
    (("--layers", "4,3", "--batch", "5", "--html", "."), "argument --html: expected a file in a folder that exists, got '.'"),
    (("--layers", "4,3", "--batch", "5", "--memmap", "no/such"), "argument --memmap: there is no folder 'no/such'"),
    (("--layers", "4,3", "--batch", "5", "--keep"), "argument --keep: needs --memmap"),
])
def test_wrong_options(options, problem, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(*options)
    assert stopped.value.code == 2
    assert problem in capsys.readouterr().err


def test_what_is_not_installed(monkeypatch, capsys):
    monkeypatch.setattr("fastbp.profiler.command.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        run("--layers", "4,3", "--batch", "5")
    assert "install it: pip install 'fastbp[profile]'" in capsys.readouterr().err
    monkeypatch.setattr("fastbp.profiler.command.find_spec", lambda name: name != "torch" or None)
    with pytest.raises(SystemExit):
        run("--layers", "4,3", "--batch", "5", "--torch")
    assert "argument --torch: PyTorch is not installed" in capsys.readouterr().err


def test_a_batch_larger_than_memory_is_refused_before_it_is_made(monkeypatch, capsys):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1 << 20}))
    assert run("--layers", "784,10", "--batch", 100_000) == 1
    assert re.search(r"MemoryError: a step on 100,000 rows takes some [\d.]+ GiB and 0.0 are free: give --memmap DIR",
                     capsys.readouterr().err)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch, capsys):
    path = tmp_path / "it.json"
    path.write_text("old")

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    assert run("--layers", "4,3", "--batch", 5, "--json", path) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_tables_fit_100_columns(report):
    for text in tables.sections(report).values():
        assert max(map(len, text.splitlines())) <= 100
        assert text.isascii()
    step = tables.step(report, 100)
    assert step.splitlines()[0].split() == ["kernel", "ms", "share", "GFLOP/s", "peak", "GB/s", "memory", "FLOP/B", "bound",
                                            "by", "numpy", "torch"]
    row = next(line for line in step.splitlines() if line.startswith("   dweights"))
    assert row.split() == ["dweights", "120.0", "0.0%", "66.7", "67%", "0.8", "4%", "80.0", "arithmetic"]


@pytest.mark.parametrize("width", [44, 50, 79])
def test_a_narrow_table_is_one_below_another(report, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    for text in tables.sections(report).values():
        assert max(map(len, text.splitlines())) <= width
    lines = tables.step(report, width).splitlines()
    headers = [line.split() for line in lines if line.startswith(" kernel ")]
    assert len(headers) > 1 and [word for header in headers for word in header[1:]] == [
        "ms", "share", "GFLOP/s", "peak", "GB/s", "memory", "FLOP/B", "bound", "by", "numpy", "torch"]
    assert sum(line.split()[:1] == ["dweights"] for line in lines) == len(headers) * 2 * len(report.layers)


def test_what_binds():
    assert bound(Work(1e11, 1e9), CEILINGS) == "arithmetic"
    assert bound(Work(1e9, 1e9), CEILINGS) == "memory"
    assert bound(Work(0, 5), CEILINGS) == "memory"
    assert bound(Work(0, 0), CEILINGS) == ""


def test_labels_of_pictures_are_not_on_one_another(report):
    for figure in pictures.figures(report).values():
        figure.savefig(io.BytesIO())            # lays it out
        axes = figure.axes[0]
        names = axes.get_yticklabels() if axes.get_yscale() == "linear" else []        # a scale has labels outside of it, too
        boxes = [Text.get_window_extent(text) for text in (*axes.texts, *names)]
        assert len(boxes) > len(report.layers)
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:i])
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0 and box.y1 <= figure.bbox.height


def test_the_page_is_one_file_and_says_what_it_must(report):
    text = page.page(report)
    assert not re.search(r"<script|<link|src=|@import|url\((?!#)", text)
    assert "a machine &amp; its &lt;versions&gt;" in text


def test_the_page_in_a_browser(report, tmp_path):
    if browser.find() is None:
        pytest.skip("no Chromium here")
    path = tmp_path / "page.html"
    path.write_text(page.page(report), encoding="utf-8")
    shown = browser.dom(path.as_uri())
    assert shown.count("<svg") == 2
    browser.screenshot(path.as_uri(), tmp_path / "page.png", (1200, 1500))
    picture = matplotlib.image.imread(tmp_path / "page.png")
    assert picture.shape[:2] == (1500, 1200)
    assert (picture[..., :3].min(axis=2) < 0.5).mean() > 0.01       # what is drawn


@pytest.mark.parametrize("dtype", [types.float32, types.float64])
def test_the_peak_is_of_as_many_multiply_adds_as_it_says(dtype):
    memory = np.zeros(peak.room(dtype), np.uint8)
    numbers = memory.view(str(dtype))
    results = peak.flops(dtype) // 2 // peak.depth(dtype)
    numbers[:-results] = 1
    assert peak.peak(dtype)(memory, 3) == 0
    assert (numbers[-results:] == 3 * peak.depth(dtype)).all()


def test_the_peak_of_bfloat16_is_of_pairs():
    shape = peak.blocking.tiles(tile.BFLOAT16).full
    assert peak.flops(tile.BFLOAT16) == 2 * 2 * peak.depth(tile.BFLOAT16) * shape.rows * shape.vecs * shape.lanes


def test_ceilings_are_measured_once_and_kept(monkeypatch):
    kept, measured = {}, []
    monkeypatch.setattr(disk_cache, "keep", kept.__setitem__)
    monkeypatch.setattr(disk_cache, "kept", kept.get)

    def measure(command, **options):
        measured.append(command)
        return subprocess.CompletedProcess(command, 0, f"[1e11, {len(measured)}]".encode(), b"")

    monkeypatch.setattr(subprocess, "run", measure)
    assert machine.ceilings("float32", 2) == machine.ceilings("float32", 2) == (1e11, 1)
    assert machine.ceilings("float64", 2) == (1e11, 2)
    assert machine.ceilings("float32", 2, anew=True) == machine.ceilings("float32", 2) == (1e11, 3)


def test_ceilings_that_cannot_be_measured(monkeypatch):
    monkeypatch.setattr(disk_cache, "kept", lambda name: None)
    monkeypatch.setattr(machine, "_CODE", "raise OSError('no such thing')")
    with pytest.raises(RuntimeError, match="peak and bandwidth could not be measured: OSError: no such thing"):
        machine.ceilings("float32", 2)


def test_ceilings_of_this_machine():
    found = machine.ceilings("float32", 1)
    assert found.flops > 1e8 and found.bandwidth > 1e8          # a busy machine may be this slow


def test_slow_ceilings_are_measured_again(monkeypatch):
    asked, peaks = [], iter([3.0, 2.0, 1e30])

    def ceilings(dtype, threads, anew=False):
        asked.append(anew)
        return Ceilings(next(peaks), 7.0)

    monkeypatch.setattr(measure, "ceilings", ceilings)
    report, _ = measure.measure(measure.Plan([40, 30], 100, repeat=1))
    assert report.ceilings == (1e30, 7.0)
    assert asked == [False, True, True]
    peaks = iter([3.0, 2.0, 1.0, 2.0])
    report, _ = measure.measure(measure.Plan([40, 30], 100, repeat=1))
    assert report.ceilings == (3.0, 7.0)


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_peers_take_the_same_step(name, rng):
    pytest.importorskip(name)
    ours = networks.fastbp_layers([20, 30, 10], np.dtype(np.float64), None)
    theirs = getattr(networks, f"{name}_layers")(ours, 1)
    x, dvalues = rng.standard_normal((50, 20)), rng.standard_normal((50, 10))
    measure.step(ours, x, dvalues)
    measure.step(theirs, x, dvalues)
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own.dweights, other.dweights, atol=1e-12)
        np.testing.assert_allclose(own.dbiases.ravel(), np.ravel(other.dbiases), atol=1e-12)
    assert isinstance(ours[0], fastbp.DenseReLU) and not isinstance(ours[1], fastbp.DenseReLU)
