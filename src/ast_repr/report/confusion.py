"""Figure: which instrument is taken for which, on test clips with one predominant instrument."""

import numpy as np
from matplotlib.figure import Figure

from ..manifest import PRESENT
from . import style
from .results import Method


def counts(method: Method) -> np.ndarray:
    """Count (label, most probable instrument) over the runs of a method: (K, K)."""
    size = len(method["classes"])
    total = np.zeros((size, size), int)
    for run in method.runs:
        arrays = run.arrays("predictions.npz")
        labels = arrays["targets"] >= PRESENT
        single = labels.sum(axis=1) == 1
        label = labels[single].argmax(axis=1)
        np.add.at(total, (label, arrays["scores"][single].argmax(axis=1)), 1)
    return total


def draw(method: Method) -> Figure:
    """Draw the confusion matrix of a method, each row in per cent of its label's clips."""
    total = counts(method)
    clips = total.sum(axis=1)
    percent = 100 * total / np.maximum(clips, 1)[:, None]
    names = [style.plain(name) for name in method["classes"]]
    figure, axes = style.new_figure(5.6)
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.argwhere(total):
        colour = "white" if percent[row, column] > 60 else "black"
        text = f"{percent[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    runs = len(method.runs)
    sizes = [f"{name} ({count // runs})" for name, count in zip(names, clips, strict=True)]
    axes.set_yticks(range(len(names)), sizes)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="most probable instrument", ylabel="label (clips)")
    figure.colorbar(image, label="% of the label's clips", shrink=0.8)
    axes.set_title(style.title(method.label, "test clips with one predominant instrument"))
    return figure
