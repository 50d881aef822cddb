"""Own data: one CSV with a row for each clip and a column for each class, whatever the classes are.

    path         an audio file, relative to the CSV's folder
    start        optional: where in the file the clip of ten seconds begins, in seconds; 0 if empty
    group        optional: what must stay in one split, such as the artist; by default the file
    split        optional: train, test or valid, in every row or in none
    any other    a class: 1 present, 0 absent, a relevance between, or nothing if it is not known

Commas, semicolons or tabs stand between cells, as Excel writes them, with a decimal comma if it
does not separate cells. Text is UTF-8, or UTF-16 (Excel's "Unicode text"). Excel's line `sep=;`,
blank lines and the row index of pandas are skipped. A path may have backslashes, or accents that
are composed in another way than on disk (macOS): the file that exists is taken.

If no row has a split, whole groups are drawn for test until it holds a quarter of the rows, the
proportion of OpenMIC-2018; the draw is seeded and does not depend on the order of rows.
"""

import math
import os
import re
import sys
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from .. import audio, manifest
from ..manifest import Clip
from ..registry import unknown
from . import table

COLUMNS = ("path", "start", "group", "split")
DELIMITERS = ",;\t"
SEPARATOR = re.compile(r'"?sep=([,;|\t])"?')  # Excel's first line, which names the delimiter
TEST_FRACTION, TEST_SEED = 0.25, 20182
BREAKS = ("Cc", "Zl", "Zp")  # Unicode categories that would break a line of a manifest


@dataclass(frozen=True)
class Table:
    """What a CSV says.

    Attributes:
        clips, classes: usable if there are no problems.
        rows: {clip: its row}; the first line of the file is row 1.
        problems: all that is wrong, list of (row or None, reason).
        notes: what was skipped though it is not empty, list of sentences.
    """

    clips: list
    classes: list
    rows: dict
    problems: list
    notes: list


def read(path, relative_to) -> Table:
    """Read an own CSV. What is wrong with its rows is collected, not raised; see `unreadable`.

    Args:
        path: the CSV.
        relative_to: folder that the clips' audio paths shall be relative to.

    Raises:
        ManifestError: it is not text, or not a CSV.
        OSError: it cannot be read.
    """
    (top, header), records, decimal = _records(Path(path))
    columns, problems, notes = _columns(top, header, records)
    classes = [name for name in columns if name not in COLUMNS]
    if not classes:
        problems.append((top, f"no class; expected a column for each, beside {', '.join(COLUMNS)}"))
    if "path" not in columns:
        names = ", ".join(filter(None, header)) or "nothing"
        problems.append((top, f"no column path; found {names}"))
        return Table([], classes, {}, problems, notes)
    folder = Path(path).parent.resolve()
    data = Path(relative_to).resolve()
    clips = []
    rows = {}
    for row, cells in records:  # Excel leaves out delimiters at the end of rows
        texts = {
            name: cells[place] if place < len(cells) else "" for name, place in columns.items()
        }
        clip, wrong = _clip(texts, folder, data, decimal)
        problems += [(row, reason) for reason in wrong]
        if clip.clip in rows:
            problems.append(
                (row, f"the path and start of row {rows[clip.clip]}; expected each once")
            )
        elif clip.clip:
            rows[clip.clip] = row
            clips.append(clip)
    problems += _conflicts(clips, rows)
    if not any(clip.split for clip in clips):
        drawn = manifest.split_validation(
            [replace(clip, split="train") for clip in clips], TEST_FRACTION, TEST_SEED
        )
        clips = [replace(clip, split="test") if clip.split == "valid" else clip for clip in drawn]
    problems += _gaps(clips, classes)
    problems.sort(key=lambda problem: problem[0] or math.inf)
    return Table(clips, classes, rows, problems, notes)


