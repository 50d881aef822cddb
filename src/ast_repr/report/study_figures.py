"""Figures of studies: bars, or macro-F1 against the fraction of training labels."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from .. import escaping
from . import style

TICKS = (1, 2, 5, 10, 25, 50, 100)  # per cent of the training labels
APART = 9.5  # points between the names of lines
NAME = 24  # characters of a line of such a name


def bars(study, table):
    """macro-F1 of a study's rows: mean as a bar, deviation as a whisker, runs as points; a colour for each conf."""
    stems = list(dict.fromkeys(row.stem for row in table.rows))
    names = [style.wrapped(row.label, 44) for row in table.rows]
    pitch = max(0.3, 0.15 * max(name.count("\n") + 1 for name in names))  # inches
    figure = Figure(figsize=(style.WIDTH, 1.2 + pitch * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(table.rows):
        colour, _, hatch, _ = style.look(stems.index(row.stem))
        runs = style.percent(row.runs)
        axes.barh(
            place,
            runs.mean(),
            0.7,
            color=colour,
            alpha=0.55,
            hatch=hatch,
            edgecolor="white",
            linewidth=0,
        )
        if len(runs) > 1:
            axes.errorbar(
                runs.mean(), place, xerr=runs.std(ddof=1), color="0.2", elinewidth=1, capsize=2.5
            )
        axes.plot(runs, np.full(len(runs), place), "o", color=colour, zorder=3, **style.DOT)
        axes.text(
            1.01, place, f"{runs.mean():.1f}", transform=axes.get_yaxis_transform(), va="center"
        )
    style.draw_floors(axes, table, across=False)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="macro-F1, %", ylim=(len(names) - 0.4, -0.6), xlim=(0, None))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", **style.GRID)
    axes.set_axisbelow(True)
    axes.set_title(
        _title(
            study,
            table,
            "bar and number: mean over seeds; whisker: standard deviation; one point a run",
        ),
        fontsize=8,
    )
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def labels(study, table):
    """macro-F1 against the fraction of training labels: a line for each conf, its deviation over seeds as a band."""
    figure = Figure(figsize=(style.WIDTH, 4.4), layout="constrained")
    axes = figure.add_subplot()
    ends = []
    for index, stem in enumerate(dict.fromkeys(row.stem for row in table.rows)):
        rows = sorted(
            (row for row in table.rows if row.stem == stem), key=lambda row: row["label_fraction"]
        )
        x = 100 * np.array([row["label_fraction"] for row in rows])
        runs = [style.percent(row.runs) for row in rows]
        means = np.array([one.mean() for one in runs])
        spread = np.array([one.std(ddof=1) if len(one) > 1 else 0.0 for one in runs])
        colour, line, _, marker = style.look(index)
        axes.fill_between(x, means - spread, means + spread, color=colour, alpha=0.18, linewidth=0)
        name = escaping.figure(f"{rows[-1].name} ({stem})")
        axes.plot(
            x, means, line, marker=marker, color=colour, linewidth=1.6, label=name, **style.DOT
        )
        ends.append((means[-1], x[-1], rows[-1].name, colour))
    style.draw_floors(axes, table, across=True)
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick} %" for tick in TICKS])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(
        xlabel="fraction of the training labels",
        ylabel="macro-F1, %",
        xlim=(min(TICKS) * 0.85, max(TICKS) * 1.15),
    )
    axes.grid(**style.GRID)
    axes.set_axisbelow(True)
    axes.set_title(_title(study, table, "mean over seeds; band: standard deviation"), fontsize=8)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    for _, _, name, colour in ends:  # seen by the layout, which makes room for the longest
        axes.text(
            1.02, 0.5, style.wrapped(name, NAME), transform=axes.transAxes, color=colour, alpha=0
        )
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for text in list(axes.texts):
        text.remove()
    _name(axes, ends)
    return figure


def _name(axes, ends):
    """Name each line to the right of the axes at the height of its end, moved up where it would touch the one below."""
    points = 72 / axes.figure.dpi
    right, top = axes.transAxes.transform((1, 0))[0] * points + 10, -np.inf
    for y, x, name, colour in sorted(ends, key=lambda end: end[0]):
        name = style.wrapped(name, NAME)
        half = APART * (name.count("\n") + 1) / 2
        height = max(axes.transData.transform((x, y))[1] * points, top + half)
        top = height + half
        axes.annotate(
            name,
            (x, y),
            (right, height),
            textcoords="figure points",
            color=colour,
            va="center",
            fontsize=7.5,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "linewidth": 0.5,
                "color": colour,
                "shrinkA": 1,
                "shrinkB": 4,
            },
        )


def _title(study, table, how):
    return f"{style.wrapped(study.question, 100)}\n{escaping.figure(table.title)}\n{how}"
