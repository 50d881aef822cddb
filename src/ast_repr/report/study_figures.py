"""Figures of studies: bars, or macro-F1 against the fraction of training labels."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from .. import escaping
from . import style
from .results import Table
from .studies import Study

TICKS = (1, 2, 5, 10, 25, 50, 100)  # per cent of the training labels


def bars(study: Study, table: Table) -> Figure:
    """Draw macro-F1 per method: mean as a bar, deviation as a whisker, runs as points.

    Variants of one conf have one colour.
    """
    base_confs = list(dict.fromkeys(method.base_conf for method in table.methods))
    names = [style.wrapped(method.label, 44) for method in table.methods]
    lines = max(name.count("\n") + 1 for name in names)
    pitch = max(0.3, 0.15 * lines)  # inches
    figure, axes = style.new_figure(1.2 + pitch * len(names))
    for place, method in enumerate(table.methods):
        look = style.look(base_confs.index(method.base_conf))
        runs = style.percent(method.runs)
        mean = runs.mean()
        bar = {"color": look.colour, "hatch": look.hatch, "alpha": 0.55}
        axes.barh(place, mean, 0.7, edgecolor="white", linewidth=0, **bar)
        deviation = style.deviation(method.runs)
        axes.errorbar(mean, place, xerr=deviation, color="0.2", elinewidth=1, capsize=2.5)
        axes.plot(runs, np.full(len(runs), place), "o", color=look.colour, zorder=3, **style.DOT)
        right = axes.get_yaxis_transform()
        axes.text(1.01, place, f"{mean:.1f}", transform=right, va="center")
    style.draw_baselines(axes, table, across=False)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="macro-F1, %", ylim=(len(names) - 0.4, -0.6), xlim=(0, None))
    axes.tick_params(axis="y", length=0)
    style.add_grid(axes, axis="x")
    legend = "bar and number: mean over seeds; whisker: standard deviation; point: a run"
    axes.set_title(_title(study, table, legend), fontsize=8)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def labels(study: Study, table: Table) -> Figure:
    """Draw macro-F1 against the fraction of training labels: a line per conf, its deviation a band.

    The legend has the order of the lines' right ends.
    """
    figure, axes = style.new_figure(4.4)
    lines = []
    for index, conf in enumerate(dict.fromkeys(method.base_conf for method in table.methods)):
        methods = [method for method in table.methods if method.base_conf == conf]
        methods.sort(key=lambda method: method["label_fraction"])
        fractions = 100 * np.array([method["label_fraction"] for method in methods])
        means = np.array([style.percent(method.runs).mean() for method in methods])
        spread = np.array([style.deviation(method.runs) or 0.0 for method in methods])
        look = style.look(index)
        band = (means - spread, means + spread)
        axes.fill_between(fractions, *band, color=look.colour, alpha=0.18, linewidth=0)
        (line,) = axes.plot(
            fractions,
            means,
            look.line,
            marker=look.marker,
            color=look.colour,
            linewidth=1.6,
            label=style.wrapped(methods[-1].label, 30),
            **style.DOT,
        )
        lines.append((means[-1], line))
    style.draw_baselines(axes, table, across=True)
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick} %" for tick in TICKS])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(
        xlabel="fraction of the training labels",
        ylabel="macro-F1, %",
        xlim=(min(TICKS) * 0.85, max(TICKS) * 1.15),
    )
    style.add_grid(axes)
    legend = "mean over seeds; band: standard deviation"
    axes.set_title(_title(study, table, legend), fontsize=8)
    lines.sort(key=lambda end: -end[0])
    drawn = [line for _, line in lines]
    baselines = [line for line in axes.lines if line not in drawn]
    figure.legend(handles=drawn, loc="outside right center", frameon=False)
    figure.legend(handles=baselines, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _title(study, table, legend):
    return f"{style.wrapped(study.question, 100)}\n{escaping.figure(table.title)}\n{legend}"
