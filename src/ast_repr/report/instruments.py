"""Figures of instruments: bars for chosen rows, and a heat map of all of them."""

import numpy as np
from matplotlib.figure import Figure

from .. import escaping
from . import style
from .results import KINDS
from .schema import FLOORS

SHOWN = 6  # rows that bars can show legibly


def chosen(table, names=None):
    """The rows that the bars show, as a table.

    Args:
        table: `results.Table`.
        names: confs or variants; default, or where the table has none of them: at most SHOWN plain rows by a rule that sees no
            score. One row of each kind (KINDS), and reprogrammed ones in the places that are left; within a kind those with a
            published number come first, then fewer trained parameters.
    """
    if names and table.only(names).rows:
        return table.only(names)
    kinds = {kind: [row for row in table.main.rows if row.kind == kind] for kind in KINDS}
    kinds = {
        kind: sorted(rows, key=lambda row: row["published"] is None) for kind, rows in kinds.items()
    }
    one_each = [row for rows in kinds.values() for row in rows[:1]]
    rest = kinds["reprogrammed AST"][1:] + [
        row for kind, rows in kinds.items() if kind != "reprogrammed AST" for row in rows[1:]
    ]
    taken = [row.conf for row in (one_each + rest)[:SHOWN]]
    return table.only([row.conf for row in table.rows if row.conf in taken])


def bars(table):
    """macro-F1 of each instrument and row with the deviation over seeds, and the two floors as lines."""
    names, rows = table["classes"], table.rows
    columns = 2 if len(names) > 10 else 1
    each = -(-len(names) // columns)
    height = 1.5 + 0.17 * len(rows) + each * max(0.3, 0.09 * len(rows) + 0.08)
    figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
    panels = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
    for panel, part in zip(
        panels, (names[start : start + each] for start in range(0, len(names), each))
    ):
        _panel(panel, table, part)
        panel.set(xlabel="macro-F1, %", xlim=(0, 100), ylim=(each - 0.5, -0.5))
    whiskers = (
        "; whiskers: standard deviation over seeds"
        if max(len(row.runs) for row in rows) > 1
        else ""
    )
    figure.suptitle(
        f"{escaping.figure(table.title)}\n"
        f"under each instrument: labels present / absent in {table['split']!r}{whiskers}",
        fontsize=8,
    )
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    return figure


def _panel(panel, table, part):
    bar, places = 0.8 / len(table.rows), np.arange(len(part))
    for index, row in enumerate(table.rows):
        colour, _, hatch, _ = style.look(index)
        means, deviations = style.per_instrument(row.values("metrics"), part)
        panel.barh(
            places - 0.4 + (index + 0.5) * bar,
            means,
            0.92 * bar,
            xerr=deviations if len(row.runs) > 1 else None,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0,
            error_kw={"elinewidth": 0.7, "ecolor": "0.25"},
            label=style.wrapped(row.label, 55),
        )
    for floor, label in FLOORS.items():
        means, _ = style.per_instrument([table["constant_baselines"][floor]], part)
        panel.vlines(means, places - 0.43, places + 0.43, "white", linewidth=2.4, zorder=4)
        line = style.FLOOR_LINES[floor]
        panel.vlines(
            means,
            places - 0.43,
            places + 0.43,
            "black",
            line,
            linewidth=1.1,
            zorder=4,
            label=f"floor: {label}",
        )
    labels = [table["metrics"]["per_instrument"][name] for name in part]
    panel.set_yticks(
        places,
        [
            f"{style.plain(name)}\n{found['present']} / {found['absent']}"
            for name, found in zip(part, labels)
        ],
    )
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x", **style.GRID)
    panel.set_axisbelow(True)


def heatmap(table):
    """macro-F1 of each row (down) and instrument (across), mean over seeds, its number in each cell; first the mean of all."""
    names = table["classes"]
    values = [
        np.append(
            style.percent(row.runs).mean(), style.per_instrument(row.values("metrics"), names)[0]
        )
        for row in table.rows
    ]
    values = np.array(values)
    decimals = 1 if len(names) <= 12 else 0  # what fits
    figure = Figure(figsize=(style.WIDTH, 1.9 + 0.26 * len(values)), layout="constrained")
    axes = figure.add_subplot()
    low, high = np.nanmin(values), np.nanmax(values)
    axes.set_facecolor("0.85")  # an instrument without labels
    image = axes.imshow(
        values, cmap="cividis", vmin=low, vmax=high, aspect="auto", interpolation="nearest"
    )
    for (line, column), value in np.ndenumerate(values):
        dark = value < (low + high) / 2
        shown = "-" if np.isnan(value) else f"{value:.{decimals}f}"
        axes.text(
            column,
            line,
            shown,
            ha="center",
            va="center",
            color="white" if dark else "black",
            fontsize=6.5,
        )
    axes.axvline(0.5, color="white", linewidth=3)
    axes.set_xticks(range(len(names) + 1), ["mean", *map(style.plain, names)], rotation=90)
    axes.set_yticks(
        range(len(values)), [style.wrapped(row.label, 34) for row in table.rows], fontsize=7
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="macro-F1, %", pad=0.01, aspect=30)
    figure.suptitle(escaping.figure(table.title), fontsize=8)
    return figure
