"""What a model says of files, as text: a table for people; JSON, JSON lines and CSV for programs.

Each format is a generator of pieces of text, so that a file's result is out as soon as it is known.
Instruments are sorted by probability, and those below the threshold left out; the timeline holds
all of them. Probabilities have six digits; in silence they are 0, and files and windows are marked
silent. Names are exact in JSON; in the table and in CSV, what a terminal would obey is escaped, and
in CSV what a spreadsheet would compute begins with an apostrophe.
"""

import csv
import io
from dataclasses import dataclass

import numpy as np

from .. import escaping

DIGITS = 6


@dataclass(frozen=True)
class FilePrediction:
    """One file: probabilities in each window and over all of them; or why it failed."""

    file: str
    seconds: float = 0.0
    times: np.ndarray | None = None  # (W, 2): start and end of each window in seconds
    timeline: np.ndarray | None = None  # (W, K)
    probabilities: np.ndarray | None = None  # (K,)
    error: str | None = None
    silent: np.ndarray | None = None  # (W,) bool; None if no window is

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing to hear in any window."""
        return self.silent is not None and bool(self.silent.all())

    def windows(self):
        """(start, end) in seconds, probabilities and whether it is silent, of each window."""
        silent = np.zeros(len(self.times), bool) if self.silent is None else self.silent
        return zip(np.round(self.times, 3).tolist(), self.timeline, silent.tolist())


@dataclass(frozen=True)
class DisplayOptions:
    """What is shown of a FilePrediction.

    Attributes:
        classes: K names.
        threshold: the least probability that is shown.
        top: at most so many instruments; None for all.
        timeline: whether each window is shown as well.
    """

    classes: list
    threshold: float
    top: int | None = None
    timeline: bool = False

    def shown(self, probabilities):
        """[(name, probability)] of (K,), the most likely first.

        >>> DisplayOptions(["bass", "flute", "voice"], 0.5, top=1).shown(np.array([0.6, 0.2, 0.8]))
        [('voice', 0.8)]
        """
        return self.ranked(probabilities)[: np.count_nonzero(probabilities >= self.threshold)][
            : self.top
        ]

    def ranked(self, probabilities):
        """The same of all classes."""
        order = np.argsort(-probabilities, kind="stable")
        return [(self.classes[i], round(float(probabilities[i]), DIGITS)) for i in order]


def table(songs, view):
    """For people: a paragraph per file."""
    for song in songs:
        name = escaping.terminal(song.file)
        if song.error:
            yield f"{name}\n  failed\n"
            continue
        lines = [
            f"  {value:.2f}  {escaping.terminal(instrument)}"
            for instrument, value in view.shown(song.probabilities)
        ]
        if song.is_silent:
            lines = ["  silent, no instrument"]
        elif not lines:
            instrument, value = view.ranked(song.probabilities)[0]
            instrument = escaping.terminal(instrument)
            lines = [
                f"  nothing from {view.threshold:g} on; the most likely: {instrument} ({value:.2f})"
            ]
        if view.timeline:
            for (start, end), one, silent in song.windows():
                shown = [
                    f"{escaping.terminal(instrument)} {value:.2f}"
                    for instrument, value in view.shown(one)
                ]
                text = "silent" if silent else ", ".join(shown) or "-"
                lines.append(
                    f"    {format_timestamp(start):>7} - {format_timestamp(end):>7}  {text}"
                )
        yield "\n".join([f"{name} ({format_timestamp(song.seconds)})", *lines]) + "\n"


def jsonl(songs, view):
    """A JSON object per file, one a line; {"file", "error"} for one that failed."""
    for song in songs:
        yield escaping.json_line(record(song, view)) + "\n"


def json_list(songs, view):
    """The objects of `jsonl` as one JSON list."""
    start = "[\n"
    for line in jsonl(songs, view):
        yield start + line.rstrip("\n")
        start = ",\n"
    yield "[]\n" if start == "[\n" else "\n]\n"


def csv_rows(songs, view):
    """A row for each file and instrument shown; with the timeline, for each window and instrument.

    A silent file has one row, without an instrument; a failed file has none.
    """
    times = ["start_s", "end_s"] if view.timeline else []
    yield _row(["file", *times, "instrument", "probability", "silent"])
    for song in songs:
        if song.error:
            continue
        if view.timeline:
            rows = [
                [song.file, f"{start:g}", f"{end:g}", *pair, int(silent)]
                for (start, end), one, silent in song.windows()
                for pair in zip(view.classes, _rounded(one))
            ]
        elif song.is_silent:
            rows = [[song.file, "", "", 1]]
        else:
            rows = [[song.file, *pair, 0] for pair in view.shown(song.probabilities)]
        yield "".join(map(_row, rows))


FORMATS = {"table": table, "json": json_list, "csv": csv_rows, "jsonl": jsonl}


def record(song, view):
    """A FilePrediction as plain values."""
    if song.error:
        return {"file": song.file, "error": song.error}
    found = [
        {"instrument": name, "probability": value} for name, value in view.shown(song.probabilities)
    ]
    values = {
        "file": song.file,
        "seconds": round(song.seconds, 3),
        "silent": song.is_silent,
        "instruments": found,
    }
    if view.timeline:
        values["timeline"] = [
            {
                "start_s": start,
                "end_s": end,
                "silent": silent,
                "probabilities": dict(zip(view.classes, _rounded(one))),
            }
            for (start, end), one, silent in song.windows()
        ]
    return values


def format_timestamp(seconds):
    """Hours, minutes and seconds, with tenths where there are some.

    >>> format_timestamp(205), format_timestamp(0.3), format_timestamp(3661.5), format_timestamp(59.99)
    ('3:25', '0:00.3', '1:01:01.5', '1:00')
    """
    tenths = round(float(seconds) * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}:{minutes:02}" if hours else str(minutes)
    return f"{text}:{rest // 10:02}" + (f".{rest % 10}" if rest % 10 else "")


def _rounded(probabilities):
    return [round(float(value), DIGITS) for value in probabilities]


def _row(values):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(map(escaping.csv_cell, values))
    return text.getvalue()
