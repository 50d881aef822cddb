"""Own data: one CSV with a row for each clip and a column for each class, whatever the classes are.

    path         an audio file, relative to the CSV's folder
    start        optional: where in the file the clip of ten seconds begins, in seconds; 0 where empty
    group        optional: what must stay in one split, such as the artist; where empty each file is its own
    split        optional: train, test or valid, in every row or in none
    any other    a class: 1 present, 0 absent, a relevance between, or nothing where it is not known

Commas, semicolons or tabs stand between cells, as Excel writes them: then with a decimal comma where cells are divided otherwise.
Text is UTF-8, or UTF-16 (Excel's "Unicode text"). Where no row has a split, whole groups are drawn for test until it
holds a quarter of the rows, the proportion of OpenMIC-2018; the draw is seeded and does not depend on the order of rows.
"""

import codecs
import csv
import io
import math
import os
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from .. import audio, manifest
from ..manifest import Clip, ManifestError
from ..rooms import unknown

COLUMNS = ("path", "start", "group", "split")
DELIMITERS = ",;\t"
TEST_FRACTION, TEST_SEED = 0.25, 20182
BREAKS = ("Cc", "Zl", "Zp")  # Unicode categories that would break a line of a manifest


@dataclass(frozen=True)
class Table:
    """What a CSV says: clips, class names, {clip: its row}, and all that is wrong: list of (row or None, reason). The header is row 1."""

    clips: list
    classes: list
    rows: dict
    problems: list


def read(path, relative_to):
    """Read an own CSV. What is wrong with its rows is collected, not raised; audio is not looked at (see `unreadable`).

    Args:
        path: the CSV.
        relative_to: folder that the clips' audio paths shall be relative to.

    Returns:
        Table; its clips are usable where there are no problems.

    Raises:
        ManifestError: it is not text, or not a CSV.
        OSError: it cannot be read.
    """
    header, records, decimal = _records(Path(path))
    columns, problems = _columns(header, records)
    classes = [name for name in columns if name not in COLUMNS]
    if not classes:
        problems.append((1, f"no class; expected a column for each, beside {', '.join(COLUMNS)}"))
    if "path" not in columns:
        found = ", ".join(filter(None, header)) or "nothing"
        return Table([], classes, {}, [*problems, (1, f"no column path; found {found}")])
    folder, data, clips, rows = Path(path).parent.resolve(), Path(relative_to).resolve(), [], {}
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
    return Table(clips, classes, rows, sorted(problems, key=lambda problem: problem[0] or math.inf))


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
    """(cells of the header, [(row, cells)] of the rows that are not empty, whether a decimal comma is possible)."""
    data = path.read_bytes()
    try:
        text = data.decode(
            "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        )
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{path}: found no UTF-8 text, expected a CSV; from Excel, save it as 'CSV UTF-8'"
        ) from error

    def reader(delimiter):
        return csv.reader(
            io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
        )

    def width(delimiter):
        try:
            return len(next(reader(delimiter), []))
        except csv.Error:
            return 0

    delimiter = max(DELIMITERS, key=width)
    try:
        records = list(enumerate(reader(delimiter), 1))
    except csv.Error as error:
        raise ManifestError(
            f"{path}: not a CSV ({error}); expected quotes around whole cells, doubled inside"
        ) from error
    if not records:
        raise ManifestError(
            f"{path}: empty; expected a header with path and a column for each class"
        )
    return (
        [name.strip() for name in records[0][1]],
        [(row, cells) for row, cells in records[1:] if any(map(str.strip, cells))],
        delimiter != ",",
    )


def _columns(header, records):
    """({name: place of its cell in a row}, problems)."""
    columns, problems = {}, []
    for place, name in enumerate(header):
        name = name.lower() if name.lower() in COLUMNS else name
        if not name:
            if row := next(
                (row for row, cells in records if len(cells) > place and cells[place].strip()), None
            ):
                problems.append(
                    (
                        row,
                        f"a cell in column {place + 1}, which has no name; expected none, or name the column",
                    )
                )
        elif name in columns:
            problems.append((1, f"column {name!r} comes twice; expected once"))
        elif _breaks(name):
            problems.append(
                (
                    1,
                    f"column {name!r} has a line break or control character; expected a name in one line",
                )
            )
        else:
            columns[name] = place
    for row, cells in records:
        if any(map(str.strip, cells[len(header) :])):  # beyond the last column
            problems.append(
                (
                    row,
                    f"{len(cells)} cells, expected {len(header)}; text with the delimiter in it needs quotes",
                )
            )
    return columns, problems


def _clip(cells, folder, data, decimal):
    """A row, {column: text}, as (Clip, what is wrong with it); a cell that is wrong counts as empty."""
    path, wrong, start, labels = cells.pop("path"), [], 0.0, {}
    own = {name: cells.pop(name, "").strip() for name in COLUMNS[1:]}
    name = os.path.normpath(path) if path.strip() else ""
    if not name:
        wrong.append("no path")
    for what, text in (("path", path), ("group", own["group"])):
        if _breaks(text):
            wrong.append(
                f"{what} {text!r} has a line break or control character; expected one without, rename it"
            )
    if own["start"]:
        start = _number(own["start"], decimal)
        if start is None or start < 0:
            wrong.append(f"start {own['start']!r}; expected seconds, 0 or more")
            start = 0.0
    if own["split"] and own["split"] not in manifest.SPLITS:
        wrong.append(unknown("split", own["split"], manifest.SPLITS))
    for label, text in cells.items():
        if text := text.strip():
            value = _number(text, decimal)
            if value is not None and 0 <= value <= 1:
                labels[label] = value
            else:
                wrong.append(
                    f"{label} is {text!r}; expected 1, 0, a number between, or nothing where it is not known"
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


def _conflicts(clips, rows):
    """Files with two groups, groups in two splits, and splits that only some rows have: [(row, reason)]."""
    problems, groups, splits = [], {}, {}
    for clip in clips:
        row = rows[clip.clip]
        group, first = groups.setdefault(clip.audio, (clip.group, row))
        if group != clip.group:
            problems.append(
                (
                    row,
                    f"{clip.clip} is of group {clip.group!r}, the same file in row {first} of {group!r}; expected one for a file",
                )
            )
        if clip.split not in manifest.SPLITS:
            continue
        split, first = splits.setdefault(clip.group, (clip.split, row))
        if split != clip.split:
            problems.append(
                (
                    row,
                    f"group {clip.group!r} is in {clip.split}, in row {first} in {split}; expected in one split only",
                )
            )
    without = [rows[clip.clip] for clip in clips if not clip.split]
    if without and len(without) < len(clips):
        problems.append(
            (
                without[0],
                f"no split, as in {len(without)} of {len(clips)} rows; expected one in every row, or in none",
            )
        )
    return problems


def _gaps(clips, classes):
    """What training or scoring would lack: [(None, reason)]."""
    if not clips:
        return [(None, "no rows with a path")]
    splits = {clip.split for clip in clips}
    lacking = (
        [split for split in ("train", "test") if split not in splits]
        if splits <= set(manifest.SPLITS)
        else []
    )
    problems = [
        (None, f"no row is in {split}; expected both train and test, and three groups or more")
        for split in lacking
    ]
    observed = {name for clip in clips if clip.split == "train" for name in clip.labels}
    problems += [
        (None, f"{name} has no label in training; give it some, or leave the column out")
        for name in classes
        if name not in observed
    ]
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
