"""The same bits of steps of all kinds: in other processes, in chunks, from files, with other load, and as a file says."""
import json

from checks import bits, digests

from fastbp._runtime import cpu
from fastbp.cli import config


def test_steps_of_all_kinds():
    done, faults = bits.check(seed=0, seconds=0, busy=1)
    assert min(done.values()) > 0 and not faults


def test_differences_from_a_file_are_named(tmp_path, monkeypatch, capsys):
    """On the target of this process, whose kernels are compiled already."""
    says = config.describe()
    own = digests.Target(*cpu.target(), (), (says["instruction set"], says["bfloat16 by"]))
    monkeypatch.setattr(digests, "TARGETS", {"own": own})
    path = tmp_path / "bits.json"
    assert digests.write(path, calls=120, fits=4) == 0
    content = json.loads(path.read_text())
    kept = content["digests"]["own"]
    different, new, *others = kept
    assert len(others) == 122
    kept[different], kept["call 9999 gone: away"] = "0" * 24, kept.pop(new)
    path.write_text(json.dumps(content))
    capsys.readouterr()
    assert digests.against(path) == 1
    _, *lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"  own {different}: differs", "  own call 9999 gone: away: missing", f"  own {new}: new"]
