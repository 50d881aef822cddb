"""What a model hears in a song, as a piece of a web page: text, bars, and pictures within it.

The page needs nothing from outside, and shows whatever a file or class is called as text.
"""

import base64
import tempfile
from pathlib import Path

from .. import escaping
from . import timeline
from .predictions import format_timestamp

CSS = """
.gradio-container { overflow: clip !important; }
@media (min-width: 800px) { .beside { position: sticky; top: 1em; align-self: flex-start; } }
.found { border-collapse: collapse; width: 100%; margin: 0.5em 0; }
.found { font-variant-numeric: tabular-nums; }
.found, .found tbody, .found tr { border: 0 !important; background: none !important; }
.found th, .found td { border: 0 !important; padding: 0.1em 0; text-align: left; }
.found th, .found td { font-weight: normal; white-space: nowrap; opacity: 0.75; }
.found td:nth-child(2) { width: 100%; padding: 0 0.8em; }
.found .present th, .found .present td { font-weight: 600; opacity: 1; }
.found .bar { position: relative; height: 0.7em; background: rgba(128, 128, 128, 0.15); }
.found .bar i { position: absolute; inset: 0 auto 0 0; background: rgba(128, 128, 128, 0.6); }
.found .present .bar i { background: #0072B2; }
.found .bar b { position: absolute; top: -0.25em; bottom: -0.25em; }
.found .bar b { border-left: 2px solid #D55E00; }
.threshold { color: #D55E00; font-weight: 600; }
.picture { overflow-x: auto; }
.picture img { width: 100%; min-width: 40em; background: white; border-radius: 4px; }
.problem { border-left: 4px solid #D55E00; padding: 0.6em 1em; overflow-wrap: anywhere; }
.quiet { opacity: 0.75; font-size: 0.9em; }
"""


def instruments(found, view):
    """A `predictions.FilePrediction`: a sentence that names what is present, then a bar for each class.

    The most likely class comes first.
    """
    shown, ranked = view.shown(found.probabilities), view.ranked(found.probabilities)
    if found.is_silent:
        sentence = "nothing, the recording is silent"
    elif shown:
        sentence = ", ".join(_plain(name) for name, _ in shown)
    else:
        sentence = f"nothing from the threshold on; the most likely: {_plain(ranked[0][0])}"
    rows = "".join(
        _row(name, value, view.threshold, number < len(shown))
        for number, (name, value) in enumerate(ranked)
    )
    return (
        f"<h2>Heard: {sentence}</h2>"
        f'<p class="quiet">Probabilities over the whole song ({format_timestamp(found.seconds)}). '
        "Marked: those from the threshold "
        f'<span class="threshold">| {view.threshold:g}</span> on.</p>'
        f'<table class="found"><tbody>{rows}</tbody></table>'
    )


def _row(name, value, threshold, present):
    marked = " class=present" if present else ""
    share = f'<i style="width: {100 * value:.1f}%"></i>'
    line = f'<b style="left: {100 * threshold:g}%"></b>'
    bar = f'<div class="bar">{share}{line}</div>'
    head = f'<th scope="row">{_plain(name)}</th>'
    return f"<tr{marked}>{head}<td>{bar}</td><td>{value:.2f}</td></tr>"


def _plain(name):
    return escaping.html(escaping.plain(name))


def picture(figure, title, text):
    """A figure under a title and a sentence, as an image that is part of the page."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        timeline.save(figure, path)
        data = base64.b64encode(path.read_bytes()).decode()
    image = f'<img src="data:image/png;base64,{data}" alt="{escaping.html(title)}">'
    return f'{section(title, text)}<div class="picture">{image}</div>'


def section(title, text):
    """A title and a sentence."""
    return f'<h2>{escaping.html(title)}</h2><p class="quiet">{escaping.html(text)}</p>'


def problem(text):
    """What went wrong, in one line."""
    return f'<p class="problem" role="alert">{escaping.html(text)}</p>'


def note(text):
    """What is to be said where there is nothing to show yet."""
    return f'<p class="quiet">{escaping.html(text)}</p>'
