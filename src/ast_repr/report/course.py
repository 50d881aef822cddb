"""Figures of single runs: validation score against the epoch, and a clip before and after the reprogrammer."""

import textwrap

import numpy as np
from matplotlib.figure import Figure

from . import style

FRAMES_PER_SECOND = 100  # of the log-mel
OUTLIERS = 0.5  # per cent at each end that a colour scale leaves out
ACROSS = 3  # panels side by side


def curve(run):
    """{epoch: macro-F1 in per cent} on the validation split; empty under a protocol that has none."""
    seen = {line["epoch"]: (line.get("valid") or {}).get("macro_f1") for line in run.history}
    return {epoch: 100 * score for epoch, score in seen.items() if score is not None}


def learning(table):
    """The rows that have a curve to show: those not trained in one go."""
    return [row for row in table.rows if max(len(curve(run)) for run in row.runs) > 1]


def curves(table):
    """Validation macro-F1 against the epoch, a panel a row: thin for a seed, thick for the mean, a dot at the epoch chosen."""
    rows = learning(table)
    columns = min(ACROSS, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(style.WIDTH, 0.6 + 1.75 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for panel, row in zip(panels, rows):
        colour, _ = style.KIND[row.kind]
        seeds = [curve(run) for run in row.runs]
        for run, seed in zip(row.runs, seeds):
            panel.plot(seed.keys(), seed.values(), color=colour, linewidth=0.6, alpha=0.6)
            chosen = run["selection"]["epoch"]
            if chosen in seed:
                panel.plot(chosen, seed[chosen], "o", color=colour, zorder=3, **style.DOT)
        # The mean is over all seeds: it ends where the first of them stopped.
        shared = sorted(set.intersection(*(set(seed) for seed in seeds)))
        panel.plot(shared, [np.mean([seed[epoch] for seed in seeds]) for epoch in shared], color=colour, linewidth=1.8)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(**style.GRID)
        panel.set_axisbelow(True)
        panel.set_title(style.wrapped(row.label, 36), fontsize=7)
    for panel in panels[len(rows) :]:
        panel.set_axis_off()
    figure.supxlabel("epoch", fontsize=8)
    figure.supylabel("validation macro-F1, %", fontsize=8)
    figure.suptitle(f"{table.title}\nthin: a seed; thick: their mean; dot: the epoch chosen", fontsize=8)
    return figure


def example(row, run):
    """One clip as it enters the reprogrammer, as it leaves it, and the difference; each has a colour scale of its own."""
    found = run.example()
    before, after = (found[key].astype(np.float32) for key in ("before", "after"))
    figure = Figure(figsize=(style.WIDTH, 6.4), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    raw = run["norm"] == "none"
    parts = [
        ("before the reprogrammer", before, "log-mel energy\n(natural log)" if raw else f"log-mel, normalised\n({run['norm']})"),
        ("after: what the backbone gets", after, f"reprogrammed {'' if raw else 'normalised '}\nlog-mel"),
        ("difference: after - before", after - before, f"change in {'' if raw else 'normalised '}\nlog-mel"),
    ]
    sounding = np.ptp(before, axis=1) > 0  # padding is one value; left in, it would rule the colour scales
    for panel, (title, values, label) in zip(panels, parts):
        signed = title.startswith("difference")
        low, high = np.percentile(values[sounding] if sounding.any() else values, [OUTLIERS, 100 - OUTLIERS])
        reach = max(abs(low), abs(high), 1e-6)
        low, high = (-reach, reach) if signed else (low, max(high, low + 1e-6))
        extent = (0, len(values) / FRAMES_PER_SECOND, -0.5, values.shape[1] - 0.5)
        image = panel.imshow(
            values.T, cmap="PuOr_r" if signed else "cividis", vmin=low, vmax=high, extent=extent, origin="lower", aspect="auto",
            interpolation="nearest",
        )  # fmt: skip
        panel.set(title=title, ylabel="mel band")
        figure.colorbar(image, ax=panel, label=label, extend="both", pad=0.01)
    panels[-1].set_xlabel("time, s")
    clip = f"clip {found['clip']}: {', '.join(map(style.plain, str(found['instruments']).split(',')))}"
    figure.suptitle("\n".join([f"{row.name}, seed {run['seed']}", *textwrap.wrap(clip, 100)]), fontsize=9)
    return figure
