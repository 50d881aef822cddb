"""Figure of a few seconds of audio before and after the reprogrammer."""

import numpy as np
from matplotlib.figure import Figure

from .. import escaping
from . import style

OUTLIERS = 0.5  # per cent at each end that a colour scale leaves out
LEAST = 1e-6  # range of a colour scale


def draw(
    before: np.ndarray, after: np.ndarray, norm: str, title: str, feature: str = "logmel"
) -> Figure:
    """Draw the input of the reprogrammer, its output, and the difference, on separate scales.

    Args:
        before, after: log-mels (T, F).
        norm: of the input, as in results.json.
        feature: its name, which decides the scale of time.
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
    figure = Figure(figsize=(style.WIDTH, 6.4), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    _draw_panel(panels[0], before, shown, unit, seconds)
    panels[0].set_title("before the reprogrammer")
    _draw_panel(panels[1], after, shown, f"reprogrammed\n{changed}", seconds)
    panels[1].set_title("after: the input of the backbone")
    _draw_panel(panels[2], after - before, shown, f"change in\n{changed}", seconds, signed=True)
    panels[2].set_title("difference: after - before")
    panels[2].set_xlabel("time, s")
    figure.suptitle(title, fontsize=9)
    return figure


def _draw_panel(panel, values, shown, label, seconds, signed=False):
    low, high = np.percentile(values[shown], [OUTLIERS, 100 - OUTLIERS])
    if signed:
        high = max(abs(low), abs(high))
        low = -high
    image = panel.imshow(
        values.T,
        cmap="PuOr_r" if signed else "cividis",
        vmin=low,
        vmax=max(high, low + LEAST),
        extent=(0, seconds, -0.5, values.shape[1] - 0.5),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )
    panel.set_ylabel("mel band")
    panel.figure.colorbar(image, ax=panel, label=label, extend="both", pad=0.01)
