"""Figure of a paired comparison: differences with intervals, of all instruments and of each."""

from matplotlib.figure import Figure

from .. import escaping
from . import style
from .compare import sentence
from .results import Table

BETTER = {"color": "#0072B2", "marker": ">"}
WORSE = {"color": "#D55E00", "marker": "<"}
UNCERTAIN = {"color": "0.5", "marker": "o"}
OVERALL = {"color": "black", "marker": "D"}


def draw(table: Table, comparison: dict) -> Figure:
    """Draw the result of `compare.compare`: the mean, then each instrument, largest first."""
    overall = comparison["macro_f1"]
    instruments = comparison["per_instrument"].items()
    parts = [item for item in instruments if item[1]["difference"] is not None]
    parts.sort(key=lambda item: -item[1]["difference"])
    figure, axes = style.new_figure(1.5 + 0.2 * len(parts))
    axes.axvline(0, color="0.3", linewidth=1)
    axes.axvspan(100 * overall["low"], 100 * overall["high"], color="0.92", zorder=0)
    _draw_interval(axes, 0, overall, OVERALL)
    for place, (_, part) in enumerate(parts, 2):  # apart from the mean
        _draw_interval(axes, place, part, _look(part))
    places = [0, *range(2, len(parts) + 2)]
    axes.set_yticks(places, ["all instruments", *(style.plain(name) for name, _ in parts)])
    axes.set(
        xlabel=escaping.figure(
            f"difference of macro-F1 on the {comparison['labels']}, points: "
            f"{comparison['b']} - {comparison['a']}"
        ),
        ylim=(places[-1] + 0.7, -0.9),
    )
    axes.tick_params(axis="y", length=0)
    style.add_grid(axes, axis="x")
    legend = (
        f"bars: {comparison['level']} % bootstrap interval over the test split; > and <: it "
        "excludes zero; grey: of all instruments"
    )
    result, _, samples = sentence(comparison).partition(" (")
    title = style.title(table.title, result, f"({samples}", legend)
    axes.set_title(title, fontsize=8)
    return figure


def _draw_interval(axes, place, part, look):
    ends = [100 * part["low"], 100 * part["high"]]
    axes.plot(ends, [place, place], color=look["color"], linewidth=1.4)
    dot = style.DOT | {"markersize": 5.5}
    axes.plot(100 * part["difference"], place, linestyle="", **look, **dot)


def _look(part):
    if part["low"] > 0:
        return BETTER
    if part["high"] < 0:
        return WORSE
    return UNCERTAIN
