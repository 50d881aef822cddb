"""Figure of a song: time against instruments, and the log-mel below.

If the model weights segments of a window by attention, the colour of an instrument in a segment is
its probability in the window, multiplied by the segment's weight relative to the largest.
"""

import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator

from .. import atomic
from ..report import style
from .predictions import DisplayOptions, FilePrediction, format_timestamp

CUT = 2  # frames less than the seconds have: 25 ms windows end with the sound
SHORTEST = 0.01  # seconds of the time axis
DPI = 150
COLUMNS = 2000  # at most, in a picture
INSTRUMENTS = 20  # at most, in a picture
OUTLIERS = 1  # per cent at each end outside the log-mel's colour range
LEAST = 5.0  # range of the log-mel's colours; silence has none of its own
UNITS = {"logmel": "log-mel energy\n(natural log)"}  # of features
TICKS_S = (0.1, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 18_000)


class LongLogMel:
    """The log-mel of a file of any length, added window by window.

    It has at most COLUMNS columns, each the mean of `step` neighbouring frames.

    Args:
        feature: its name, which decides the scales of time and frequency.
    """

    def __init__(self, feature: str = "logmel"):
        self.feature = feature
        self.rate = style.frames_per_second(feature)
        self.step = 1
        self.sums = None
        self.counts = np.zeros(COLUMNS)

    def add(self, start_s: float, end_s: float, log_mel: np.ndarray) -> None:
        """Add a window's log-mel (T, F), without the frames beyond its end."""
        if self.sums is None:
            self.sums = np.zeros((COLUMNS, log_mel.shape[1]))
        log_mel = log_mel[: max(round((end_s - start_s) * self.rate) - CUT, 0)]
        frames = round(start_s * self.rate) + np.arange(len(log_mel))
        while len(frames) and frames[-1] // self.step >= COLUMNS:
            self.step *= 2
            self.sums = _halved(self.sums)
            self.counts = _halved(self.counts)
        np.add.at(self.sums, frames // self.step, log_mel)
        np.add.at(self.counts, frames // self.step, 1)

    @property
    def columns(self) -> np.ndarray:
        """(columns, F); NaN in gaps between windows."""
        end = np.flatnonzero(self.counts)[-1] + 1 if self.counts.any() else 0
        counts = self.counts[:end, None]
        return np.where(counts > 0, self.sums[:end] / np.maximum(counts, 1), np.nan)


def draw(
    song: FilePrediction, view: DisplayOptions, log_mel: LongLogMel, narrow: bool = False
) -> Figure:
    """Draw the probabilities of each window, or segment, over the log-mel.

    Instruments are sorted by their probability over the whole file, which stands beside their
    names; bold names are those that `view` shows.

    Args:
        narrow: whether the figure is for a phone, with the colour bars above and below.
    """
    order = np.argsort(-song.probabilities, kind="stable")[:INSTRUMENTS]
    bold = {name for name, _ in view.shown(song.probabilities)}
    with matplotlib.rc_context(style.STYLE):
        width, height = (style.NARROW, 3.7) if narrow else (style.WIDTH, 2.9)
        figure = Figure(figsize=(width, height + 0.17 * len(order)), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[0.17 * len(order), 1.7])
        quantity = "probability"
        borders = edges(song)
        colours = song.timeline
        if song.attention is not None:
            quantity = "probability\nx attention"
            borders, colours = attended(song)
        image = top.pcolormesh(
            borders,
            np.arange(len(order) + 1),
            colours[:, order].T,
            cmap="cividis",
            vmin=0,
            vmax=1,
        )
        style.add_colour_bar(image, top, quantity, "top" if narrow else "right")
        names = [f"{style.plain(view.classes[i])}  {song.probabilities[i]:.2f}" for i in order]
        top.set_yticks(np.arange(len(order)) + 0.5, names)
        for i, label in zip(order, top.get_yticklabels(), strict=True):
            label.set_fontweight("bold" if view.classes[i] in bold else "normal")
        top.set_ylim(len(order), 0)
        top.tick_params(length=0)
        _draw_log_mel(bottom, song, log_mel, narrow)
        title = song.path.rpartition("/")[2]
        if song.is_silent:
            title += " (silent)"
        figure.suptitle(style.wrapped(title, 40 if narrow else 90), fontsize=9)
    return figure


def _draw_log_mel(axes, song, log_mel, narrow):
    values = log_mel.columns
    if len(values):
        low, high = np.nanpercentile(values, [OUTLIERS, 100 - OUTLIERS])
        extent = (0, len(values) * log_mel.step / log_mel.rate, -0.5, values.shape[1] - 0.5)
        image = axes.imshow(
            values.T,
            cmap="cividis",
            vmin=low,
            vmax=max(high, low + LEAST),
            extent=extent,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
        )
        label = UNITS.get(log_mel.feature, style.plain(log_mel.feature))
        location = "bottom" if narrow else "right"
        style.add_colour_bar(image, axes, label, location, extend="both")
        style.label_frequency(axes, log_mel.feature, values.shape[1])
    seconds = max(song.seconds, SHORTEST)
    axes.set(xlabel="time", xlim=(0, seconds))
    most = 4 if narrow else 8
    step = min((step for step in TICKS_S if step >= seconds / most), default=seconds / most)
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda seconds, _: format_timestamp(max(seconds, 0)))
    )


def edges(song: FilePrediction) -> np.ndarray:
    """Compute where the colour of each window begins and ends, in seconds: (W + 1,).

    Each point in time has the colour of the window whose middle is nearest.
    """
    middles = song.times.mean(axis=1)
    return np.concatenate([[0.0], (middles[1:] + middles[:-1]) / 2, [max(song.seconds, SHORTEST)]])


def attended(song: FilePrediction) -> tuple[np.ndarray, np.ndarray]:
    """Compute the colours of a song with attention, in COLUMNS equal parts of its time.

    Each part belongs to the window whose middle is nearest, and there to the segment whose middle
    is nearest.

    Returns:
        (their edges in seconds (COLUMNS + 1,), probability x attention (COLUMNS, K)).
    """
    borders = np.linspace(0, max(song.seconds, SHORTEST), COLUMNS + 1)
    times_s = (borders[1:] + borders[:-1]) / 2
    windows = np.searchsorted(edges(song)[1:-1], times_s)
    offsets_s = times_s - song.times[windows, 0]
    middles_s = song.segments.mean(axis=1)
    segments = np.abs(offsets_s[:, None] - middles_s).argmin(axis=1)
    relative = song.attention / song.attention.max(axis=2, keepdims=True)
    return borders, song.timeline[windows] * relative[windows, :, segments]


def png(figure: Figure) -> bytes:
    """Render a figure as PNG."""
    data = io.BytesIO()
    with style.writing():
        figure.savefig(data, format="png", dpi=DPI)
    return data.getvalue()


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, atomically."""
    atomic.write_bytes(path, png(figure))


def _halved(values):
    """Add neighbours along the first axis, and pad with zeros."""
    sums = values[0::2] + values[1::2]
    return np.concatenate([sums, np.zeros_like(sums)])
