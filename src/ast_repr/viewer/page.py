"""Predictions as pieces of a web page: text, bars and pictures.

The page needs nothing from outside, and shows names of files and classes as text.
"""

import base64
from collections.abc import Callable

from matplotlib.figure import Figure

from .. import escaping
from ..inference import FilePrediction
from . import timeline
from .predictions import DisplayOptions, format_timestamp

PHONE = "(max-width: 640px)"
CSS = """
.gradio-container { overflow: clip !important; }
@media (min-width: 800px) { .beside { position: sticky; top: 1em; align-self: flex-start; } }
.beside input { text-overflow: ellipsis; font-size: 0.9em; padding-right: 2em !important; }
.predictions { border-collapse: collapse; width: 100%; margin: 0.5em 0; }
.predictions { font-variant-numeric: tabular-nums; }
.predictions, .predictions tbody, .predictions tr { border: 0 !important; }
.predictions, .predictions tbody, .predictions tr { background: none !important; }
.predictions th, .predictions td { border: 0 !important; padding: 0.1em 0; text-align: left; }
.predictions th, .predictions td { font-weight: normal; white-space: nowrap; opacity: 0.75; }
.predictions td:nth-child(2) { width: 100%; padding: 0 0.8em; }
.predictions td:nth-child(4) { min-width: 1.5em; text-align: right; }
.predictions .present th, .predictions .present td { font-weight: 600; opacity: 1; }
.predictions .bar { position: relative; height: 0.7em; background: rgba(128, 128, 128, 0.15); }
.predictions .bar i { position: absolute; inset: 0 auto 0 0; background: rgba(128, 128, 128, 0.6); }
.predictions .present .bar i { background: #0072B2; }
.predictions .bar b { position: absolute; top: -0.25em; bottom: -0.25em; }
.predictions .bar b { border-left: 2px solid #D55E00; }
.threshold { color: #D55E00; font-weight: 600; }
.picture img { width: 100%; background: white; border-radius: 4px; }
.problem { border-left: 4px solid #D55E00; padding: 0.6em 1em; overflow-wrap: anywhere; }
.quiet { opacity: 0.75; font-size: 0.9em; }
"""
MARKS = {True: "✓", False: "–"}  # of classes that are known to sound, or not to


def instruments(
    song: FilePrediction, view: DisplayOptions, known: dict[str, bool] | None = None
) -> str:
    """Render a sentence that names the instruments from the threshold on, and a bar per class.

    Args:
        known: classes that are known to sound in the song, or not to.
    """
    known = known or {}
    heading = "<h2>Instruments</h2>"
    if song.is_silent:
        return f"{heading}<p>The recording is silent: it has no instruments.</p>"
    shown = [
        f"<b>{_plain(name)}</b> ({value:.2f})" for name, value in view.shown(song.probabilities)
    ]
    sentence = f"No instrument reaches the threshold of {view.threshold:g}: the model names none."
    if shown:
        sentence = f"The model names {', '.join(shown)}."
    sentences = [f"<p>{sentence}</p>"]
    if known:
        present = [_plain(name) for name, sounds in known.items() if sounds]
        sentences.append(
            f"<p>By its labels the clip has {', '.join(present) or 'none of them'} "
            f"({MARKS[True]} has, {MARKS[False]} has not).</p>"
        )
    rows = [
        _row(name, value, view.threshold, MARKS.get(known.get(name), ""))
        for name, value in view.ranked(song.probabilities)
    ]
    return (
        f"{heading}{''.join(sentences)}"
        '<p class="quiet">Probabilities, each an estimate and no fact, over the whole song '
        f"({format_timestamp(song.seconds)}). Named: those from the threshold "
        f'<span class="threshold">| {view.threshold:g}</span> on.</p>'
        f'<table class="predictions"><tbody>{"".join(rows)}</tbody></table>'
    )


def _row(name, value, threshold, mark):
    marked = " class=present" if value >= threshold else ""
    share = f'<i style="width: {100 * value:.1f}%"></i>'
    line = f'<b style="left: {100 * threshold:g}%"></b>'
    bar = f'<div class="bar">{share}{line}</div>'
    head = f'<th scope="row">{_plain(name)}</th>'
    return f"<tr{marked}>{head}<td>{bar}</td><td>{value:.2f}</td><td>{mark}</td></tr>"


def _plain(name):
    return escaping.html(escaping.plain(name))


def picture(draw: Callable[[bool], Figure], title: str, text: str) -> str:
    """Render a figure as an embedded image below a title and a sentence.

    Args:
        draw: draws the figure; its argument tells whether it is for a phone.
    """
    narrow = f'<source media="{PHONE}" srcset="{_data(draw(True))}">'
    wide = f'<img src="{_data(draw(False))}" alt="{escaping.html(title)}">'
    return f'{section(title, text)}<picture class="picture">{narrow}{wide}</picture>'


def _data(figure):
    return f"data:image/png;base64,{base64.b64encode(timeline.png(figure)).decode()}"


def section(title: str, text: str) -> str:
    """Render a title and a sentence."""
    return f'<h2>{escaping.html(title)}</h2><p class="quiet">{escaping.html(text)}</p>'


def problem(text: str) -> str:
    """Render an error or a warning in one line."""
    return f'<p class="problem" role="alert">{escaping.html(text)}</p>'


def note(text: str) -> str:
    """Render a hint."""
    return f'<p class="quiet">{escaping.html(text)}</p>'
