"""Short runs of scripts/check cache."""
import os

import pytest
from checks import _cache_faults
from checks.cache import RELU, Check

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals, modes and owners are POSIX's")


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    return Check(tmp_path_factory.mktemp("check"), seed=1, works=(RELU,))


@pytest.fixture(autouse=True)
def no_faults(check):
    yield
    assert check.faults == []


def test_cold_processes_at_once(check):
    check.cold(3)


def test_kills_of_processes_that_write(check):
    check.kills_of_writers(2)
    assert check.figures["kills"] == 2


def try_or_skip(fault, kind):
    try:
        fault(kind)
    except _cache_faults.NotHere as reason:
        pytest.skip(str(reason))


def test_a_file(check):
    check.forged()
    try_or_skip(check.file, "unreadable")


@pytest.mark.parametrize("kind", ["read only and empty", "read only disk"])
def test_folders(check, kind):
    try_or_skip(check.unfit_folder, kind)
