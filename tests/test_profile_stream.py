"""A batch in files: same results in blocks, existing files stay, failures leave nothing behind, and it takes little memory."""
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastbp.kernels.schedule.trace import BACKWARD, FORWARD, Call
from fastbp.profiler import disk, measure, stream, work
from fastbp.profiler.machine import Ceilings

SIZES, BATCH, BLOCK = [5, 7, 3], 50, 16             # blocks of 16, 16, 16 and 2 rows
NAMES = {"inputs.npy", "dvalues.npy", "output.npy", "dinputs.npy"}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status is there on Linux only")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small blocks, and nothing that has to be measured in another process or on the disk."""
    monkeypatch.setattr(stream, "BLOCK_ROWS", BLOCK * (len(SIZES) - 1))
    monkeypatch.setattr(measure, "ceilings", lambda *arguments, **options: Ceilings(1e9, 1e9))
    monkeypatch.setattr(disk, "rates", lambda folder: (2e9, 1e9))
    monkeypatch.setattr(stream, "_compile", lambda plan, rows: None)
    monkeypatch.setattr(measure, "QUIET", 0)


@pytest.fixture
def plan(monkeypatch, rng, dtype):
    """With weights that are whole numbers, so that sums of whole numbers are exact in any order."""
    plan = measure.Plan(SIZES, BATCH, dtype.name, repeat=2)
    layers = plan.own_layers()
    for layer in layers:
        layer.weights, layer.biases = whole(rng, layer.weights.shape, dtype), whole(rng, layer.biases.shape, dtype)
    monkeypatch.setattr(plan, "own_layers", lambda: layers)
    return plan


def whole(rng, shape, dtype):
    return rng.integers(-4, 5, shape).astype(dtype)


def save_inputs(folder, rng, dtype):
    arrays = [whole(rng, (BATCH, size), dtype) for size in (SIZES[0], SIZES[-1])]
    for name, array in zip(stream.INPUTS, arrays, strict=True):
        np.save(folder / name, array)
    return arrays


def contents(folder):
    """Of all files below a folder."""
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def after_blocks(monkeypatch, count, action):
    """Let something happen at the end of that block."""
    calls = []

    def anonymous():
        calls.append(None)
        if len(calls) == count:
            action()
        return 0
    monkeypatch.setattr(stream, "anonymous", anonymous)


def interrupt():
    raise KeyboardInterrupt


# ---- results


def test_results_are_those_of_the_whole_batch(plan, rng, dtype, tmp_path, monkeypatch):
    x, dvalues = save_inputs(tmp_path, rng, dtype)
    before, done = contents(tmp_path), []
    original = stream.step
    monkeypatch.setattr(stream, "step", lambda *arguments: done.append(original(*arguments)) or done[-1])
    stream.stream(plan, tmp_path, keep=True)

    layers = plan.own_layers()
    measure.step(layers, x, dvalues)
    for name, expected in (("output", layers[-1].output), ("dinputs", layers[0].dinputs)):
        found = np.load(tmp_path / f"{name}.npy")
        assert found.dtype == dtype and found.flags.c_contiguous
        np.testing.assert_array_equal(found, expected)
    for (dweights, dbiases), layer in zip(done[0].gradients, layers, strict=True):
        np.testing.assert_array_equal(dweights, layer.dweights)
        np.testing.assert_array_equal(dbiases, layer.dbiases)
    assert before.items() <= contents(tmp_path).items() and set(contents(tmp_path)) == NAMES


def test_made_up_inputs_are_those_of_a_batch_in_memory(plan, dtype, tmp_path):
    stream.stream(plan, tmp_path, keep=True)
    rng = np.random.default_rng(stream.networks.SEED)
    for name, size in zip(stream.INPUTS, (SIZES[0], SIZES[-1]), strict=True):
        np.testing.assert_array_equal(np.load(tmp_path / name), rng.standard_normal((BATCH, size), dtype))


