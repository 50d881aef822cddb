"""Predictions as pieces of a web page: text, bars and pictures.

The page needs nothing from outside, and shows names of files and classes as text.
"""

import base64
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from .. import escaping
from ..inference import FilePrediction
from . import timeline
from .predictions import DisplayOptions, format_timestamp

CSS = """
.gradio-container { overflow: clip !important; }
@media (min-width: 800px) { .beside { position: sticky; top: 1em; align-self: flex-start; } }
.predictions { border-collapse: collapse; width: 100%; margin: 0.5em 0; }
.predictions { font-variant-numeric: tabular-nums; }
.predictions, .predictions tbody, .predictions tr { border: 0 !important; }
.predictions, .predictions tbody, .predictions tr { background: none !important; }
.predictions th, .predictions td { border: 0 !important; padding: 0.1em 0; text-align: left; }
.predictions th, .predictions td { font-weight: normal; white-space: nowrap; opacity: 0.75; }
.predictions td:nth-child(2) { width: 100%; padding: 0 0.8em; }
.predictions .present th, .predictions .present td { font-weight: 600; opacity: 1; }
.predictions .bar { position: relative; height: 0.7em; background: rgba(128, 128, 128, 0.15); }
.predictions .bar i { position: absolute; inset: 0 auto 0 0; background: rgba(128, 128, 128, 0.6); }
.predictions .present .bar i { background: #0072B2; }
.predictions .bar b { position: absolute; top: -0.25em; bottom: -0.25em; }
.predictions .bar b { border-left: 2px solid #D55E00; }
.threshold { color: #D55E00; font-weight: 600; }
.picture { overflow-x: auto; }
.picture img { width: 100%; min-width: 40em; background: white; border-radius: 4px; }
.problem { border-left: 4px solid #D55E00; padding: 0.6em 1em; overflow-wrap: anywhere; }
.quiet { opacity: 0.75; font-size: 0.9em; }
"""


def instruments(song: FilePrediction, view: DisplayOptions) -> str:
    """Render a sentence that names the instruments present, and a bar for each class."""
    shown = view.shown(song.probabilities)
    ranked = view.ranked(song.probabilities)
    if song.is_silent:
        sentence = "none, the recording is silent"
    elif shown:
        sentence = ", ".join(_plain(name) for name, _ in shown)
    else:
        sentence = f"none above the threshold; the most likely: {_plain(ranked[0][0])}"
    rows = [_row(name, value, view.threshold) for name, value in ranked]
    return (
        f"<h2>Instruments: {sentence}</h2>"
        f'<p class="quiet">Probabilities over the whole song ({format_timestamp(song.seconds)}). '
        "Marked: those from the threshold "
        f'<span class="threshold">| {view.threshold:g}</span> on.</p>'
        f'<table class="predictions"><tbody>{"".join(rows)}</tbody></table>'
    )


def _row(name, value, threshold):
    marked = " class=present" if value >= threshold else ""
    share = f'<i style="width: {100 * value:.1f}%"></i>'
    line = f'<b style="left: {100 * threshold:g}%"></b>'
    bar = f'<div class="bar">{share}{line}</div>'
    head = f'<th scope="row">{_plain(name)}</th>'
    return f"<tr{marked}>{head}<td>{bar}</td><td>{value:.2f}</td></tr>"


def _plain(name):
    return escaping.html(escaping.plain(name))


def picture(figure: Figure, title: str, text: str) -> str:
    """Render a figure as an embedded image below a title and a sentence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        timeline.save(figure, path)
        data = base64.b64encode(path.read_bytes()).decode()
    image = f'<img src="data:image/png;base64,{data}" alt="{escaping.html(title)}">'
    return f'{section(title, text)}<div class="picture">{image}</div>'


def section(title: str, text: str) -> str:
    """Render a title and a sentence."""
    return f'<h2>{escaping.html(title)}</h2><p class="quiet">{escaping.html(text)}</p>'


def problem(text: str) -> str:
    """Render an error or a warning in one line."""
    return f'<p class="problem" role="alert">{escaping.html(text)}</p>'


def note(text: str) -> str:
    """Render a hint."""
    return f'<p class="quiet">{escaping.html(text)}</p>'
