"""The style of all figures: colours, sizes, labels, baselines, and saving.

The colours are Okabe and Ito's, which the colour-blind can distinguish; lines, hatches and markers
differ too, for print without colour.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from .. import atomic, escaping
from . import wrapping
from .bootstrap import LEVEL
from .results import Method, Table, mean_std
from .schema import BASELINES

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"]
LINES = ["-", "--", ":"]  # the next one once the colours are used up
HATCHES = ["", "////", "...."]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
KINDS = {  # of methods, in the order of results.KINDS
    "no backbone": {"color": "#E69F00", "marker": "s"},
    "frozen backbone": {"color": "#000000", "marker": "o"},
    "reprogrammed backbone": {"color": "#0072B2", "marker": "^"},
    "adapted backbone": {"color": "#009E73", "marker": "P"},
    "fine-tuned backbone": {"color": "#CC79A7", "marker": "D"},
}
BASELINE_LINES = {"always_absent": "-", "always_present": (0, (2, 1))}
DOT = {"markersize": 4.5, "markeredgewidth": 0.6, "markeredgecolor": "white"}
STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "hatch.linewidth": 0.5,
}
FRAMES_PER_SECOND = {  # of features; the others have 100
    "musicnn_mel": 62.5,
    "han_mel": 22_050 / 512,
    "multi_stft": 22_050 / 64,
}
TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000)
WIDTH = 7.2  # inches: a page of A4 within its margins
INTERVAL = f"{LEVEL} % bootstrap interval over the test split"
NARROW = 3.5  # inches: a phone
GRID = {"color": "0.9", "linewidth": 0.6}


def frames_per_second(feature: str) -> float:
    """Frames per second of a feature, by its name."""
    return FRAMES_PER_SECOND.get(feature, 100.0)


def kaldi_mel(hz: ArrayLike) -> np.ndarray:
    """Convert Hz to Kaldi's mel."""
    return np.log1p(np.asarray(hz) / 700)


def slaney_mel(hz: ArrayLike) -> np.ndarray:
    """Convert Hz to Slaney's mel: linear up to 1 kHz."""
    octaves = np.log(np.maximum(hz, 1000) / 1000)
    return np.minimum(hz, 1000) * 3 / 200 + octaves * 27 / np.log(6.4)


# Scale, lowest and highest edge in Hz of the bands of features.
SCALES = {
    "logmel": (kaldi_mel, 20, 8000),
    "logmel_passt": (kaldi_mel, 0, 15_000),
    "logmel_vggish": (kaldi_mel, 125, 7500),
    "musicnn_mel": (slaney_mel, 0, 8000),
    "han_mel": (slaney_mel, 0, 11_025),
    "panns_mel": (slaney_mel, 50, 14_000),
    "scalogram": (np.log, 40, 8000),
}


def band_of(hz: ArrayLike, feature: str, bins: int) -> np.ndarray:
    """Compute the band, from 0 on and with fractions, whose centre is at `hz`.

    The centre of a band is the upper edge of the one before.
    """
    scale, lowest_hz, highest_hz = SCALES[feature]
    lowest = scale(lowest_hz)
    width = (scale(highest_hz) - lowest) / (bins + 1)
    return (scale(hz) - lowest) / width - 1


def label_frequency(axes: Axes, feature: str, bins: int) -> None:
    """Label the axis of a feature's bands in Hz; by their numbers if it has no scale."""
    if feature not in SCALES:
        axes.set_ylabel("band")
        return
    labels = [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in TICKS_HZ]
    axes.set_yticks(band_of(TICKS_HZ, feature, bins), labels)
    axes.set_ylim(-0.5, bins - 0.5)
    axes.set_ylabel("frequency, Hz")


def add_colour_bar(
    image: ScalarMappable, axes: Axes, label: str, location: str = "right", **options: Any
) -> None:
    """Draw the colour bar of an image at its right, or above or below in a narrow figure."""
    if location != "right":
        options |= {"aspect": 40}
        label = label.replace("\n", " ")
    axes.figure.colorbar(image, ax=axes, label=label, location=location, pad=0.01, **options)