def unreadable(folder, clips, warn=warnings.warn):
    """List the clips whose audio is missing, not audio, damaged, or over before they start.

    Each clip is read as the stage `extract` reads it.

    Args:
        folder: what the clips' audio paths are relative to.
        clips: list of Clip.
        warn: called once with each line about a file that is read otherwise than it is stored.

    Returns:
        list of (clip name, reason).
    """
    lines = []

    def complaint(clip):
        return audio.complaint(Path(folder) / clip.audio, clip.start_s, warn=lines.append)

    with ThreadPoolExecutor() as pool:
        reasons = list(pool.map(complaint, clips))
    for line in dict.fromkeys(lines):  # a file may hold many clips
        warn(line)
    return [(clip.clip, reason) for clip, reason in zip(clips, reasons) if reason]


def _records(path):
    """Split a CSV: (row, cells) of the header, the same of the other rows that are not empty,
    and whether a comma may be a decimal point."""
    text = table.read_text(path)
    start = next((line for line in text.splitlines() if line.strip()), "")
    separator = SEPARATOR.fullmatch(start.strip(" "))
    delimiter = separator[1] if separator else _delimiter(path, text)
    records = [
        (row, cells)
        for row, cells in enumerate(table.read_rows(path, text, delimiter), 1)
        if any(cell.strip() for cell in cells)
    ]
    if separator:
        records = records[1:]
    if not records:
        raise manifest.ManifestError(
            f"{path}: empty; expected a header with path and a column for each class"
        )
    (top, header), *others = records
    return (top, [name.strip() for name in header]), others, delimiter != ","


def _delimiter(path, text):
    """The delimiter that splits the header into the most cells."""

    def width(delimiter):
        try:
            rows = table.read_rows(path, text, delimiter)
        except manifest.ManifestError:
            return 0
        return len(next(filter(any, rows), []))

    return max(DELIMITERS, key=width)


def _columns(top, header, records):
    """({name: place of its cell in a row}, problems, notes); `top`: row of the header."""
    columns = {}
    problems = []
    notes = []
    for place, name in enumerate(header):
        name = name.lower() if name.lower() in COLUMNS else name
        if _is_index(name, place, records):
            notes.append("column 1, which has no name and numbers the rows, is ignored")
        elif not name:
            row = _first_filled(records, place)
            if row is not None:
                found = f"a cell in column {place + 1}, which has no name"
                problems.append((row, f"{found}; expected none, or name the column"))
        elif name in columns:
            problems.append((top, f"column {name!r} comes twice; expected once"))
        elif _breaks(name):
            found = f"column {name!r} has a line break or control character"
            problems.append((top, f"{found}; expected a name in one line"))
        else:
            columns[name] = place
    for row, cells in records:
        if any(cell.strip() for cell in cells[len(header) :]):  # beyond the last column
            found = f"{len(cells)} cells, expected {len(header)}"
            problems.append((row, f"{found}; text with the delimiter in it needs quotes"))
    return columns, problems, notes


def _is_index(name, place, records):
    """Whether a column is the index that pandas writes: the first, unnamed, of distinct numbers."""
    if place > 0 or name not in ("", "Unnamed: 0"):
        return False
    cells = [cells[0].strip() for _, cells in records]
    return all(cell.isdecimal() for cell in cells) and len(set(cells)) == len(cells) > 0


def _first_filled(records, place):
    """The first row that has something in the column at `place`, or None."""
    for row, cells in records:
        if len(cells) > place and cells[place].strip():
            return row
    return None


