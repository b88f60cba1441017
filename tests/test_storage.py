"""Files of named arrays: reading gives what was written, bit for bit, and nothing else is taken for such a file."""
import errno
import io
import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from fastbp._files import atomic, container

ABOUT = {"layers": [{"kind": "dense", "size": [3, 4]}], "rate": 1e-3, "name": "ünï \ud800 \0", "none": None, "empty": {}}
SUFFIXES = (".safetensors", ".npz")
posix = pytest.mark.skipif(os.name != "posix", reason="the permissions and links of POSIX")


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"net{request.param}"


@pytest.fixture
def old(path):
    """A path where a file is, and what container.read gives of it."""
    container.write(path, {"old": np.ones(3)}, {"old": True})
    return path


def is_old(path):
    arrays, about = container.read(path)
    return list(arrays) == ["old"] and np.array_equal(arrays["old"], np.ones(3)) and about == {"old": True}


def assert_same(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        value = np.asarray(expected[name])
        assert (array.dtype, array.shape, array.tobytes()) == (value.dtype, value.shape, value.tobytes()), name


def write_raw(path, arrays, text):
    """As another program would: `text` is the entry, unless it is None."""
    if path.suffix == ".npz":
        np.savez(path, **arrays, **({} if text is None else {"fastbp": np.array(text)}))
    else:
        safetensors.numpy.save_file(arrays, path, metadata=None if text is None else {"fastbp": text})


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 5), (0, 4), (4, 0), (2, 0, 3), (2, 3, 4)])
def test_dtype_shape_and_bits_are_kept(path, rng, dtype, shape):
    arrays = {"random": rng.standard_normal(shape).astype(dtype), "0.weights": rng.random((2, 3)).astype(dtype)}
    container.write(path, arrays, ABOUT)
    read, about = container.read(path)
    assert_same(read, arrays)
    assert about == ABOUT


def test_all_kinds_of_numbers_are_kept(path):
    words = np.array([0x7FC0_0001, 0xFFC0_1234, 0x7F80_0001, 0xFF80_0000, 0x7F80_0000, 0x8000_0000, 0, 1, 0x8000_0001,
                      0x7FFF_FFFF], np.uint32)
    doubles = np.array([0x7FF8_0000_0000_0001, 0xFFF8_0000_DEAD_BEEF, 0x7FF0_0000_0000_0001, 1 << 63, 1], np.uint64)
    arrays = {"single": words.view(np.float32), "double": doubles.view(np.float64)}
    container.write(path, arrays, {})
    assert_same(container.read(path)[0], arrays)


def test_any_layout_is_stored_by_value(path, rng):
    base = rng.standard_normal((6, 8))
    frozen = base.astype(np.float32)
    frozen.flags.writeable = False
    arrays = {"fortran": np.asfortranarray(base), "strided": base[::2, 1::3], "reversed": base[::-1, ::-1], "frozen": frozen,
              "broadcast": np.broadcast_to(base[0], (3, 8)), "transposed": base.astype(np.float32).T,
              "unaligned": np.frombuffer(b"\0" + base.tobytes(), np.float64, offset=1)}
    container.write(path, arrays, {})
    assert_same(container.read(path)[0], arrays)


def test_what_is_read_is_in_order_and_can_be_used_in_place(path, rng):
    names = ["c", "a", "ü/d", "b.npy", "b", "file", "allow_pickle", "self", ""]
    container.write(path, {name: rng.random(3 + i).astype([np.float32, np.float64][i % 2]) for i, name in enumerate(names)}, {})
    arrays, _ = container.read(path)
    assert list(arrays) == sorted(names)
    for array in arrays.values():
        assert array.flags.writeable and array.flags.aligned and array.flags.c_contiguous and array.dtype.isnative


def test_no_arrays(path):
    container.write(path, {}, {})
    assert container.read(path) == ({}, {})


def test_the_same_content_gives_the_same_bytes(path, rng):
    arrays = {"b": rng.random(3), "a": rng.random((2, 2))}
    container.write(path, arrays, ABOUT)
    before = path.read_bytes()
    path.unlink()
    container.write(path, arrays, ABOUT)
    assert path.read_bytes() == before


