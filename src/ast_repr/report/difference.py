"""The figure of a paired comparison: differences with their intervals, of each instrument and of all."""

import numpy as np
from matplotlib.figure import Figure

from .. import escaping
from . import style
from .compare import sentence


def differences(table, found):
    """What `compare.compare` found between two rows of `table`: the mean over instruments first, then each, largest first."""
    known = {
        name: part
        for name, part in found["per_instrument"].items()
        if part["difference"] is not None
    }
    names = sorted(known, key=lambda name: -known[name]["difference"])
    parts = [found["macro_f1"], *(known[name] for name in names)]
    middle, low, high = (
        100 * np.array([part[key] for part in parts]) for key in ("difference", "low", "high")
    )
    places = np.array([0, *range(2, len(parts) + 1)])  # a line apart from the instruments
    figure = Figure(figsize=(style.WIDTH, 1.3 + 0.2 * len(parts)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color="0.3", linewidth=1)
    axes.axvspan(low[0], high[0], color="0.92", zorder=0)
    for place, one, least, most in zip(places, middle, low, high):
        colour = (
            "black" if place == 0 else "#0072B2" if least > 0 else "#D55E00" if most < 0 else "0.5"
        )
        marker = "D" if place == 0 else ">" if least > 0 else "<" if most < 0 else "o"
        axes.plot([least, most], [place, place], color=colour, linewidth=1.4)
        axes.plot(one, place, marker, color=colour, **style.DOT | {"markersize": 5.5})
    axes.set_yticks(places, ["all instruments", *map(style.plain, names)])
    axes.set(
        xlabel=escaping.figure(f"difference of macro-F1, points: {found['b']} - {found['a']}"),
        ylim=(places[-1] + 0.7, -0.9),
    )
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", **style.GRID)
    axes.set_axisbelow(True)
    how = (
        f"bars: {found['level']} % bootstrap interval over test clips; > and < where it excludes "
        "zero; grey: of all instruments"
    )
    result = escaping.figure(sentence(found)).replace(" (", "\n(")
    axes.set_title("\n".join([escaping.figure(table.title), result, how]), fontsize=8)
    return figure
