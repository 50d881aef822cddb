"""Figures of methods as wholes: the paper's box plot, and accuracy against cost."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import escaping
from . import style
from .compare import intervals
from .results import Table

PUBLISHED = {"color": "#D55E00", "marker": "x", "linestyle": ""}
SAMPLING = {"color": "0.8", "linewidth": 5, "solid_capstyle": "butt", "zorder": 1.5}
# A logarithmic axis has no zero: "none" stands this factor to the left of the smallest number.
NO_COST = 4


def boxes(table: Table) -> Figure:
    """Draw macro-F1 of each method: its runs as a box and points, its interval, and the baselines.

    Published runs are shown if they are on the table's corpus.
    """
    methods = table.methods
    figure, axes = style.new_figure(1.3 + 0.34 * len(methods))
    extra = []
    bounds = intervals(table)
    for place, method in enumerate(methods):
        _draw_box(axes, place, method, style.percent(method, table.labels))
        axes.plot(style.overall(bounds.get(method.conf)), [place, place], **SAMPLING)
        published = table.published(method)
        if published and published.macro_f1 is not None:
            places = np.full(len(published.macro_f1), place + 0.38)
            axes.plot(published.macro_f1, places, markersize=5, zorder=3, **PUBLISHED)
            extra = [Line2D([], [], label="published run", **PUBLISHED)]
    style.draw_baselines(axes, table, across=False)
    axes.set_yticks(range(len(methods)), [style.wrapped(method.label, 40) for method in methods])
    axes.set_ylim(len(methods) - 0.4, -0.6)
    style.label_accuracy(axes.xaxis, table.labels)
    style.add_grid(axes, axis="x")
    legend = "box: quartiles and median; whiskers: all runs; point: a run"
    sampling = f"grey: {style.INTERVAL}"
    axes.set_title(style.title(table.title, legend, sampling), fontsize=8)
    baselines, _ = axes.get_legend_handles_labels()
    present = {method.kind for method in methods}
    kinds = [
        Line2D([], [], linestyle="", label=kind, **look, **style.DOT)
        for kind, look in style.KINDS.items()
        if kind in present
    ]
    handles = [*baselines, *kinds, *extra]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def accuracy_vs_cost(table: Table, *lines: str) -> Figure:
    """Draw macro-F1 (mean over seeds, interval) against the cost of training, logarithmic.

    At the left that is the number of trained parameters, at the right the seconds of an epoch.

    Args:
        lines: of the title, above those of the table.
    """
    methods = table.methods
    figure = Figure(figsize=(style.WIDTH, 3.9 + 0.09 * len(methods)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    costs = {
        "trained parameters": [method["trainable_parameters"] for method in methods],
        "seconds per epoch": [method.mean("seconds_per_epoch") for method in methods],
    }
    bounds = intervals(table)
    for panel, (label, values) in zip(panels, costs.items(), strict=True):
        _draw_against(panel, values, table, bounds)
        panel.set_xlabel(label)
    style.label_accuracy(panels[0].yaxis, table.labels)
    legend = f"point: mean over seeds; whisker: {style.INTERVAL}"
    figure.suptitle(style.title(*lines, table.title, legend), fontsize=8)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    return figure


def _draw_against(axes, costs, table, bounds):
    """Draw the methods' macro-F1 against a cost of each; "none" stands for zero."""
    least = min(filter(None, costs), default=1)
    for index, (method, cost) in enumerate(zip(table.methods, costs, strict=True)):
        look = style.look(index + index // len(style.MARKERS))
        mean = style.percent(method, table.labels).mean()
        axes.errorbar(
            cost or least / NO_COST,
            mean,
            style.whiskers(mean, style.overall(bounds.get(method.conf))),
            color=look.colour,
            marker=style.MARKERS[index % len(style.MARKERS)],
            linestyle="",
            elinewidth=0.8,
            label=escaping.figure(method.label),
            **style.DOT,
        )
    axes.set_xscale("log")
    axes.margins(x=0.1)
    style.add_grid(axes, axis="y")
    if 0 in costs:
        _mark_none(axes, least, max(costs))


def _draw_box(axes, place, method, runs):
    look = style.KINDS[method.kind]
    line = {"color": look["color"], "linewidth": 1}
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
    heights = place + 0.1 * (np.arange(len(runs)) - (len(runs) - 1) / 2)
    axes.plot(runs, heights, linestyle="", alpha=0.85, zorder=3, **look, **style.DOT)


def _mark_none(axes, least, most):
    """Set the ticks of an axis whose first place stands for zero."""
    edge = least / NO_COST**0.5
    axes.axvline(edge, color="0.6", linewidth=0.8, linestyle=":")
    high = int(np.floor(np.log10(max(most, least))))
    low = min(int(np.ceil(np.log10(least))), high)
    exponents = range(low, high + 1)
    ticks = [10.0**exponent for exponent in exponents]
    labels = [f"$10^{{{exponent}}}$" for exponent in exponents]
    axes.set_xticks([least / NO_COST, *ticks], ["none", *labels])
    axes.set_xticks([], minor=True)
