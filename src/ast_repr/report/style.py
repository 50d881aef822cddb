"""What the figures share: Okabe and Ito's colours, which the colour-blind tell apart, sizes, labels, floors, and saving.

Figures are matplotlib's own, without pyplot and so without a display. Colour is never the only thing that tells rows apart:
lines, hatches and markers do so in print without colour.
"""

import textwrap
import warnings
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np

from .. import atomic, escaping
from .results import KINDS, mean_std
from .schema import FLOORS

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
LINES, HATCHES = ["-", "--", ":"], ["", "////", "...."]  # once the colours are used up
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
KIND = dict(
    zip(KINDS, zip(["#E69F00", "#000000", "#0072B2", "#CC79A7"], ["s", "o", "^", "D"]))
)  # (colour, marker)
FLOOR_LINES = {"always_absent": "-", "always_present": (0, (2, 1))}
DOT = {"markersize": 4.5, "markeredgewidth": 0.6, "markeredgecolor": "white"}
STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "hatch.linewidth": 0.5,
}
WIDTH = 7.2  # inches: a page of A4 within its margins
GRID = {"color": "0.9", "linewidth": 0.6}


@contextmanager
def writing():
    """While a figure is written: its style, and no warning of letters that the font lacks, for which it has boxes."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def save(figure, folder, stem):
    """Write `figure` as PNG (200 dots an inch) and PDF, the same bytes for the same figure; returns the two paths."""
    paths = [Path(folder) / f"{stem}.{kind}" for kind in ("png", "pdf")]
    with writing():
        for path, metadata in zip(paths, (None, {"CreationDate": None})):
            with atomic.replacing(path) as partial:
                figure.savefig(partial, format=path.suffix[1:], dpi=200, metadata=metadata)
    return paths


def look(index):
    """(colour, line, hatch, marker) of row number `index`."""
    turn = index // len(COLOURS) % len(LINES)
    return COLOURS[index % len(COLOURS)], LINES[turn], HATCHES[turn], MARKERS[index % len(MARKERS)]


def wrapped(label, width):
    """A label in lines of at most `width` characters."""
    return "\n".join(textwrap.wrap(escaping.figure(label), width, break_on_hyphens=False))


def plain(name):
    """An instrument's name as it is read aloud."""
    return escaping.figure(escaping.plain(name))


def percent(runs):
    """macro-F1 of each run in per cent, array (n,)."""
    return 100 * np.array([run["metrics"]["macro_f1"] for run in runs])


def per_instrument(scores, names):
    """(means, deviations) of macro-F1 in per cent over runs, arrays (names,); NaN where an instrument has no value."""
    found = [
        mean_std([one["per_instrument"][name]["macro_f1"] for one in scores]) for name in names
    ]
    return (
        100 * np.array([[mean, deviation] for mean, deviation, _ in found], dtype=float).T
    )  # float makes None NaN


def floors(table):
    """{floor: (macro-F1 in per cent, label, line)}."""
    return {
        key: (
            100 * table["constant_baselines"][key]["macro_f1"],
            f"floor: {name}",
            FLOOR_LINES[key],
        )
        for key, name in FLOORS.items()
    }


def draw_floors(axes, table, across):
    """The two floors as lines over `axes`: across it, or down."""
    line = axes.axhline if across else axes.axvline
    for value, label, style in floors(table).values():
        line(
            value,
            color="0.35",
            linestyle=style,
            linewidth=1,
            label=f"{label} ({value:.1f})",
            zorder=1,
        )
