"""Predictions as text: a table for people; JSON, JSON lines and CSV for programs.

Each format is a generator of pieces of text, so that the result of a file is out as soon as it is
known. Instruments are sorted by probability, and those below the threshold left out; the timeline
holds all of them. Probabilities have six digits; in silence they are 0, and files and windows are
marked silent. Names are exact in JSON, and escaped in the table and in CSV.

If the model weights segments of a window by attention, each window of the timeline in JSON has the
weights of its segments. Those of a class add up to 1; segments after the end of a file are padding.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import escaping
from ..inference import FilePrediction

DIGITS = 6
START = b'{"file": "'  # of a line of `jsonl`


@dataclass(frozen=True)
class DisplayOptions:
    """Which parts of a FilePrediction are shown.

    Attributes:
        classes: names of the K classes.
        threshold: the least probability that is shown.
        top: the largest number of instruments; None for all.
        timeline: whether each window is shown as well.
        settings: identity of the model and the options, stored with each JSON object.
    """

    classes: list[str]
    threshold: float
    top: int | None = None
    timeline: bool = False
    settings: str | None = None

    def shown(self, probabilities: np.ndarray) -> list[tuple[str, float]]:
        """List (name, probability) of (K,) from the threshold on, the most likely first.

        >>> DisplayOptions(["bass", "flute", "voice"], 0.5, top=1).shown(np.array([0.6, 0.2, 0.8]))
        [('voice', 0.8)]
        """
        count = np.count_nonzero(probabilities >= self.threshold)
        return self.ranked(probabilities)[:count][: self.top]

    def ranked(self, probabilities: np.ndarray) -> list[tuple[str, float]]:
        """List (name, probability) of all classes, the most likely first."""
        order = np.argsort(-probabilities, kind="stable")
        rounded = _rounded(probabilities)
        return [(self.classes[i], rounded[i]) for i in order]


def table(songs: Iterable[FilePrediction], view: DisplayOptions) -> Iterator[str]:
    """Format for people: a paragraph per file."""
    for song in songs:
        name = escaping.terminal(song.path)
        if song.error:
            yield f"{name}\n  failed\n"
            continue
        lines = [f"{name} ({format_timestamp(song.seconds)})"]
        shown = view.shown(song.probabilities)
        if song.is_silent:
            lines.append("  silent, no instrument")
        elif shown:
            for instrument, value in shown:
                lines.append(f"  {value:.2f}  {escaping.terminal(instrument)}")
        else:
            instrument, value = view.ranked(song.probabilities)[0]
            likeliest = f"{escaping.terminal(instrument)} ({value:.2f})"
            lines.append(f"  nothing from {view.threshold:g} on; the most likely: {likeliest}")
        if view.timeline:
            lines += _timeline_lines(song, view)
        yield "\n".join(lines) + "\n"


def _timeline_lines(song, view):
    for start_s, end_s, probabilities, silent in _windows(song):
        text = ", ".join(
            f"{escaping.terminal(instrument)} {value:.2f}"
            for instrument, value in view.shown(probabilities)
        )
        if silent:
            text = "silent"
        span = f"{format_timestamp(start_s):>7} - {format_timestamp(end_s):>7}"
        yield f"    {span}  {text or '-'}"


def jsonl(songs: Iterable[FilePrediction], view: DisplayOptions) -> Iterator[str]:
    """Format with a JSON object per file and line; {"file", "error"} for one that failed."""
    for song in songs:
        yield escaping.json_line(record(song, view)) + "\n"


def read_jsonl(path: Path, settings: str) -> tuple[dict[str, str | None], int]:
    """Read the lines that `jsonl` has written to a file.

    Args:
        path: the file; its last line may be incomplete, as a killed process leaves it.
        settings: those that the lines must have.

    Returns:
        ({name of a file: its error or None}, length of the complete lines in bytes).

    Raises:
        ValueError: a line is something else, or has other settings.
    """
    errors = {}
    length = 0
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n") and START.startswith(line[: len(START)]):
                break
            values = _parse(line)
            if values is None:
                raise ValueError(
                    f"{path}: line {number} is no prediction, expected lines of --format jsonl; "
                    "name another file"
                )
            if values.get("settings") != settings:
                raise ValueError(
                    f"{path}: line {number} has settings {values.get('settings')}, expected "
                    f"{settings}; use the same model and options, or name another file"
                )
            errors[values["file"]] = values.get("error")
            length += len(line)
    return errors, length


def _parse(line):
    """Parse a line of `jsonl`; return None if it is something else."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    is_record = isinstance(values, dict) and isinstance(values.get("file"), str)
    return values if is_record else None