def test_without_keep_only_what_was_there_stays(plan, rng, dtype, tmp_path):
    np.save(tmp_path / "dvalues.npy", whole(rng, (BATCH, SIZES[-1]), dtype))
    before = contents(tmp_path)
    stream.stream(plan, tmp_path)
    assert contents(tmp_path) == before


def test_report_is_of_the_whole_batch(plan, tmp_path, monkeypatch):
    rounds = iter([1.0, 5.0])
    monkeypatch.setattr(measure, "round_of", lambda peers, *rest: measure.Round(
        {name: [[next(rounds), 0]] * 2 for name in peers}, None))
    report, _ = stream.stream(plan, tmp_path)
    size, streamed = plan.dtype.itemsize, report.streamed
    assert streamed.block == BLOCK and streamed.scaled == BATCH / BLOCK
    assert streamed.read == streamed.written == BATCH * (SIZES[0] + SIZES[-1]) * size
    assert (streamed.disk_read, streamed.disk_write) == (2e9, 1e9)
    assert streamed.disk_fraction == pytest.approx(streamed.read * (1 / 2e9 + 1 / 1e9) / streamed.seconds)
    assert list(report.seconds) == ["fastbp", "numpy"]
    assert report.seconds["numpy"] == pytest.approx(6 * BATCH / BLOCK)
    assert 0 < report.seconds["fastbp"] < streamed.seconds
    for layer, inputs, neurons, relu in zip(report.layers, SIZES, SIZES[1:], (1, 0), strict=False):
        call = Call(rows=BATCH, inputs=inputs, neurons=neurons, precision=8 * size, activation=relu, weights=0, dinputs=1,
                    dinputs_bytes=0)
        for one, kind in zip(layer.passes, (FORWARD, BACKWARD), strict=True):
            assert one.work == work.of_pass(kind, call) and one.kernels and one.seconds > 0
            assert one.peers["numpy"] == pytest.approx((3 if kind == FORWARD else 0) * BATCH / BLOCK)


def test_profile_does_not_grow_with_the_number_of_blocks(plan, tmp_path, monkeypatch):
    done, original = [], stream.step
    monkeypatch.setattr(stream, "step", lambda *arguments: done.append(original(*arguments)) or done[-1])
    stream.stream(plan, tmp_path)
    assert [one.tasks for one in done[0].passes] == [[]] * 4
    assert all(len(one.kernels) == len({kernel.name for kernel in one.kernels}) for one in done[0].passes)


def test_rows_of_a_block(monkeypatch):
    monkeypatch.undo()
    for sizes in ([784, 512, 10], [16, 16, 1], [1, 1], [16, 4096], [3072, 2560, 128]):
        plan = measure.Plan(sizes, 10**9)
        rows = stream.block_rows(plan)
        assert 0 < rows * plan.row_bytes() * 3 / 2 <= 64 << 20 and rows * (len(sizes) - 1) <= 1 << 16
        assert rows < 1024 or rows % 1024 == 0
        assert stream.block_rows(measure.Plan(sizes, 7)) == 7


# ---- files that are not as they should be


@pytest.mark.parametrize("name", stream.OUTPUTS)
def test_an_output_that_is_there_is_refused(name, plan, tmp_path):
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=name):
        stream.stream(plan, tmp_path)
    assert contents(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize("change, found", [
    (lambda a: a[:-1], r"shape \(49, 5\) in C"), (lambda a: a.T.copy(), r"shape \(5, 50\) in C"),
    (np.ravel, r"shape \(250,\) in C"), (np.asfortranarray, r"\(50, 5\) in Fortran"),
    (lambda a: a.astype(">f4"), ">f4 of"), (lambda a: a.astype(np.int64), "int64 of")])
def test_another_array_is_refused(change, found, rng, tmp_path):
    np.save(tmp_path / "inputs.npy", change(whole(rng, (BATCH, SIZES[0]), np.float32)))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"inputs\.npy holds .*{found}.*, expected float32 of shape \(50, 5\) in C order"):
        stream.stream(measure.Plan(SIZES, BATCH), tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00\x76\x00{'descr'", b"\x93NUMPY\x09\x00",
                                     b"\x93NUMPY\x01\x00\x04\x00('\n "])