def test_safetensors_reads_the_file(tmp_path, rng):
    path = tmp_path / "net.safetensors"
    arrays = {"weights": rng.random((3, 4)).astype(np.float32), "biases": rng.random((1, 4)), "none": np.empty((0, 3))}
    container.write(path, arrays, ABOUT)
    assert_same(safetensors.numpy.load_file(path), arrays)
    with safetensors.safe_open(path, "np") as file:
        assert json.loads(file.metadata()["fastbp"]) == ABOUT


def test_numpy_reads_the_file_without_pickle(tmp_path, rng):
    path = tmp_path / "net.npz"
    arrays = {"weights": rng.random((3, 4)).astype(np.float32), "biases": rng.random((1, 4)), "none": np.empty((0, 3))}
    container.write(path, arrays, ABOUT)
    with np.load(path, allow_pickle=False) as file:
        read = dict(file)
    assert json.loads(str(read.pop("fastbp"))) == ABOUT
    assert_same(read, arrays)


def test_a_file_that_others_wrote_in_this_form_is_read(path, rng):
    arrays = {"weights": rng.random((3, 4)), "biases": rng.random(4)}
    write_raw(path, arrays, json.dumps(ABOUT))
    assert_same(container.read(path)[0], arrays)
    write_raw(path.with_suffix(".npz"), {name: np.asfortranarray(array) for name, array in arrays.items()}, "{}")
    assert_same(container.read(path.with_suffix(".npz"))[0], arrays)


@pytest.mark.parametrize("name", ["net", "net.pt", "net.npz.bak", "npz", ".npz", "net."])
def test_another_suffix_is_refused(tmp_path, name):
    path = tmp_path / name
    expected = re.escape(f"path is '{path}', with the suffix '{path.suffix}', expected .safetensors or .npz")
    with pytest.raises(ValueError, match=expected):
        container.write(path, {}, {})
    with pytest.raises(ValueError, match=expected):
        container.read(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arrays, about, error, message", [
    ({"a": np.ones(2), "b": np.ones(2, np.int64)}, {}, TypeError, "b has dtype int64, expected float32 or float64"),
    ({"a": np.array([object()])}, {}, TypeError, "a has dtype object"),
    ({"a": np.ones(2, np.float16)}, {}, TypeError, "a has dtype float16"),
    ({"a": np.ones(2, np.dtype(float).newbyteorder())}, {}, TypeError, "a has dtype [<>]f8"),
    ({"a": np.ones(2, [("x", "f4")])}, {}, TypeError, "a has dtype"),
    ({"fastbp": np.ones(2)}, {}, ValueError, "an array is named 'fastbp'"),
    ({"__metadata__": np.ones(2)}, {}, ValueError, "an array is named '__metadata__'"),
    ({"a": np.ones(2), "a\0b": np.ones(2)}, {}, ValueError, "an array is named 'a.x00b', expected a name without NUL"),
    ({}, {"a": object()}, TypeError, "object is not JSON serializable"),
])
def test_what_cannot_be_stored_leaves_the_old_file(old, arrays, about, error, message):
    with pytest.raises(error, match=message):
        container.write(old, arrays, about)
    assert is_old(old)
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["full", "stop"])
@pytest.mark.parametrize("function", ["os.fsync", "os.replace", "shutil.copymode"])
def test_a_failure_leaves_the_old_file_and_no_other(old, monkeypatch, function, error):
    def fail(*arguments):
        assert len(list(old.parent.iterdir())) == 2         # the temporary file is in the same folder
        raise error

    monkeypatch.setattr(function, fail)
    with pytest.raises(type(error)):
        container.write(old, {"new": np.ones(9)}, {})
    assert is_old(old)
    assert list(old.parent.iterdir()) == [old]


