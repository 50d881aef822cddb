"""Figure of a few seconds of sound before and after the reprogrammer."""

import numpy as np
from matplotlib.figure import Figure

from .. import escaping
from . import style

FRAMES_PER_SECOND = 100  # of the log-mel
OUTLIERS = 0.5  # per cent at each end that a colour scale leaves out


def draw(before, after, norm, title):
    """A log-mel as it enters the reprogrammer, as it leaves it, and the difference; each has a colour scale of its own.

    Args:
        before, after: (T, F).
        norm: of the input, as in results.json.
        title: of the figure.
    """
    before, after = (values.astype(np.float32) for values in (before, after))
    figure = Figure(figsize=(style.WIDTH, 6.4), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    raw = norm == "none"
    parts = [
        (
            "before the reprogrammer",
            before,
            "log-mel energy\n(natural log)"
            if raw
            else f"log-mel, normalised\n({escaping.figure(norm)})",
        ),
        (
            "after: what the backbone gets",
            after,
            f"reprogrammed {'' if raw else 'normalised '}\nlog-mel",
        ),
        (
            "difference: after - before",
            after - before,
            f"change in {'' if raw else 'normalised '}\nlog-mel",
        ),
    ]
    sounding = (
        np.ptp(before, axis=1) > 0
    )  # padding is one value; left in, it would rule the colour scales
    for panel, (name, values, label) in zip(panels, parts):
        signed = name.startswith("difference")
        low, high = np.percentile(
            values[sounding] if sounding.any() else values, [OUTLIERS, 100 - OUTLIERS]
        )
        reach = max(abs(low), abs(high), 1e-6)
        low, high = (-reach, reach) if signed else (low, max(high, low + 1e-6))
        extent = (0, len(values) / FRAMES_PER_SECOND, -0.5, values.shape[1] - 0.5)
        image = panel.imshow(
            values.T,
            cmap="PuOr_r" if signed else "cividis",
            vmin=low,
            vmax=high,
            extent=extent,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
        )
        panel.set(title=name, ylabel="mel band")
        figure.colorbar(image, ax=panel, label=label, extend="both", pad=0.01)
    panels[-1].set_xlabel("time, s")
    figure.suptitle(title, fontsize=9)
    return figure