def test_a_file_without_an_array_is_refused(content, plan, tmp_path):
    (tmp_path / "dvalues.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"dvalues\.npy is not a whole \.npy file: "):
        stream.stream(plan, tmp_path)
    assert contents(tmp_path) == {"dvalues.npy": content}


@pytest.mark.parametrize("change, problem", [(-1, ": it was cut short"), (1, "$")])
def test_a_file_of_another_length_is_refused(change, problem, plan, rng, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "rates", lambda folder: pytest.fail("it should be refused before anything is done"))
    save_inputs(tmp_path, rng, dtype)
    length = 128 + BATCH * SIZES[0] * dtype.itemsize
    os.truncate(tmp_path / "inputs.npy", length + change)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"inputs\.npy has {length + change:,} bytes, expected {length:,}{problem}"):
        stream.stream(plan, tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("blocks", [1, 4])
def test_a_file_cut_short_while_it_is_read(name, blocks, plan, rng, dtype, tmp_path, monkeypatch):
    save_inputs(tmp_path, rng, dtype)
    after_blocks(monkeypatch, blocks, lambda: os.truncate(next(tmp_path.rglob(name)), 500))
    with pytest.raises(ValueError, match=rf"{name} has 500 bytes, expected [\d,]+: it was cut short"):
        stream.stream(plan, tmp_path, keep=True)
    assert set(contents(tmp_path)) == set(stream.INPUTS)


def test_a_folder_that_is_not_there(plan, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        stream.stream(plan, tmp_path / "nowhere")


# ---- nothing stays of what fails


@pytest.mark.parametrize("given", [False, True])
def test_interrupted(given, plan, rng, dtype, tmp_path, monkeypatch):
    if given:
        save_inputs(tmp_path, rng, dtype)
    before = contents(tmp_path)
    after_blocks(monkeypatch, 2, interrupt)
    with pytest.raises(KeyboardInterrupt):
        stream.stream(plan, tmp_path, keep=True)
    assert contents(tmp_path) == before


def test_an_output_that_came_in_the_meantime_is_not_overwritten(plan, tmp_path, monkeypatch):
    after_blocks(monkeypatch, 2, lambda: (tmp_path / "output.npy").write_bytes(b"mine"))
    with pytest.raises(FileExistsError, match="output"):
        stream.stream(plan, tmp_path, keep=True)
    assert contents(tmp_path) == {"output.npy": b"mine"}


@pytest.mark.parametrize("moved", range(4))
def test_all_files_are_kept_or_none(moved, plan, tmp_path, monkeypatch):
    rename, calls = Path.rename, []

    def interrupted(path, target):
        if len(calls) == moved:
            raise KeyboardInterrupt
        calls.append(target)
        return rename(path, target)
    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.stream(plan, tmp_path, keep=True)
    assert len(calls) == moved and contents(tmp_path) == {}


def test_no_room_for_events(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "CAPACITY", 1)
    with pytest.raises(MemoryError, match="a profile of 1 events had no room for"):
        stream.stream(plan, tmp_path)
    assert contents(tmp_path) == {}


def test_weights_that_leave_no_room(tmp_path):
    with pytest.raises(ValueError, match=r"the weights have 256\.0 MiB, expected at most 32\.0: .* 256 MiB"):
        stream.stream(measure.Plan([8192, 8192], BATCH), tmp_path)
    assert contents(tmp_path) == {}


# ---- a full disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mount needs Linux and root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", tmp_path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mount: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


LARGE = measure.Plan([64, 64], 4096)        # 1 MiB in each of the four files


def test_a_disk_that_is_too_small(small_disk):
    with pytest.raises(OSError, match=rf"not enough room: 4,194,816 bytes needed, 1,048,576 free: '{small_disk}'") as raised:
        stream.stream(LARGE, small_disk)
    assert raised.value.errno == errno.ENOSPC and contents(small_disk) == {}


def test_a_disk_that_others_have_filled_since(small_disk, monkeypatch):
    truth, answers = disk.disk_usage, iter([1 << 40])
    monkeypatch.setattr(disk, "disk_usage",
                        lambda folder: truth(folder)._replace(free=next(answers, truth(folder).free)))
    with pytest.raises(OSError, match=r"No space left on device: 4,194,816 bytes needed, [\d,]+ free") as raised:
        stream.stream(LARGE, small_disk)
    assert raised.value.errno == errno.ENOSPC and contents(small_disk) == {}


@pytest.mark.parametrize("supported", [True, False])
def test_a_file_that_may_not_become_so_large(supported, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource", reason="there are limits of files on POSIX systems only")
    if not supported:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, before[1]))
    try:
        with pytest.raises(OSError, match="File too large: 4,194,816 bytes needed") as raised:
            stream.stream(LARGE, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.errno == errno.EFBIG and contents(tmp_path) == {}


def test_a_file_gets_its_space_before_it_is_written(tmp_path):
    array = disk.Rows.create((tmp_path / "a.npy").open("x+b"), (4096, 64), np.dtype(np.float32))
    with array._file:
        assert os.stat(tmp_path / "a.npy").st_size == 128 + (1 << 20)
        if hasattr(os.stat_result, "st_blocks"):
            assert 512 * os.stat(tmp_path / "a.npy").st_blocks >= 1 << 20


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_zeros_are_written_where_there_is_no_fallocate(number, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    monkeypatch.setattr(disk, "PIECE", 1000)
    with (tmp_path / "a.npy").open("x+b") as file:
        disk.Rows.create(file, (77, 13), np.dtype(np.float64))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.zeros((77, 13)))


def test_rates_of_the_disk(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(disk, "SCRATCH", 8 << 20)
    assert all(0 < rate < float("inf") for rate in disk.rates(tmp_path)) and contents(tmp_path) == {}


# ---- memory


def test_another_process_compiles(monkeypatch):
    monkeypatch.undo()
    answers, run = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: answers.append(run(*arguments, **options)))
    stream._compile(measure.Plan(SIZES, BATCH), BLOCK)
    assert [answer.returncode for answer in answers] == [0], answers


@LINUX
def test_anonymous_memory_is_what_linux_says():
    kept = np.ones(100 << 20, np.uint8)
    says = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert stream.anonymous() == pytest.approx(1024 * int(says[1]), abs=4 << 20) and kept.nbytes < stream.anonymous()


CODE = """
import re, sys, threading, time
most = 0
def watch():
    global most
    while True:
        with open("/proc/self/status") as status:
            most = max(most, 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", status.read())[1]))
        time.sleep(0.003)
threading.Thread(target=watch, daemon=True).start()
from fastbp.profiler import disk, measure, stream
disk.SCRATCH = 4 << 20
streamed = stream.stream(measure.Plan([1024, 64, 16], 80_000, repeat=1), sys.argv[1])[0].streamed
print(streamed.read + streamed.written, streamed.anonymous, most)
"""


@LINUX
def test_anonymous_memory_stays_small(tmp_path):
    if disk.disk_usage(tmp_path).free < 2 << 30:
        pytest.skip(f"{tmp_path} has less than 2 GiB free")
    answer = subprocess.run([sys.executable, "-c", CODE, tmp_path], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    files, said, most = map(int, answer.stdout.split())
    assert files > 600 << 20
    assert 64 << 20 < said <= most < 256 << 20      # with all that comes before and after the step
    assert contents(tmp_path) == {}
