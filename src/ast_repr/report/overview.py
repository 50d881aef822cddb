"""Figures of rows as wholes: the paper's box plot over methods, and accuracy against trained parameters."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import escaping
from . import style
from .results import KINDS, published

NONE_TRAINED = 4  # such rows stand this factor to the left of the smallest others: a logarithmic axis has no zero
# Where a point's number may stand, in points from its centre: the nearest place that is free.
COMPASS = [(1, 0), (0.7, 0.7), (0.7, -0.7), (0, 1), (0, -1), (-0.7, 0.7), (-0.7, -0.7), (-1, 0)]
AROUND = [(x * far, y * far) for far in (9, 13, 19, 26, 34) for x, y in COMPASS]


def boxes(table):
    """macro-F1 of each row as a box with its runs as points, and the floors; the paper's runs where the corpus is the paper's."""
    figure = Figure(figsize=(style.WIDTH, 1.3 + 0.34 * len(table.rows)), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(table.rows))
    crosses = False
    for place, row in zip(places, table.rows):
        colour, marker = style.KIND[row.kind]
        runs = style.percent(row.runs)
        line = {"color": colour, "linewidth": 1}
        axes.boxplot(
            [runs],
            positions=[place],
            orientation="horizontal",
            widths=0.55,
            showfliers=False,
            manage_ticks=False,
            whis=(0, 100),
            boxprops=line,
            whiskerprops=line,
            capprops=line,
            medianprops=line | {"linewidth": 2},
        )
        spread = place + 0.1 * (np.arange(len(runs)) - (len(runs) - 1) / 2)
        axes.plot(runs, spread, marker, color=colour, alpha=0.85, zorder=3, **style.DOT)
        compared = published(row, table)
        if compared:
            crosses = True
            axes.plot(
                compared["macro_f1"],
                np.full(len(compared["macro_f1"]), place + 0.38),
                "x",
                color="#D55E00",
                markersize=5,
                zorder=3,
            )
    style.draw_floors(axes, table, across=False)
    axes.set_yticks(places, [style.wrapped(row.label, 40) for row in table.rows])
    axes.set(xlabel="macro-F1, %", ylim=(len(places) - 0.4, -0.6))
    axes.grid(axis="x", **style.GRID)
    axes.set_axisbelow(True)
    axes.set_title(
        f"{escaping.figure(table.title)}\n"
        "box: quartiles and median; whiskers: all runs; one point a run",
        fontsize=8,
    )
    also = (
        [Line2D([], [], linestyle="", marker="x", color="#D55E00", label="published run")]
        if crosses
        else []
    )
    figure.legend(
        handles=[*axes.get_legend_handles_labels()[0], *_kinds(table), *also],
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    return figure


def accuracy_vs_parameters(table):
    """macro-F1 (mean, deviation over seeds) against trained parameters on a logarithmic axis; rows have numbers, named below."""
    figure = Figure(figsize=(style.WIDTH, 3.9 + 0.09 * len(table.rows)), layout="constrained")
    axes = figure.add_subplot()
    trained = np.array([row["trainable_parameters"] for row in table.rows], dtype=float)
    least = trained[trained > 0].min() if (trained > 0).any() else 1.0
    x = np.where(trained > 0, trained, least / NONE_TRAINED)
    y = np.array([style.percent(row.runs).mean() for row in table.rows])
    for row, across, up in zip(table.rows, x, y):
        colour, marker = style.KIND[row.kind]
        axes.errorbar(
            across, up, _deviation(row), color=colour, marker=marker, elinewidth=0.8, **style.DOT
        )
    axes.set_xscale("log")
    axes.set(xlabel="trained parameters", ylabel="macro-F1, %", xlim=(x.min() / 2, x.max() * 2))
    axes.grid(axis="y", **style.GRID)
    axes.set_axisbelow(True)
    if (trained == 0).any():
        edge = least / NONE_TRAINED**0.5
        axes.axvline(edge, color="0.6", linewidth=0.8, linestyle=":")
        axes.set_xticks([least / NONE_TRAINED, *_powers(least, trained.max())])
        axes.set_xticklabels(
            ["none", *(f"$10^{{{round(np.log10(one))}}}$" for one in _powers(least, trained.max()))]
        )
        axes.set_xticks([], minor=True)
    axes.set_title(
        f"{escaping.figure(table.title)}\nmean and standard deviation over seeds", fontsize=8
    )
    numbers = [
        f"{number:>2}".replace(" ", "\u2007") for number in range(1, len(x) + 1)
    ]  # a space as wide as a digit
    names = [
        Line2D([], [], linestyle="", label=f"{number}  {escaping.figure(row.label)}")
        for number, row in zip(numbers, table.rows)
    ]
    figure.legend(
        handles=_kinds(table), loc="outside upper center", ncols=len(KINDS), frameon=False
    )
    figure.legend(
        handles=names,
        loc="outside lower center",
        ncols=2,
        frameon=False,
        handlelength=0,
        handletextpad=0,
        fontsize=7,
    )
    figure.draw_without_rendering()  # fixes the layout, so that places in points are known
    _number(axes, x, y, [_deviation(row) or 0.0 for row in table.rows])
    return figure


def _deviation(row):
    return style.percent(row.runs).std(ddof=1) if len(row.runs) > 1 else None


def _kinds(table):
    there = {row.kind for row in table.rows}
    return [
        Line2D(
            [],
            [],
            linestyle="",
            color=style.KIND[kind][0],
            marker=style.KIND[kind][1],
            label=kind,
            **style.DOT,
        )
        for kind in KINDS
        if kind in there
    ]


def _powers(least, most):
    """Powers of ten from `least` to `most`, the next below included if none is between."""
    low, high = np.ceil(np.log10(least)), np.floor(np.log10(most))
    return [10.0**power for power in range(int(min(low, high)), int(high) + 1)]


def _number(axes, x, y, spread):
    """Write its number beside each point, clear of points, whiskers and other numbers; a thin line leads to one far off."""
    inches = axes.figure.dpi / 72
    taken = [
        axes.transData.transform((across, up + step * deviation)) / inches
        for across, up, deviation in zip(x, y, spread)
        for step in np.linspace(-1, 1, 9)
    ]
    for number, (across, up) in enumerate(zip(x, y), 1):
        point = axes.transData.transform((across, up)) / inches
        clear = [
            min(np.abs((point + place - one) / (8, 7)).max() for one in taken) for place in AROUND
        ]
        place = AROUND[
            next((index for index, room in enumerate(clear) if room > 1), int(np.argmax(clear)))
        ]
        taken.append(point + place)
        axes.annotate(
            str(number),
            (across, up),
            place,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7,
            zorder=5,
            arrowprops={
                "arrowstyle": "-",
                "linewidth": 0.5,
                "color": "0.3",
                "shrinkA": 0,
                "shrinkB": 0,
            }
            if np.hypot(*place) > 10
            else None,
        )
