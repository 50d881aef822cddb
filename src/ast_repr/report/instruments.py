"""Figures of instruments: bars for chosen methods, and a heat map of all."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from . import style
from .compare import intervals
from .results import KINDS, Table
from .schema import BASELINES

MOST = 6  # methods that bars can show legibly
MOST_NUMBERS = 25  # classes whose numbers fit into a heat map


def chosen(table: Table, confs: Sequence[str] = ()) -> Table:
    """Choose the methods that the bars show.

    Args:
        confs: their names. By default, or if the table has none of them: at most MOST without
            variants, by a rule that ignores scores. One method of each kind (KINDS), then further
            reprogrammed ones, then others; within a kind, those with published results come first,
            then those with fewer trained parameters.
    """
    named = table.only(confs)
    if named.methods:
        return named
    kinds = set()
    ranks = {}
    methods = sorted(table.main.methods, key=lambda method: method.published is None)
    for method in sorted(methods, key=lambda method: KINDS.index(method.kind)):
        ranks[method.conf] = (method.kind in kinds, method.kind != "reprogrammed backbone")
        kinds.add(method.kind)
    shown = sorted(ranks, key=ranks.get)[:MOST]
    return table.only([conf for conf in table.confs if conf in shown])


def bars(table: Table) -> Figure:
    """Draw macro-F1 per instrument and method with its interval, and the baselines as lines."""
    names = table["classes"]
    columns = 2 if len(names) > 10 else 1
    per_column = math.ceil(len(names) / columns)
    count = len(table.methods)
    height = 1.7 + 0.17 * count + per_column * max(0.3, 0.09 * count + 0.08)
    figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
    panels = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
    bounds = intervals(table)
    for column, panel in enumerate(panels):
        shown = slice(column * per_column, (column + 1) * per_column)
        _draw_panel(panel, table, shown, bounds)
        panel.set(xlim=(0, 100), ylim=(per_column - 0.5, -0.5))
        style.label_accuracy(panel.xaxis, table.labels)
    legend = (
        f"under each class: clips with it / without it in {table['split']!r}, by the "
        f"{table.labels}; whiskers: {style.INTERVAL}"
    )
    figure.suptitle(style.title(table.title, legend), fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def heatmap(table: Table) -> Figure:
    """Draw macro-F1 of each method (down) and instrument (across), the mean over instruments first.

    Numbers are means over seeds with half the width of their interval; left out if there are more
    instruments than fit.
    """
    names = table["classes"]
    bounds = intervals(table)
    values = np.empty((len(table.methods), len(names) + 1))
    halves = np.full(values.shape, np.nan)
    for row, method in enumerate(table.methods):
        values[row, 0] = style.percent(method, table.labels).mean()
        values[row, 1:] = style.per_instrument(method.metrics(table.labels), names)
        if method.conf in bounds:
            low, high = bounds[method.conf]
            halves[row] = np.roll(50 * (high - low), 1)  # the mean comes first
    figure, axes = style.new_figure(2.3 + 0.36 * len(values))
    low = np.nanmin(values)
    high = np.nanmax(values)
    axes.set_facecolor("0.85")  # an instrument without labels
    image = axes.imshow(
        values, cmap="cividis", vmin=low, vmax=high, aspect="auto", interpolation="nearest"
    )
    has_numbers = len(names) <= MOST_NUMBERS
    if has_numbers:
        _write_numbers(axes, values, halves, (low + high) / 2)
    axes.axvline(0.5, color="white", linewidth=3)
    labels = [f"{style.plain(name)}, {_counts(table, name)}" for name in names]
    size = None if has_numbers else 6
    axes.set_xticks(range(len(names) + 1), ["mean", *labels], rotation=90, fontsize=size)
    labels = [style.wrapped(method.label, 34) for method in table.methods]
    axes.set_yticks(range(len(values)), labels, fontsize=7)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    colours = figure.colorbar(image, ax=axes, pad=0.01, aspect=30)
    style.label_accuracy(colours.ax.yaxis, table.labels)
    legend = f"after each class: clips with it / without it, by the {table.labels}"
    if has_numbers:
        legend = f"±: half of the {style.INTERVAL}; {legend}"
    figure.suptitle(style.title(table.title, legend), fontsize=8)
    return figure


def _write_numbers(axes, values, halves, middle):
    """Write values and half intervals into the cells: white below the middle of the colours."""
    decimals = 1 if values.shape[1] <= 13 else 0  # what fits
    for (row, column), value in np.ndenumerate(values):
        text = "-" if np.isnan(value) else f"{value:.{decimals}f}"
        half = halves[row, column]
        if not np.isnan(half):
            text += f"\n±{half:.{decimals}f}"
        colour = "white" if value < middle else "black"
        axes.text(column, row, text, color=colour, ha="center", va="center", fontsize=6)


def _counts(table, name):
    """How many test clips have an instrument and how many lack it, as far as is known."""
    counts = table.scored_on(table.labels)["metrics"]["per_instrument"][name]
    return f"{counts['present']} / {counts['absent']}"


def _draw_panel(panel, table, shown, bounds):
    names = table["classes"][shown]
    height = 0.8 / len(table.methods)
    places = np.arange(len(names))
    for index, method in enumerate(table.methods):
        look = style.look(index)
        means = style.per_instrument(method.metrics(table.labels), names)
        whiskers = None
        if method.conf in bounds:
            ends = [100 * bound[:-1][shown] for bound in bounds[method.conf]]
            whiskers = style.whiskers(means, ends)
        panel.barh(
            places - 0.4 + (index + 0.5) * height,
            means,
            0.92 * height,
            xerr=whiskers,
            color=look.colour,
            hatch=look.hatch,
            edgecolor="white",
            linewidth=0,
            error_kw={"elinewidth": 0.7, "ecolor": "0.25"},
            label=style.wrapped(method.label, 55),
        )
    for baseline, label in BASELINES.items():
        scores = table.baseline_metrics(baseline, table.labels)
        means = style.per_instrument(scores, names)
        ends = (places - 0.43, places + 0.43)
        panel.vlines(means, *ends, "white", linewidth=2.4, zorder=4)
        look = {"linestyles": style.BASELINE_LINES[baseline], "label": f"baseline: {label}"}
        panel.vlines(means, *ends, "black", linewidth=1.1, zorder=4, **look)
    panel.set_yticks(places, [f"{style.plain(name)}\n{_counts(table, name)}" for name in names])
    panel.tick_params(axis="y", length=0)
    style.add_grid(panel, axis="x")