def test_a_full_disk_leaves_the_old_file_and_no_other(old):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError) as caught:
            container.write(old, {"new": np.ones(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert is_old(old)
    assert list(old.parent.iterdir()) == [old]


def test_a_failure_leaves_nothing_where_nothing_was(path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        container.write(path, {"new": np.ones(9)}, {})
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("n", [10, 10_000])         # less and more than a file's buffer holds
def test_all_bytes_are_on_the_disk_before_the_file_has_its_name(path, monkeypatch, n):
    fsync, replace, calls = os.fsync, os.replace, []

    def noted_fsync(descriptor):
        fsync(descriptor)
        calls.append(("fsync", os.fstat(descriptor).st_size))

    def noted_replace(source, target):
        calls.append(("replace", os.stat(source).st_size))
        replace(source, target)

    monkeypatch.setattr("os.fsync", noted_fsync)
    monkeypatch.setattr("os.replace", noted_replace)
    container.write(path, {"a": np.ones(n)}, {})
    size = path.stat().st_size
    assert size > 8 * n and calls == [("fsync", size), ("replace", size)]


def test_a_file_in_parts_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    atomic.write(path, b"one ", memoryview(b"two"))
    with pytest.raises(TypeError):
        atomic.write(path, b"three", None)
    assert path.read_bytes() == b"one two"
    assert list(tmp_path.iterdir()) == [path]


class PathLike:
    def __init__(self, path):
        self._path = path

    def __fspath__(self):
        return str(self._path)


@pytest.mark.parametrize("kind", [str, Path, PathLike])
def test_any_kind_of_path(path, kind):
    container.write(kind(path), {"a": np.ones(2)}, {"b": 1})
    assert container.read(kind(path))[1] == {"b": 1}
    with pytest.raises(ValueError, match="with the suffix '.x'"):
        container.write(kind(path.with_suffix(".x")), {}, {})


def test_a_relative_path_and_a_suffix_in_capitals(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    for name in (path.name, path.name.upper(), f"./{path.name}"):
        container.write(name, {}, {"name": name})
        assert container.read(path.parent / name)[1] == {"name": name}


@posix
def test_a_new_file_gets_the_mode_of_any_new_file_and_an_old_one_keeps_its_own(path):
    before = os.umask(0o027)
    try:
        container.write(path, {}, {})
        assert path.stat().st_mode & 0o777 == 0o640
        for mode in (0o600, 0o666, 0o400, 0o751):
            path.chmod(mode)
            container.write(path, {}, {"mode": mode})
            assert path.stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)


@posix
def test_a_private_file_is_private_while_it_is_written(old, monkeypatch):
    modes = []

    def fail(descriptor):
        modes.append(os.fstat(descriptor).st_mode & 0o777)
        raise OSError

    old.chmod(0o600)
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError):
        container.write(old, {}, {})
    assert modes == [0o600]


@posix
@pytest.mark.parametrize("exists", [True, False])
def test_the_target_of_a_link_is_replaced(path, monkeypatch, exists):
    target = path.parent / "folder" / f"target{path.suffix}"
    target.parent.mkdir()
    if exists:
        container.write(target, {"old": np.ones(3)}, {})
    path.symlink_to(target.relative_to(path.parent))        # relative to the link's folder, and not to the working one
    second = path.with_stem("second")
    second.symlink_to(path)
    container.write(second, {}, {"new": True})
    assert path.is_symlink() and second.is_symlink() and not target.is_symlink()
    assert container.read(target) == container.read(second) == ({}, {"new": True})
    assert list(target.parent.iterdir()) == [target]


def test_a_path_that_cannot_be_a_file(path):
    with pytest.raises(FileNotFoundError):
        container.read(path)
    with pytest.raises(FileNotFoundError):
        container.write(path.parent / "no folder" / path.name, {}, {})
    path.mkdir()
    with pytest.raises(OSError):
        container.write(path, {}, {})
    with pytest.raises(OSError):
        container.read(path)
    assert list(path.parent.iterdir()) == [path] and not list(path.iterdir())


def test_a_truncated_file_is_refused(old):
    content = old.read_bytes()
    for size in range(len(content)):
        old.write_bytes(content[:size])
        with pytest.raises(ValueError, match=re.escape(f"{old} is damaged or not a file of fastbp: ")) as caught:
            container.read(old)
        assert caught.value.__cause__ is not None


def test_a_file_with_a_changed_byte_is_the_same_or_refused(old):
    """A .safetensors file has no checksum: what it holds may be another, but nothing other than ValueError is raised."""
    content = old.read_bytes()
    for i in range(len(content)):
        for change in (1, 0x80, 0xFF):
            old.write_bytes(content[:i] + bytes([content[i] ^ change]) + content[i + 1:])
            try:
                same = is_old(old)
            except ValueError as error:
                assert str(error).startswith(f"{old} ")
            else:
                assert same or old.suffix == ".safetensors"


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\3\4", b"no file of arrays", b"\x80\x04N.", b"\xff" * 99])
def test_another_kind_of_file_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} is damaged or not a file of fastbp: ")):
        container.read(path)


def test_each_format_under_the_other_suffix_is_refused(old):
    other = old.with_suffix(*{*SUFFIXES} - {old.suffix})
    old.rename(other)
    with pytest.raises(ValueError, match=re.escape(f"{other} is damaged or not a file of fastbp: ")):
        container.read(other)


def test_a_file_without_the_entry_is_refused(path):
    write_raw(path, {"a": np.ones(2)}, None)
    with pytest.raises(ValueError, match=re.escape(f"{path} is not a file of fastbp: it has no entry 'fastbp'")):
        container.read(path)


@pytest.mark.parametrize("text, message", [
    ("[1]", " has list as JSON in its entry 'fastbp', expected an object"),
    ("null", " has NoneType as JSON in its entry 'fastbp', expected an object"),
    ('"{}"', " has str as JSON"),
    ("{", " is damaged or not a file of fastbp: JSONDecodeError: "),
    ("", " is damaged or not a file of fastbp: JSONDecodeError: "),
    ("[" * 100_000, " is damaged or not a file of fastbp: RecursionError: "),
])
def test_an_entry_that_is_no_json_object_is_refused(path, text, message):
    write_raw(path, {"a": np.ones(2)}, text)
    with pytest.raises(ValueError, match=re.escape(f"{path}{message}")):
        container.read(path)


def test_arrays_of_another_dtype_are_refused(path):
    write_raw(path, {"a": np.ones(2), "b": np.ones(2, np.int32)}, "{}")
    with pytest.raises(ValueError, match=r"b has dtype '(<i4|I32)', expected float32 or float64"):
        container.read(path)


class Payload:
    """An object whose unpickling makes a file."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return Path.touch, (self._path,)


@pytest.mark.parametrize("name", ["weights", "fastbp"])
def test_a_pickle_is_neither_read_nor_run(tmp_path, name):
    path, ran = tmp_path / "net.npz", tmp_path / "ran"
    np.savez(path, **{"fastbp": np.array("{}"), "weights": np.ones(2), name: np.array([Payload(ran)])})
    with pytest.raises(ValueError, match="expected (float32 or float64|a text)"):
        container.read(path)
    path.write_bytes(np.array([Payload(ran)]).dumps())
    with pytest.raises(ValueError, match="damaged"):
        container.read(path)
    assert not ran.exists()


def test_entries_of_an_archive_that_are_no_arrays_are_refused(old):
    path = old.with_suffix(".npz")
    container.write(path, {"a": np.ones(2)}, {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("code.py", "raise SystemExit")
    with pytest.raises(ValueError, match=re.escape(f"{path} is damaged or not a file of fastbp: ")):
        container.read(path)


def test_an_array_that_claims_more_than_there_is_is_refused(tmp_path):
    path, entry = tmp_path / "net.npz", io.BytesIO()
    np.lib.format.write_array_header_1_0(entry, {"descr": "<f8", "fortran_order": False, "shape": (1 << 58,)})
    np.savez(path, fastbp=np.array("{}"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.npy", entry.getvalue())
    with pytest.raises(ValueError, match=re.escape(f"{path} is damaged or not a file of fastbp: ") + ".*, which are there"):
        container.read(path)