class Look(NamedTuple):
    """How one of several lines or bars is drawn."""

    colour: str
    line: str
    hatch: str
    marker: str


def new_figure(height: float) -> tuple[Figure, Axes]:
    """An empty figure of the page's width, with one pair of axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


@contextmanager
def writing() -> Iterator[None]:
    """Set the style to write a figure; letters that the font lacks become boxes silently."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def save(
    figure: Figure, folder: str | Path, stem: str, kinds: Sequence[str] = ("png", "pdf")
) -> list[Path]:
    """Write a figure as PNG (200 dpi) and PDF, the same bytes for the same figure."""
    paths = [Path(folder) / f"{stem}.{kind}" for kind in kinds]
    for path, kind in zip(paths, kinds, strict=True):
        metadata = {"CreationDate": None} if kind == "pdf" else None
        with writing(), atomic.replacing(path) as partial:
            figure.savefig(partial, format=kind, dpi=200, metadata=metadata)
    return paths


def look(index: int) -> Look:
    """The look of line or bar number `index`."""
    turn = index // len(COLOURS) % len(LINES)
    colour = COLOURS[index % len(COLOURS)]
    return Look(colour, LINES[turn], HATCHES[turn], MARKERS[index % len(MARKERS)])


def wrapped(label: str, width: int) -> str:
    """Break a label into lines of at most `width` characters."""
    return wrapping.wrapped(escaping.figure(label), width)


def plain(name: str) -> str:
    """An instrument's name in plain words."""
    return escaping.figure(escaping.plain(name))


def percent(method: Method, labels: str) -> np.ndarray:
    """macro-F1 of each run on OBSERVED or TRUTH in per cent, array (n,); NaN if undefined."""
    scores = method.scores(labels, "macro_f1") or [None]
    return 100 * np.array(scores, dtype=float)  # float makes None NaN


def overall(bounds: tuple[np.ndarray, np.ndarray] | None) -> tuple[float, float]:
    """The bounds in per cent of macro-F1, from `compare.intervals`; NaN if there are none."""
    if bounds is None:
        return np.nan, np.nan
    low, high = bounds
    return 100 * low[-1], 100 * high[-1]


def whiskers(values: np.ndarray, bounds: Sequence[np.ndarray]) -> np.ndarray:
    """Lengths (2, n) of error bars from values (n,) or one value down and up to their bounds."""
    low, high = bounds
    lengths = [np.atleast_1d(values - low), np.atleast_1d(high - values)]
    return np.maximum(lengths, 0)


def per_instrument(scores: Sequence[dict], names: Sequence[str]) -> np.ndarray:
    """Mean over runs of macro-F1 in per cent, array (names,); NaN if undefined."""
    means = []
    for name in names:
        mean, _ = mean_std(score["per_instrument"][name]["macro_f1"] for score in scores)
        means.append(mean)
    return 100 * np.array(means, dtype=float)  # float makes None NaN


def draw_baselines(axes: Axes, table: Table, across: bool) -> None:
    """Draw the constant baselines as lines across the axes, or down."""
    draw = axes.axhline if across else axes.axvline
    for baseline, name in BASELINES.items():
        (metrics,) = table.baseline_metrics(baseline, table.labels)
        value = 100 * metrics["macro_f1"]
        label = f"baseline: {name} ({value:.1f})"
        line = BASELINE_LINES[baseline]
        draw(value, color="0.35", linestyle=line, linewidth=1, label=label, zorder=1)


def label_accuracy(axis: Axis, labels: str, metric: str = "macro-F1") -> None:
    """Label the axis of a metric, after all is drawn; tell if it does not start at zero."""
    low, high = axis.get_view_interval()
    text = f"{metric} on the {labels}, %"
    if low > 0:
        text += f"\n(axis from {low:.0f} to {high:.0f})"
    axis.set_label_text(text)


def add_grid(axes: Axes, **options: Any) -> None:
    """Draw grid lines below the data; `options` as of Axes.grid."""
    axes.grid(**options, **GRID)
    axes.set_axisbelow(True)


def title(*lines: str) -> str:
    """The lines of a figure's title, escaped."""
    return "\n".join(map(escaping.figure, lines))
