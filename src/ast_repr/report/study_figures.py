"""Figures of studies: bars, macro-F1 against the training data or the cost, and partial labels."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from .. import escaping
from . import compare, overview, partial_labels, style
from .results import Table
from .studies import Study
from .tables import points

TICKS = (1, 2, 5, 10, 25, 50, 100)  # per cent of the training labels


def bars(study: Study, table: Table) -> Figure:
    """Draw macro-F1 per method: mean as a bar, interval as a whisker, runs as points.

    At the right is the difference from the study's reference. Variants of one conf have one colour.
    """
    base_confs = list(dict.fromkeys(method.base_conf for method in table.methods))
    names = [style.wrapped(method.label, 44) for method in table.methods]
    lines = max(name.count("\n") + 1 for name in names)
    pitch = max(0.3, 0.15 * lines)  # inches
    figure, axes = style.new_figure(1.3 + pitch * len(names))
    bounds = compare.intervals(table)
    comparison = compare.compare_with_reference(table, study.against)
    for place, method in enumerate(table.methods):
        look = style.look(base_confs.index(method.base_conf))
        runs = style.percent(method, table.labels)
        mean = runs.mean()
        bar = {"color": look.colour, "hatch": look.hatch, "alpha": 0.55}
        axes.barh(place, mean, 0.7, edgecolor="white", linewidth=0, **bar)
        whisker = style.whiskers(mean, style.overall(bounds.get(method.conf)))
        axes.errorbar(mean, place, xerr=whisker, color="0.2", elinewidth=1, capsize=2.5)
        axes.plot(runs, np.full(len(runs), place), "o", color=look.colour, zorder=3, **style.DOT)
        right = axes.get_yaxis_transform()
        difference = comparison.differences.get(method.conf)
        text = f"{mean:.1f}" if difference is None else f"{mean:.1f}   {points(difference)}"
        axes.text(1.01, place, text, transform=right, va="center")
    style.draw_baselines(axes, table, across=False)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, None))
    style.label_accuracy(axes.xaxis, table.labels)
    axes.tick_params(axis="y", length=0)
    style.add_grid(axes, axis="x")
    legend = [f"bar and number: mean over seeds; whisker: {style.INTERVAL}; point: a run"]
    if comparison.differences:
        legend.append(
            f"at the right, the difference from {study.against} in points, with its paired interval"
        )
    axes.set_title(_title(study, table, *legend), fontsize=8)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def labels(study: Study, table: Table) -> Figure:
    """Draw macro-F1 against the fraction of training labels."""
    ticks = {tick: f"{tick} %" for tick in TICKS}
    amounts = {method.conf: 100 * method["label_fraction"] for method in table.methods}
    return _curves(study, table, amounts, ticks, "fraction of the training labels")


def clips(study: Study, table: Table) -> Figure:
    """Draw macro-F1 against the number of training clips."""
    amounts = {method.conf: method.mean("train_clips") for method in table.methods}
    ticks = {amount: f"{amount:,.0f}" for amount in sorted(amounts.values())}
    return _curves(study, table, amounts, ticks, "training clips")


def cost(study: Study, table: Table) -> Figure:
    """Draw macro-F1 against trained parameters and seconds per epoch."""
    return overview.accuracy_vs_cost(table, study.question)


def partial(study: Study, table: Table) -> Figure | None:
    """Draw tau and bias of each metric against the share of cells; None if nothing was measured."""
    parts = partial_labels.measure(table).parts
    if not parts:
        return None
    figure = Figure(figsize=(style.WIDTH, 4.6), layout="constrained")
    panels = figure.subplots(2, len(partial_labels.METRICS), sharex=True, sharey="row")
    for column, (metric, name) in enumerate(partial_labels.METRICS.items()):
        top, bottom = panels[:, column]
        for index, source in enumerate(dict.fromkeys(part.source for part in parts)):
            of_source = [part for part in parts if part.source == source]
            shares = [100 * part.share for part in of_source]
            look = style.look(index)
            _draw_band(top, shares, [part.tau[metric] for part in of_source], look, source)
            _draw_band(bottom, shares, [part.bias[metric] for part in of_source], look, None, 100)
        top.set_title(name, fontsize=8)
        for panel, value in ((top, 1), (bottom, 0)):
            panel.axhline(value, color="0.35", linewidth=0.8, zorder=1)
            style.add_grid(panel)
        bottom.set_xscale("log")
        shown = [100 * share for share in partial_labels.SHARES]
        bottom.set_xticks(shown, [f"{share:g}" for share in shown])
        bottom.xaxis.set_minor_locator(NullLocator())
    panels[0, 0].set_ylabel("Kendall's tau with the truth")
    panels[1, 0].set_ylabel("bias, points")
    panels[1, 1].set_xlabel("share of the test cells with a label, %")
    legend = f"line: mean over draws; band: 95 % of the draws; {len(table.methods)} methods"
    figure.suptitle(_title(study, table, legend), fontsize=8)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _curves(study, table, amounts, ticks, x_label):
    """Draw a line per conf with its interval as a band, and below its difference in a panel.

    The legend has the order of the lines' right ends.
    """
    comparison = compare.compare_with_reference(table, study.against)
    n_panels = 2 if comparison.differences else 1
    figure = Figure(figsize=(style.WIDTH, 1.6 + 2.6 * n_panels), layout="constrained")
    panels = figure.subplots(n_panels, 1, sharex=True, squeeze=False).ravel()
    bounds = compare.intervals(table)
    ends = []
    for index, conf in enumerate(dict.fromkeys(method.base_conf for method in table.methods)):
        methods = [method for method in table.methods if method.base_conf == conf]
        methods.sort(key=lambda method: amounts[method.conf])
        places = [amounts[method.conf] for method in methods]
        look = style.look(index)
        names = [method.label for method in methods if not method.is_variant]
        label = names[0] if names else conf
        line = _draw_curve(panels[0], places, methods, label, table.labels, bounds, look)
        ends.append((line.get_ydata()[-1], line))
        compared = [method for method in methods if method.conf in comparison.differences]
        if compared:
            places = [amounts[method.conf] for method in compared]
            values = [comparison.differences[method.conf] for method in compared]
            _draw_band(panels[1], places, values, look, None, 100)
    limits = panels[0].get_ylim()
    style.draw_baselines(panels[0], table, across=True)
    panels[0].set_ylim(limits)  # the legend tells the baselines that are not in view
    style.label_accuracy(panels[0].yaxis, table.labels)
    if comparison.differences:
        panels[1].axhline(0, color="0.35", linewidth=0.8, zorder=1)
        panels[1].set_ylabel(f"difference from {escaping.figure(study.against)}, points")
    for panel in panels:
        style.add_grid(panel)
    axes = panels[-1]
    axes.set_xscale("log")
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel=x_label, xlim=(min(ticks) * 0.85, max(ticks) * 1.15))
    legend = f"line: mean over seeds; band: {style.INTERVAL}"
    figure.suptitle(_title(study, table, legend), fontsize=8)
    ends.sort(key=lambda end: -end[0])
    drawn = [line for _, line in ends]
    baselines = [line for line in panels[0].lines if line not in drawn]
    figure.legend(handles=drawn, loc="outside right center", frameon=False)
    figure.legend(handles=baselines, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_curve(axes, places, methods, label, labels, bounds, look):
    """Draw the means of methods with their intervals; return the line."""
    means = [style.percent(method, labels).mean() for method in methods]
    ends = np.array([style.overall(bounds.get(method.conf)) for method in methods]).T
    axes.fill_between(places, *ends, color=look.colour, alpha=0.18, linewidth=0)
    (line,) = axes.plot(
        places,
        means,
        look.line,
        marker=look.marker,
        color=look.colour,
        linewidth=1.6,
        label=style.wrapped(label, 30),
        **style.DOT,
    )
    return line


def _draw_band(axes, places, estimates, look, label, scale=1):
    """Draw values with their bounds as a band."""
    values = [scale * estimate.value for estimate in estimates]
    low = [scale * estimate.low for estimate in estimates]
    high = [scale * estimate.high for estimate in estimates]
    axes.fill_between(places, low, high, color=look.colour, alpha=0.18, linewidth=0)
    axes.plot(
        places,
        values,
        look.line,
        marker=look.marker,
        color=look.colour,
        label=label,
        **style.DOT,
    )


def _title(study, table, *legend):
    return "\n".join(
        [
            style.wrapped(study.question, 100),
            escaping.figure(table.title),
            *map(escaping.figure, legend),
        ]
    )
