"""Figure of a song: time against instruments, and the log-mel below."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .. import atomic
from ..report import style
from .predictions import DisplayOptions, FilePrediction, format_timestamp

CUT = 2  # frames less than the seconds have: 25 ms windows end with the sound
SHORTEST = 0.01  # seconds of the time axis
DPI = 150
COLUMNS = 2000  # at most, in a picture
INSTRUMENTS = 20  # at most, in a picture
OUTLIERS = 1  # per cent at each end outside the log-mel's colour range


class LongLogMel:
    """The log-mel of a file of any length, added window by window.

    It has at most COLUMNS columns, each the mean of `step` neighbouring frames.

    Args:
        feature: its name, which decides the scale of time.
    """

    def __init__(self, feature: str = "logmel"):
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


def draw(song: FilePrediction, view: DisplayOptions, log_mel: LongLogMel) -> Figure:
    """Draw the probabilities of each window over the log-mel.

    Instruments are sorted by their probability over the whole file, which stands beside their
    names; bold names are those that `view` shows.
    """
    order = np.argsort(-song.probabilities, kind="stable")[:INSTRUMENTS]
    bold = {name for name, _ in view.shown(song.probabilities)}
    with matplotlib.rc_context(style.STYLE):
        figure = Figure(figsize=(style.WIDTH, 2.9 + 0.17 * len(order)), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[0.17 * len(order), 1.7])
        image = top.pcolormesh(
            edges(song),
            np.arange(len(order) + 1),
            song.timeline[:, order].T,
            cmap="cividis",
            vmin=0,
            vmax=1,
        )
        figure.colorbar(image, ax=top, label="probability", pad=0.01)
        names = [f"{style.plain(view.classes[i])}  {song.probabilities[i]:.2f}" for i in order]
        top.set_yticks(np.arange(len(order)) + 0.5, names)
        for i, label in zip(order, top.get_yticklabels(), strict=True):
            label.set_fontweight("bold" if view.classes[i] in bold else "normal")
        top.set_ylim(len(order), 0)
        top.tick_params(length=0)
        _draw_log_mel(figure, bottom, song, log_mel)
        title = song.path.rpartition("/")[2]
        if song.is_silent:
            title += " (silent)"
        top.set_title(style.wrapped(title, 90))
    return figure


def _draw_log_mel(figure, axes, song, log_mel):
    values = log_mel.columns
    if len(values):
        low, high = np.nanpercentile(values, [OUTLIERS, 100 - OUTLIERS])
        extent = (0, len(values) * log_mel.step / log_mel.rate, -0.5, values.shape[1] - 0.5)
        image = axes.imshow(
            values.T,
            cmap="cividis",
            vmin=low,
            vmax=max(high, low + 1e-6),
            extent=extent,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
        )
        figure.colorbar(
            image, ax=axes, label="log-mel energy\n(natural log)", extend="both", pad=0.01
        )
    axes.set(xlabel="time", ylabel="mel band", xlim=(0, max(song.seconds, SHORTEST)))
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 1.5, 2, 3, 6, 10]))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda seconds, _: format_timestamp(max(seconds, 0)))
    )


def edges(song: FilePrediction) -> np.ndarray:
    """Compute where the colour of each window begins and ends, in seconds: (W + 1,).

    Each point in time has the colour of the window whose middle is nearest.
    """
    middles = song.times.mean(axis=1)
    return np.concatenate([[0.0], (middles[1:] + middles[:-1]) / 2, [max(song.seconds, SHORTEST)]])


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, atomically."""
    with style.writing(), atomic.replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=DPI)


def _halved(values):
    """Add neighbours along the first axis, and pad with zeros."""
    sums = values[0::2] + values[1::2]
    return np.concatenate([sums, np.zeros_like(sums)])
