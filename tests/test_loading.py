"""Model files from anybody: a short run of scripts/check loading, which says what load must do."""
import pytest
from checks import loading


@pytest.mark.parametrize("arguments", [("crafted",), ("saving",), ("changed", 0, 0, 1500), ("changed_checkpoints", 0, 0, 500)],
                         ids=lambda arguments: arguments[0])
def test_no_file_does_harm(arguments):
    done = loading.run(*arguments)
    assert done["faults"] == []
    assert done.get("files", 1) and done.get("loaded", 1)