def json_list(songs: Iterable[FilePrediction], view: DisplayOptions) -> Iterator[str]:
    """Format with the objects of `jsonl` in one JSON list."""
    start = "[\n"
    for line in jsonl(songs, view):
        yield start + line.rstrip("\n")
        start = ",\n"
    yield "[]\n" if start == "[\n" else "\n]\n"


def csv_rows(songs: Iterable[FilePrediction], view: DisplayOptions) -> Iterator[str]:
    """Format with a row per file and instrument shown; with the timeline, per window and class.

    A silent file has one row, without an instrument; a failed file has none.
    """
    times = ["start_s", "end_s"] if view.timeline else []
    yield _csv_line(["file", *times, "instrument", "probability", "silent"])
    for song in songs:
        if not song.error:
            yield "".join(_csv_line([song.path, *row]) for row in _csv_values(song, view))


def _csv_values(song, view):
    if view.timeline:
        for start_s, end_s, probabilities, silent in _windows(song):
            for name, value in zip(view.classes, _rounded(probabilities), strict=True):
                yield [f"{start_s:g}", f"{end_s:g}", name, value, int(silent)]
    elif song.is_silent:
        yield ["", "", 1]
    else:
        for name, value in view.shown(song.probabilities):
            yield [name, value, 0]


FORMATS = {"table": table, "json": json_list, "csv": csv_rows, "jsonl": jsonl}


def record(song: FilePrediction, view: DisplayOptions) -> dict:
    """Convert a FilePrediction to plain values."""
    settings = {} if view.settings is None else {"settings": view.settings}
    if song.error:
        return {"file": song.path, "error": song.error, **settings}
    instruments = [
        {"instrument": name, "probability": value} for name, value in view.shown(song.probabilities)
    ]
    values = {
        "file": song.path,
        "seconds": round(song.seconds, 3),
        "silent": song.is_silent,
        "instruments": instruments,
        **settings,
    }
    if view.timeline:
        values["timeline"] = [
            {
                "start_s": start_s,
                "end_s": end_s,
                "silent": silent,
                "probabilities": dict(zip(view.classes, _rounded(probabilities), strict=True)),
            }
            for start_s, end_s, probabilities, silent in _windows(song)
        ]
        if song.attention is not None:
            for window, weights in zip(values["timeline"], song.attention, strict=True):
                window["attention"] = _attention(window["start_s"], song.segments, weights, view)
    return values


def _attention(start_s, segments, weights, view):
    """Convert the weights (K, S) of a window's segments (S, 2) to plain values."""
    spans = np.round(start_s + segments, 3).tolist()
    return [
        {
            "start_s": span[0],
            "end_s": span[1],
            "weights": dict(zip(view.classes, _rounded(values), strict=True)),
        }
        for span, values in zip(spans, weights.T, strict=True)
    ]


def format_timestamp(seconds: float) -> str:
    """Format hours, minutes and seconds, with tenths if there are any.

    >>> [format_timestamp(seconds) for seconds in (205, 0.3, 3661.5, 59.99)]
    ['3:25', '0:00.3', '1:01:01.5', '1:00']
    """
    tenths = round(float(seconds) * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}:{minutes:02}" if hours else str(minutes)
    fraction = f".{rest % 10}" if rest % 10 else ""
    return f"{text}:{rest // 10:02}{fraction}"


def _windows(song):
    """Start and end in seconds, probabilities and silence of each window."""
    starts, ends = np.round(song.times, 3).T.tolist()
    return zip(starts, ends, song.timeline, song.silent.tolist(), strict=True)


def _rounded(probabilities):
    return [round(float(value), DIGITS) for value in probabilities]


def _csv_line(values):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(map(escaping.csv_cell, values))
    return text.getvalue()