def _clip(cells, folder, data, decimal):
    """A row, {column: text}, as (Clip, what is wrong with it); a wrong cell counts as empty."""
    path = cells.pop("path")
    own = {name: cells.pop(name, "").strip() for name in COLUMNS[1:]}
    wrong = []
    start = 0.0
    labels = {}
    name = _form_on_disk(folder, os.path.normpath(path)) if path.strip() else ""
    if not name:
        wrong.append("no path")
    elif _is_misread(folder, name):
        wrong.append(
            f"path {name!r} names no file, but file names are read as "
            f"{sys.getfilesystemencoding()} in this locale; set PYTHONUTF8=1 in the environment"
        )
    for what, text in (("path", path), ("group", own["group"])):
        if _breaks(text):
            wrong.append(
                f"{what} {text!r} has a line break or control character; "
                "expected one without, rename it"
            )
    if own["start"]:
        start = _number(own["start"], decimal)
        if start is None or start < 0:
            wrong.append(f"start {own['start']!r}; expected seconds, 0 or more")
            start = 0.0
    if own["split"] and own["split"] not in manifest.SPLITS:
        wrong.append(unknown("split", own["split"], manifest.SPLITS))
    for label, text in cells.items():
        text = text.strip()
        if not text:
            continue
        value = _number(text, decimal)
        if value is not None and 0 <= value <= 1:
            labels[label] = value
        else:
            wrong.append(
                f"{label} is {text!r}; expected 1, 0, a number between, "
                "or nothing if it is not known"
            )
    clip = f"{name}@{start:.15g}" if name and start else name
    return Clip(
        clip,
        own["group"] or name,
        os.path.relpath(folder / name, data),
        start,
        own["split"],
        labels,
    ), wrong


def _form_on_disk(folder, path):
    """The form of `path` that names a file: as it is, with slashes for backslashes, its accents
    composed or decomposed (macOS); as it is if none does."""
    for slashes in (path, path.replace("\\", "/")):
        for form in (
            slashes,
            unicodedata.normalize("NFC", slashes),
            unicodedata.normalize("NFD", slashes),
        ):
            if os.path.isfile(folder / form):
                return os.path.normpath(form)
    return path


def _is_misread(folder, path):
    """Whether `path` may be missing only because this locale does not read file names as UTF-8."""
    utf8 = sys.getfilesystemencoding().lower() == "utf-8"
    return not utf8 and not path.isascii() and not os.path.isfile(folder / path)


def _conflicts(clips, rows):
    """Files with two groups, groups in two splits, splits in some rows only: [(row, reason)]."""
    problems = []
    groups = {}
    splits = {}
    for clip in clips:
        row = rows[clip.clip]
        group, first = groups.setdefault(clip.audio, (clip.group, row))
        if group != clip.group:
            found = f"{clip.clip} is of group {clip.group!r}, the same file in row {first} of"
            problems.append((row, f"{found} {group!r}; expected one for a file"))
        if clip.split not in manifest.SPLITS:
            continue
        split, first = splits.setdefault(clip.group, (clip.split, row))
        if split != clip.split:
            found = f"group {clip.group!r} is in {clip.split}, in row {first} in {split}"
            problems.append((row, f"{found}; expected in one split only"))
    without = [rows[clip.clip] for clip in clips if not clip.split]
    if without and len(without) < len(clips):
        found = f"no split, as in {len(without)} of {len(clips)} rows"
        problems.append((without[0], f"{found}; expected one in every row, or in none"))
    return problems


def _gaps(clips, classes):
    """What training or scoring would lack: [(None, reason)]."""
    if not clips:
        return [(None, "no rows with a path")]
    problems = []
    splits = {clip.split for clip in clips}
    if splits <= set(manifest.SPLITS):
        for split in ("train", "test"):
            if split not in splits:
                expected = "expected both train and test, and three groups or more"
                problems.append((None, f"no row is in {split}; {expected}"))
        problems += [(None, manifest.without_labels(split)) for split in manifest.unlabelled(clips)]
    observed = {name for clip in clips if clip.split == "train" for name in clip.labels}
    for name in classes:
        if name not in observed:
            expected = "give it some, or leave the column out"
            problems.append((None, f"{name} has no label in training; {expected}"))
    return problems


def _number(text, decimal):
    """A finite number, or None. `decimal`: a comma may be its point."""
    try:
        value = float(text.replace(",", ".") if decimal else text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _breaks(text):
    return any(unicodedata.category(character) in BREAKS for character in text)
