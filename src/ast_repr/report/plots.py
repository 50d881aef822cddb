"""Figures of a table, for screen and paper: Okabe and Ito's colours, which the colour-blind tell apart, as PNG and PDF.

Each function draws and returns a matplotlib Figure, without pyplot and so without a display; `save` writes it.
"""

import textwrap

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from .. import files
from .results import FLOORS, mean_std

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
DOT = {"markersize": 4.5, "markeredgewidth": 0.6}
LINES, HATCHES = ["-", "--", ":"], ["", "////", "...."]  # tell rows apart once the colours are used up
STYLE = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42, "hatch.linewidth": 0.5}
FRAMES_PER_SECOND = 100  # of the log-mel
WIDTH_INCHES = 7.2  # a page of A4 within its margins
OUTLIERS = 0.5  # per cent at each end that a colour scale leaves out


def draw(table):
    """Draw all that a table's files allow.

    Returns:
        dict of a file's stem to its Figure: instruments; curves, where a validation split was looked at; and an example
        for each row that has a reprogrammer and saved one.
    """
    with matplotlib.rc_context(STYLE):
        figures = {f"{table.stem}.instruments": instruments(table)}
        if any(_curve(run) for run in table.runs):
            figures[f"{table.stem}.curves"] = curves(table)
        for row in table.rows:
            saved = next((run for run in row.runs if (run.folder / "example.npz").is_file()), None)
            if saved and row["reprogrammer"] != "none":
                figures[f"{table.stem}.example.{row.conf}"] = example(row, saved)
    return figures


def save(figure, folder, stem):
    """Write `figure` as PNG (200 dots an inch) and PDF; returns the two paths."""
    paths = [folder / f"{stem}.{kind}" for kind in ("png", "pdf")]
    with matplotlib.rc_context(STYLE):
        for path, metadata in zip(paths, (None, {"CreationDate": None})):  # the same results give the same bytes
            with files.replacing(path) as partial:
                figure.savefig(partial, format=path.suffix[1:], dpi=200, metadata=metadata)
    return paths


def curves(table):
    """Validation macro-F1 against the epoch: thin for a seed, thick for the mean, a dot at the epoch chosen."""
    figure = Figure(figsize=(WIDTH_INCHES, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for index, row in enumerate(table.rows):
        colour, line, _ = _look(index)
        seeds = [_curve(run) for run in row.runs]
        for run, seed in zip(row.runs, seeds):
            axes.plot(seed.keys(), seed.values(), line, color=colour, linewidth=0.6, alpha=0.6)
            chosen = run["selection"]["epoch"]
            if chosen in seed:
                axes.plot(chosen, seed[chosen], "o", color=colour, markeredgecolor="white", zorder=3, **DOT)
        # The mean is over all seeds: it ends where the first of them stopped.
        shared = sorted(set.intersection(*(set(seed) for seed in seeds)))
        means = [np.mean([seed[epoch] for seed in seeds]) for epoch in shared]
        axes.plot(shared, means, line, color=colour, linewidth=2, label=_label(row))
    axes.plot([], [], "o", color="0.4", **DOT, label="epoch chosen, one dot a seed")
    axes.set(xlabel="epoch", ylabel="validation macro-F1, %")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(table.title, fontsize=8)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def instruments(table):
    """macro-F1 of each instrument and row as bars with the deviation over seeds, and the two floors as lines."""
    names, rows = table["classes"], table.rows
    columns = 2 if len(names) > 10 else 1
    each = -(-len(names) // columns)
    bar = 0.8 / len(rows)
    height = 1.5 + 0.17 * len(rows) + each * max(0.3, 0.09 * len(rows) + 0.08)
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    panels = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
    for panel, part in zip(panels, (names[start : start + each] for start in range(0, len(names), each))):
        places = np.arange(len(part))
        for index, row in enumerate(rows):
            colour, _, hatch = _look(index)
            means, deviations = _per_instrument(row.values("metrics"), part)
            panel.barh(
                places - 0.4 + (index + 0.5) * bar, means, 0.92 * bar, xerr=deviations if len(row.runs) > 1 else None,
                color=colour, hatch=hatch, edgecolor="white", linewidth=0, error_kw={"elinewidth": 0.7, "ecolor": "0.25"},
                label=_label(row),
            )  # fmt: skip
        for (floor, label), style in zip(FLOORS.items(), ("-", (0, (2, 1)))):
            means, _ = _per_instrument([table["floors"][floor]], part)
            panel.vlines(means, places - 0.43, places + 0.43, "white", linewidth=2.4, zorder=4)
            panel.vlines(means, places - 0.43, places + 0.43, "black", style, linewidth=1.1, zorder=4, label=f"floor: {label}")
        labels = [table["metrics"]["per_instrument"][name] for name in part]
        panel.set_yticks(places, [f"{_plain(name)}\n{found['present']} / {found['absent']}" for name, found in zip(part, labels)])
        panel.tick_params(axis="y", length=0)
        panel.set(xlabel="macro-F1, %", xlim=(0, 100), ylim=(each - 0.5, -0.5))
        panel.grid(axis="x", color="0.9", linewidth=0.6)
        panel.set_axisbelow(True)
    whiskers = "; whiskers: standard deviation over seeds" if max(len(row.runs) for row in rows) > 1 else ""
    figure.suptitle(f"{table.title}\nunder each instrument: labels present / absent in {table['split']!r}{whiskers}", fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def example(row, run):
    """One clip as it enters the reprogrammer, as it leaves it, and the difference; each has a colour scale of its own."""
    found = run.example()
    before, after = (found[key].astype(np.float32) for key in ("before", "after"))
    figure = Figure(figsize=(WIDTH_INCHES, 6.4), layout="constrained")
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
    clip = f"clip {found['clip']}: {', '.join(map(_plain, str(found['instruments']).split(',')))}"
    figure.suptitle("\n".join([f"{row.name}, seed {run['seed']}", *textwrap.wrap(clip, 100)]), fontsize=9)
    return figure


def _curve(run):
    """{epoch: macro-F1 in per cent} on the validation split; empty under a protocol that has none."""
    seen = {line["epoch"]: line.get("valid", {}).get("macro_f1") for line in run.history}
    return {epoch: 100 * score for epoch, score in seen.items() if score is not None}


def _look(index):
    """(colour, line, hatch) of row number `index`."""
    turn = index // len(COLOURS) % len(LINES)
    return COLOURS[index % len(COLOURS)], LINES[turn], HATCHES[turn]


def _label(row):
    return "\n".join(textwrap.wrap(f"{row.name} ({row.conf})", 55, break_on_hyphens=False))


def _plain(name):
    return name.strip().replace("_", " ")


def _per_instrument(scores, names):
    """(means, deviations) of macro-F1 in per cent over runs, arrays (names,); NaN where an instrument has no value."""
    found = [mean_std([one["per_instrument"][name]["macro_f1"] for one in scores]) for name in names]
    return 100 * np.array([[mean, deviation] for mean, deviation, _ in found], dtype=float).T  # float makes None NaN
