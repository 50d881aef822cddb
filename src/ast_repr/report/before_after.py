"""Figure of a few seconds of audio before and after the reprogrammer."""

import numpy as np
from matplotlib.figure import Figure

from .. import escaping
from . import style

OUTLIERS = 0.5  # per cent at each end that a colour scale leaves out
LEAST = 1e-3  # range of a colour scale; silence has none of its own


def draw(
    before: np.ndarray,
    after: np.ndarray,
    norm: str,
    title: str,
    feature: str = "logmel",
    narrow: bool = False,
) -> Figure:
    """Draw the input of the reprogrammer, its output, and the difference, on separate scales.

    Args:
        before, after: log-mels (T, F).
        norm: of the input, as in results.json.
        feature: its name, which decides the scales of time and frequency.
        narrow: whether the figure is for a phone.
    """
    before = before.astype(np.float32)
    after = after.astype(np.float32)
    if norm == "none":
        unit = "log-mel energy\n(natural log)"
        changed = "log-mel"
    else:
        unit = f"log-mel, normalised\n({escaping.figure(norm)})"
        changed = "normalised log-mel"
    padding = np.ptp(before, axis=1) == 0  # would dominate the colour scales
    shown = ~padding if not padding.all() else padding
    seconds = len(before) / style.frames_per_second(feature)
    size = (style.NARROW, 7.6) if narrow else (style.WIDTH, 6.4)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    images = [
        _draw_panel(panels[0], before, shown, seconds),
        _draw_panel(panels[1], after, shown, seconds),
        _draw_panel(panels[2], after - before, shown, seconds, signed=True),
    ]
    panels[0].set_title("before the reprogrammer")
    panels[1].set_title("after: the input of the backbone")
    panels[2].set_title("difference: after - before")
    panels[2].set_xlabel("time, s")
    labels = [unit, f"reprogrammed\n{changed}", f"change in\n{changed}"]
    location = "bottom" if narrow else "right"
    for panel, image, label in zip(panels, images, labels, strict=True):
        style.label_frequency(panel, feature, before.shape[1])
        style.add_colour_bar(image, panel, label, location, extend="both")
    figure.suptitle(title, fontsize=9)
    return figure


def _draw_panel(panel, values, shown, seconds, signed=False):
    low, high = np.percentile(values[shown], [OUTLIERS, 100 - OUTLIERS])
    high = max(high, low + LEAST)
    if signed:
        high = max(abs(low), abs(high))
        low = -high
    return panel.imshow(
        values.T,
        cmap="PuOr_r" if signed else "cividis",
        vmin=low,
        vmax=high,
        extent=(0, seconds, -0.5, values.shape[1] - 0.5),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )
