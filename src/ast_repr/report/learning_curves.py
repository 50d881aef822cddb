"""Figures of runs: validation and training loss by epoch; a clip before and after reprogramming."""

import math

import numpy as np
from matplotlib.figure import Figure

from .. import escaping
from . import before_after, style
from .results import Method, Run, Table

COLUMNS = 3  # panels side by side
LOSS = {"color": "0.55", "linewidth": 0.9, "linestyle": "--"}


def curve(run: Run) -> dict[int, float]:
    """{epoch: macro-F1 in per cent} on the validation split; empty if there is none."""
    values = {}
    for line in run.history:
        score = (line.get("valid") or {}).get("macro_f1")
        if score is not None:
            values[line["epoch"]] = 100 * score
    return values


def with_curves(table: Table) -> list[Method]:
    """The methods that are validated after more than one epoch."""
    return [method for method in table.methods if max(len(curve(run)) for run in method.runs) > 1]


def curves(table: Table) -> Figure:
    """Draw validation macro-F1 and the training loss against the epoch, a panel per method.

    Thin lines are seeds, the thick one is their mean, dots mark the chosen epochs. The loss has an
    axis for each panel, at its right.
    """
    methods = with_curves(table)
    columns = min(COLUMNS, len(methods))
    rows = math.ceil(len(methods) / columns)
    figure = Figure(figsize=(style.WIDTH, 0.6 + 1.75 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for panel, method in zip(panels, methods, strict=False):
        _draw_panel(panel, method)
    for panel in panels[len(methods) :]:
        panel.set_axis_off()
    figure.supxlabel("epoch", fontsize=8)
    style.label_accuracy(panels[0].yaxis, "validation labels")
    figure.supylabel(panels[0].get_ylabel(), fontsize=8)
    panels[0].set_ylabel("")
    legend = "thin: a seed; thick: mean over seeds; dot: the chosen epoch; grey: training loss"
    figure.suptitle(style.title(table.title, legend), fontsize=8)
    return figure


def example(method: Method, run: Run) -> Figure:
    """Draw the clip that the run has saved, before and after its reprogrammer."""
    arrays = run.arrays("example.npz")
    instruments = ", ".join(map(escaping.plain, str(arrays["instruments"]).split(",")))
    clip = style.wrapped(f"clip {arrays['clip']}: {instruments}", 100)
    title = f"{escaping.figure(method.name)}, seed {run['seed']}\n{clip}"
    return before_after.draw(arrays["before"], arrays["after"], run["norm"], title, run["feature"])


def _draw_panel(panel, method):
    colour = style.KINDS[method.kind]["color"]
    losses = panel.twinx()
    losses.tick_params(labelsize=6, colors=LOSS["color"])
    losses.spines["right"].set(visible=True, color=LOSS["color"])
    panel.set_zorder(losses.get_zorder() + 1)
    panel.patch.set_visible(False)
    seeds = []
    for run in method.runs:
        values = curve(run)
        if not values:
            continue
        seeds.append(values)
        epochs = [line["epoch"] for line in run.history]
        losses.plot(epochs, [line["loss"] for line in run.history], **LOSS)
        panel.plot(values.keys(), values.values(), color=colour, linewidth=0.6, alpha=0.6)
        chosen = run["selection"]["epoch"]
        if chosen in values:
            panel.plot(chosen, values[chosen], "o", color=colour, zorder=3, **style.DOT)
    # The mean is over all seeds: it ends when the first of them stops.
    shared = sorted(set.intersection(*map(set, seeds)))
    means = [np.mean([values[epoch] for values in seeds]) for epoch in shared]
    panel.plot(shared, means, color=colour, linewidth=1.8)
    panel.xaxis.get_major_locator().set_params(integer=True)
    style.add_grid(panel)
    panel.set_title(style.wrapped(method.label, 36), fontsize=7)
