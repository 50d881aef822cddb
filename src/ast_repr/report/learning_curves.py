"""Figures of runs: validation score per epoch, and a clip before and after the reprogrammer."""

import numpy as np
from matplotlib.figure import Figure

from .. import escaping
from . import before_after, style

ACROSS = 3  # panels side by side


def curve(run):
    """{epoch: macro-F1 in per cent} on the validation split; empty if there is none."""
    seen = {line["epoch"]: (line.get("valid") or {}).get("macro_f1") for line in run.history}
    return {epoch: 100 * score for epoch, score in seen.items() if score is not None}


def learning(table):
    """The rows that have a curve to show: those not trained in one go."""
    return [row for row in table.rows if max(len(curve(run)) for run in row.runs) > 1]


def curves(table):
    """Validation macro-F1 against the epoch, a panel per row.

    Thin lines are seeds, the thick one is their mean, dots mark the chosen epochs.
    """
    rows = learning(table)
    columns = min(ACROSS, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(style.WIDTH, 0.6 + 1.75 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for panel, row in zip(panels, rows, strict=False):
        colour, _ = style.KIND[row.kind]
        runs = [run for run in row.runs if curve(run)]
        seeds = [curve(run) for run in runs]
        for run, seed in zip(runs, seeds, strict=True):
            panel.plot(seed.keys(), seed.values(), color=colour, linewidth=0.6, alpha=0.6)
            chosen = run["selection"]["epoch"]
            if chosen in seed:
                panel.plot(chosen, seed[chosen], "o", color=colour, zorder=3, **style.DOT)
        # The mean is over all seeds: it ends where the first of them stopped.
        shared = sorted(set.intersection(*(set(seed) for seed in seeds)))
        panel.plot(
            shared,
            [np.mean([seed[epoch] for seed in seeds]) for epoch in shared],
            color=colour,
            linewidth=1.8,
        )
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(**style.GRID)
        panel.set_axisbelow(True)
        panel.set_title(style.wrapped(row.label, 36), fontsize=7)
    for panel in panels[len(rows) :]:
        panel.set_axis_off()
    figure.supxlabel("epoch", fontsize=8)
    figure.supylabel("validation macro-F1, %", fontsize=8)
    figure.suptitle(
        f"{escaping.figure(table.title)}\nthin: a seed; thick: their mean; dot: the epoch chosen",
        fontsize=8,
    )
    return figure


def example(row, run):
    """The clip that the run has kept, before and after its reprogrammer."""
    found = run.example()
    instruments = ", ".join(map(escaping.plain, str(found["instruments"]).split(",")))
    clip = style.wrapped(f"clip {found['clip']}: {instruments}", 100)
    title = f"{escaping.figure(row.name)}, seed {run['seed']}\n{clip}"
    return before_after.draw(found["before"], found["after"], run["norm"], title)
