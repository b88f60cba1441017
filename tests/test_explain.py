"""`python -m fastbp explain`: the numbers of the single neuron, and its answers to wrong options."""
import pytest

from fastbp.__main__ import main
from fastbp.cli.explain import explain

NEURON = dict(inputs=[1.0, -2.0, 3.0], weights=[-3.0, -1.0, 2.0], bias=1.0, dvalue=1.0, step=0.001)


def values(title, **changes):
    return {line.name: line.value for line in explain(**{**NEURON, **changes})[title]}


def by_hand(inputs, weights, bias, dvalue, step):
    """The derivation in plain Python, one scalar at a time."""
    xw = [x * w for x, w in zip(inputs, weights, strict=True)]
    z = sum(xw) + bias
    dz = dvalue * (1.0 if z > 0 else 0.0)
    new_w = [w - step * dz * x for x, w in zip(inputs, weights, strict=True)]
    new_b = bias - step * dz
    new_z = sum(x * w for x, w in zip(inputs, new_w, strict=True)) + new_b

    def named(name, numbers):
        return {f"{name}{i}": number for i, number in enumerate(numbers)}

    return {
        "Forward": {**named("xw", xw), "z": z, "ReLU": max(z, 0.0)},
        "Backward": {"dvalue": dvalue, "drelu_dz": dz, **named("drelu_dxw", [dz for _ in xw]), "drelu_db": dz,
                     **named("drelu_dx", [dz * w for w in weights]), **named("drelu_dw", [dz * x for x in inputs])},
        "Update": {**named("w", new_w), "b": new_b},
        "Forward again": {"ReLU": max(new_z, 0.0)},
    }


def test_the_numbers_of_the_notes():
    assert values("Forward") == {"xw0": -3, "xw1": 2, "xw2": 6, "z": 6, "ReLU": 6}
    assert values("Backward") == {"dvalue": 1, "drelu_dz": 1, "drelu_dxw0": 1, "drelu_dxw1": 1, "drelu_dxw2": 1,
                                  "drelu_db": 1, "drelu_dx0": -3, "drelu_dx1": -1, "drelu_dx2": 2,
                                  "drelu_dw0": 1, "drelu_dw1": -2, "drelu_dw2": 3}
    assert values("Update") == pytest.approx({"w0": -3.001, "w1": -0.998, "w2": 1.997, "b": 0.999}, rel=1e-15)
    assert values("Forward again") == pytest.approx({"ReLU": 5.985}, rel=1e-15)


@pytest.mark.parametrize("changes", [
    dict(dvalue=-2.5),
    dict(inputs=[0.5], weights=[4.0], dvalue=3.0),
    dict(inputs=[1.0, 2.0, -3.0, 4.0, 0.0], weights=[0.5, 0.25, -2.0, 1.0, 7.0], step=0.1),
    dict(bias=-10.0, dvalue=2.0),           # z = -5: stopped
    dict(bias=-5.0, dvalue=2.0),            # z = 0: stopped too
], ids=["dvalue", "one input", "five inputs", "z < 0", "z = 0"])
def test_against_plain_python(changes):
    for title, expected in by_hand(**{**NEURON, **changes}).items():
        assert values(title, **changes) == pytest.approx(expected, rel=1e-14), title


def test_a_stopped_neuron_changes_nothing():
    stopped = dict(bias=-10.0, dvalue=2.0)
    assert not any(value for name, value in values("Backward", **stopped).items() if name != "dvalue")
    assert values("Update", **stopped) == {"w0": -3, "w1": -1, "w2": 2, "b": -10}


def test_printed(capsys):
    assert main(["explain"]) == 0
    printed = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    for expected in (["xw0", "-3"], ["z", "6"], ["drelu_db", "1"], ["drelu_dx2", "2"], ["w0", "-3.001"], ["b", "0.999"],
                     ["ReLU", "5.985"]):
        assert expected in printed


@pytest.mark.parametrize("columns", [50, 100])
def test_columns_fit(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    many = ",".join(["-1.23456789012345e-100"] * 12)
    assert main(["explain", "--inputs", many, "--weights", many, "--bias", "-1.23456789e+200"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:1] == ["drelu_dxw11"] for line in lines)
    assert max(map(len, lines)) <= columns


@pytest.mark.parametrize("options", [["--inputs", "-1,2", "--weights", "-.5,1"], ["--inputs=-1,2", "--weights=-.5,1"]])
def test_numbers_may_begin_with_a_minus(options, capsys):
    assert main(["explain", *options, "--bias", "-1"]) == 0
    printed = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["xw0", "0.5"] in printed and ["z", "1.5"] in printed


@pytest.mark.parametrize("options, named", [
    (["--inputs", "1,2"], "--weights"),
    (["--weights", "1,2,3,4"], "--weights"),
    (["--inputs", "1,,2"], "--inputs"),
    (["--inputs", ""], "--inputs"),
    (["--weights", "1,x,3"], "--weights"),
    (["--bias", "nan"], "--bias"),
    (["--dvalue", "inf"], "--dvalue"),
    (["--step", "small"], "--step"),
])
def test_wrong_options_are_named(options, named, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["explain", *options])
    assert stop.value.code == 2
    assert f"error: argument {named}:" in capsys.readouterr().err
