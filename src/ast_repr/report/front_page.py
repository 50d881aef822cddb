"""Tables of results in the repository's README, and a picture of the method."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from .. import atomic
from . import style
from .before_after import OUTLIERS
from .results import Run

MARKS = ("<!-- {name}: written by src/report.py --readme -->\n", "<!-- end of {name} -->")
SECONDS = 5.0  # of the clip that are shown
TRAINED_COLOUR = "#D55E00"
FROZEN_COLOUR = "0.45"


class ReadmeError(ValueError):
    """A README without the place for a table."""


def insert_table(readme: Path, name: str, table: str) -> None:
    """Replace the table between the two marks of a name in a README.

    Raises:
        ReadmeError: the marks are missing, or in the wrong order.
    """
    page = readme.read_text(encoding="utf-8")
    begin_mark, end_mark = (mark.format(name=name) for mark in MARKS)
    start = page.find(begin_mark)
    end = page.find(end_mark, start)
    if start < 0 or end < 0:
        raise ReadmeError(
            f"{readme}: no place for the {name}; expected {begin_mark.strip()} and {end_mark}"
        )
    page = f"{page[: start + len(begin_mark)]}{table}\n{page[end:]}"
    atomic.write_text(readme, page)


def draw_overview(run: Run) -> Figure:
    """Draw the path of the clip of `example.npz` through a reprogrammed classifier."""
    example = run.arrays("example.npz")
    before = example["before"]
    after = example["after"]
    trained = run["trainable_parameters"]
    frozen = run["total_parameters"] - trained
    figure = Figure(figsize=(style.WIDTH, 1.9), layout="constrained")
    panels = figure.subplots(1, 5, width_ratios=[1.5, 0.9, 1.5, 0.9, 0.9])
    frames = round(SECONDS * style.frames_per_second(run["feature"]))
    _draw_log_mel(panels[0], before[:frames], "log-mel of a clip")
    _draw_box(panels[1], "reprogrammer\n(trained)", TRAINED_COLOUR)
    _draw_log_mel(panels[2], after[:frames], "reprogrammed log-mel")
    _draw_box(panels[3], f"pre-trained AST\n(frozen)\n{frozen:,}\nparameters", FROZEN_COLOUR)
    _draw_box(panels[4], "label mapping\n(trained)", TRAINED_COLOUR)
    figure.suptitle(f"{trained:,} of {trained + frozen:,} parameters are trained", fontsize=9)
    return figure


def _draw_log_mel(axes: Axes, values: np.ndarray, title: str) -> None:
    shown = values.astype(np.float32)
    low, high = np.percentile(shown, [OUTLIERS, 100 - OUTLIERS])
    axes.imshow(shown.T, cmap="cividis", vmin=low, vmax=high, origin="lower", aspect="auto")
    axes.set_title(title, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_box(axes: Axes, text: str, colour: str) -> None:
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    box = FancyBboxPatch((0.06, 0.12), 0.88, 0.76, "round,pad=0.02", fc="none", ec=colour, lw=1.5)
    axes.add_patch(box)
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=7.5)
