"""A profile as pictures: the roofline of its kernels, and the time of its layers."""
from io import BytesIO
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .report import Report

MARKERS = "os^Dv<>pPX*hHd"      # Layers have these markers in turn. Those of a forward pass are filled.
HATCHES = {"forward": "", "backward": "////"}       # The bars of a pass have this hatch.
GREYS = "#303030", "#9a9a9a", "#d5d5d5"             # The bars of fastbp and of the other packages have these colours.
LABEL_INCHES = 0.21             # This is the distance from one label to the next.


def picture(report: Report, suffix: str) -> bytes:
    """Return the bytes of a file with both pictures: PNG, or another format that matplotlib knows by its suffix."""
    dots, content = len(_dots(report)), BytesIO()
    figure = Figure(figsize=(12, _roofline_inches(dots) + _bars_inches(report)), dpi=120, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[_roofline_inches(dots), _bars_inches(report)])
    roofline(report, above.subplots())
    bars(report, below.subplots())
    figure.savefig(content, format=suffix)
    return content.getvalue()


def figures(report: Report) -> dict[str, Figure]:
    """Return {name: figure}, each picture in a figure of its own."""
    made = {}
    for name, draw, inches in (("Roofline", roofline, _roofline_inches(len(_dots(report)))),
                               ("Layers", bars, _bars_inches(report))):
        made[name] = Figure(figsize=(12, inches), layout="constrained")
        draw(report, made[name].subplots())
    return made


def roofline(report: Report, axes: Axes) -> None:
    """Draw operations a second over operations a byte, both logarithmic, under the two ceilings (Williams et al., 2009)."""
    dots, peak, bandwidth = _dots(report), report.ceilings.flops, report.ceilings.bandwidth
    ridge = peak / bandwidth
    intensities = [dot.intensity for dot in dots] + [ridge]
    left, right = min(intensities) / 2, max(intensities) * 2
    axes.plot([left, ridge, right], [left * bandwidth / 1e9, peak / 1e9, peak / 1e9], color="black", linewidth=2)
    axes.axvline(ridge, color="black", linewidth=0.7, linestyle=":")
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylabel=f"GFLOP/s, threads: {report.threads}",
             xlabel="FLOP for each byte of the layer's arrays. Filled: forward, hollow: backward")
    lowest = min([dot.flops for dot in dots] + [left * bandwidth])
    axes.set_ylim(lowest / 1e9 / 2, peak / 1e9 * 3)
    axes.grid(alpha=0.25)
    axes.set_title(f"Roofline of {report.title}")
    ceilings = (f"peak {peak / 1e9:,.0f} GFLOP/s", "left", 6), (f"memory {bandwidth / 1e9:,.0f} GB/s", "right", -6)
    for text, side, x in ceilings:
        axes.annotate(text, (ridge, peak / 1e9), (x, 6), textcoords="offset points", ha=side, zorder=5,
                      bbox={"color": "white", "pad": 1})
    _label(axes, dots)


class _Dot(NamedTuple):
    """A kernel in the roofline. intensity: operations a byte. flops: operations a second."""

    layer_number: int
    pass_name: str
    label: str
    intensity: float
    flops: float


def _dots(report):
    """Return a _Dot for each kernel that computes."""
    return [_Dot(layer_number=number, pass_name=p.name, label=f"{layer.name} {p.name}: {kernel.name}",
                 intensity=kernel.work.flops / kernel.work.bytes, flops=kernel.work.flops / kernel.seconds)
            for number, layer in enumerate(report.layers) for p in layer.passes for kernel in p.kernels
            if kernel.work.flops and kernel.work.bytes and kernel.seconds]


def _label(axes, dots):
    """Draw the dots, and their labels in a column on the right, with a line to each dot, so that no label covers another."""
    dots = sorted(dots, key=lambda dot: dot.flops)
    for place, dot in enumerate(dots):
        x, y, marker = dot.intensity, dot.flops, MARKERS[dot.layer_number % len(MARKERS)]
        axes.plot(x, y / 1e9, marker, markersize=8, color="black",
                  markerfacecolor="black" if dot.pass_name == "forward" else "white")
        line = {"arrowstyle": "-", "color": "grey", "linewidth": 0.6, "relpos": (0, 0.5), "shrinkA": 2, "shrinkB": 4}
        axes.annotate(dot.label, (x, y / 1e9), (1.03, (place + 0.5) / len(dots)), textcoords="axes fraction", va="center",
                      fontsize=9, arrowprops=line)


def bars(report: Report, axes: Axes) -> None:
    """Draw the time of each layer, forward and backward, in each package."""
    names = list(report.seconds)
    places = [i * (len(names) + 1) + j for i in range(len(report.layers)) for j in range(len(names))]
    longest = 0
    for place, (layer, name) in zip(places, ((layer, name) for layer in report.layers for name in names), strict=True):
        left = 0
        for p in layer.passes:
            width = (p.seconds if name == "fastbp" else p.peers[name]) * 1e3
            axes.barh(place, width, left=left, height=0.85, color=GREYS[names.index(name) % 3], hatch=HATCHES[p.name],
                      edgecolor="white" if name == "fastbp" else "black", linewidth=0.6)
            left += width
        axes.annotate(f"{left:,.1f} ms {name}", (left, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
        longest = max(longest, left)
    axes.set(yticks=[i * (len(names) + 1) + (len(names) - 1) / 2 for i in range(len(report.layers))],
             yticklabels=[layer.name for layer in report.layers], title="Time of the layers",
             xlabel="milliseconds; hatched: backward", xlim=(0, longest * 1.15))
    axes.invert_yaxis()


def _roofline_inches(dots):
    return max(4.5, 1 + dots * LABEL_INCHES)


def _bars_inches(report):
    return 1.2 + 0.28 * len(report.layers) * (len(report.seconds) + 1)
